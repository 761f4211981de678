"""The worker's process: `python -m phi3kit.worker FOLDER --wrapper onnx --model-uri models:/… [--host H] [--port P] [--managed]`.

Managed: the first line on stdout is {"port": …}; the worker ends when its stdin closes (its parent is gone) or when no
request came for PHI3KIT_IDLE_SECONDS. Knows sockets, keys and when to end. Knows no routes.
"""

import argparse
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from threading import Thread

import uvicorn

from phi3kit.access.keys import KeyStore
from phi3kit.access.people import role_of_key
from phi3kit.access.same_origin import ServedNames
from phi3kit.core.data_folder import keep_private, keep_temporary_files
from phi3kit.core.errors import Phi3KitError, SettingInvalid, WorkerFailed
from phi3kit.core.loopback import check_listening, is_loopback
from phi3kit.core.machine import is_out_of_memory, keep_loaded_out_of_collections
from phi3kit.core.records import WRAPPERS
from phi3kit.core.redaction import hide_in_logs
from phi3kit.core.secret import revealed
from phi3kit.core.settings import Settings, read_settings
from phi3kit.worker.app import WorkerConfig, create_app
from phi3kit.worker.connections import server_for
from phi3kit.worker.engine import Engine
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.loading import load_model, threads_for
from phi3kit.worker.request_checks import Keys, LastRequest
from phi3kit.worker.runtime import Runtime


def main() -> int:
    """Serve until told to stop; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m phi3kit.worker")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrapper", choices=WRAPPERS, required=True)
    parser.add_argument("--model-uri", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--managed", action="store_true")
    arguments = parser.parse_args()
    keep_private()
    hide_in_logs(os.environ)
    try:
        return _serve(arguments)
    except Phi3KitError as error:
        print(f"phi3kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _serve(arguments: argparse.Namespace) -> int:
    # 1. What may be refused, before anything is loaded.
    settings = read_settings()
    keep_temporary_files(settings.home)
    keys = _keys(settings, arguments.host, managed=arguments.managed)
    names = ServedNames.read(() if arguments.managed else settings.host_names)  # its app asks it by address
    listener = _listen(arguments.host, arguments.port)
    port = listener.getsockname()[1]
    # 2. The model, which the engine loads in its thread, and the routes before it.
    # transformers imports scipy where it finds it, for losses that no worker computes: 37 MB. None says it is not there.
    sys.modules["scipy"] = None  # type: ignore[assignment]
    # A thread that needs Python's lock gets it after 1 ms and not 5: the engine needs it several times a token.
    sys.setswitchinterval(0.001)
    folder, wrapper, model_uri = arguments.folder, arguments.wrapper, arguments.model_uri
    threads = threads_for(folder, settings.threads)
    budget_mb, shared_system, home = settings.kv_budget_mb, settings.shared_system, settings.home

    def load() -> tuple[Runtime, KvCache]:
        loaded = load_model(folder, wrapper, threads.count, budget_mb, shared_system, home)
        keep_loaded_out_of_collections()  # which a request with many small parts makes: a fifth of a second with torch
        return loaded

    engine = Engine(load, settings.max_queue, several_users=settings.profile != "local")
    last_request = LastRequest()
    app = create_app(WorkerConfig(folder, wrapper, model_uri, names, keys, threads, settings), engine, last_request)
    server = server_for(app)
    # 3. Say where it listens, and watch for the reasons to end.
    if arguments.managed:
        print(json.dumps({"port": port}), flush=True)
        Thread(target=_end_with_parent, args=(server,), daemon=True).start()
        Thread(target=_end_when_idle, args=(server, last_request, engine, settings.idle_seconds), daemon=True).start()
    else:
        print(f"Serving {model_uri} ({wrapper}) at http://{arguments.host}:{port}/v1", flush=True)
        _start_writer(settings)
    Thread(target=_end_on_failure, args=(server, engine), daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    # 4. Serve.
    try:
        server.run(sockets=[listener])
    except RuntimeError as error:
        # asyncio ends its threads by one more, for which there may be no memory. Then the engine says what happened.
        if not (engine.failure and is_out_of_memory(error)):
            raise
    if engine.failure:
        raise engine.failure
    return 0


def _keys(settings: Settings, host: str, *, managed: bool) -> Keys:
    """The keys that are accepted; a managed worker has its app's alone. Raises SettingInvalid or StorageFailed."""
    own = revealed(settings.api_key)
    if managed:
        return Keys(own, None, required=settings.api_key is not None, managed=True)
    users = KeyStore(settings.home)
    beyond = not is_loopback(host)
    if beyond and settings.api_key is None and not users.any_live():
        raise SettingInvalid(
            what=f"The worker will not listen on {host} without a key.",
            why="Anyone who reaches this machine could use it.",
            next_step="Set PHI3KIT_API_KEY, create a key with phi3kit keys create, or leave out --host.",
        )
    check_listening(host, settings.profile)
    required = beyond or settings.api_key is not None or settings.profile == "team"
    return Keys(own, users, required, role_of=lambda user: role_of_key(user, settings))


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise WorkerFailed(
            what=f"The worker cannot listen on {host}:{port}.",
            why=f"{getattr(error, 'strerror', None) or error}.",
            next_step="Choose another --port, or stop the program that uses this one.",
        ) from error


def _start_writer(settings: Settings) -> None:
    """Write turns to MLflow: beside a worker in the foreground there is no app that does."""
    from phi3kit.usage.writer import UsageWriter

    UsageWriter(settings).start()


def _end_with_parent(server: uvicorn.Server) -> None:
    """The parent holds the other end of stdin: it closes when the parent ends, however it ends."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True


def _end_when_idle(server: uvicorn.Server, last_request: LastRequest, engine: Engine, idle_seconds: int) -> None:
    while engine.state == "loading":
        time.sleep(0.1)
    last_request.note()
    while engine.active or engine.waiting or last_request.idle_s < idle_seconds:
        time.sleep(0.5)
    server.should_exit = True


def _end_on_failure(server: uvicorn.Server, engine: Engine) -> None:
    while engine.state != "failed":
        time.sleep(0.05 if engine.state == "loading" else 0.5)
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())

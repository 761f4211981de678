"""Warm Python: children of the tests are forked from a process that has imported the libraries and the kit once.

Knows how `subprocess.Popen` starts a child on Linux, and how Python runs `-m`, `-c` and a script. Knows nothing of what a
child does. Elsewhere than on Linux, for other commands and inside `cold()`, children start as usual; and so does code that a test
gives to `-c`, for that is mostly about what is imported, or about a machine without the kit. The kit's own has `-P` before it,
and that of pytest-xdist's processes `-u`: they are forked too, so that one import serves the whole run.

A child is a real child of the process that asked for it, with its own pid, environment, folder and streams: the template
forks twice, and the orphan goes to the nearest process above that takes orphans in (PR_SET_CHILD_SUBREAPER). A child that
starts children itself (an app, the command line, a process of the tests) gets a template of its own, forked before its first
thread.
"""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_ROOT = Path(__file__).resolve().parents[2]
_HEAVY = (
    "numpy", "pandas", "pyarrow", "pyarrow.parquet", "mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking.fluent", "fastapi", "uvicorn", "httpx2", "psutil", "prometheus_client", "huggingface_hub", "yaml",
    "onnx", "onnx_ir", "torch", "transformers", "transformers.models.phi3.modeling_phi3", "transformers.models.auto.modeling_auto",
    "mlflow.transformers", "streamlit.web.cli", "streamlit.web.bootstrap", "plotly.graph_objects",
)  # fmt: skip
# Read while those are imported: as the kit's own processes have it.
_BEFORE_IMPORTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "PYTHONPATH": "",
}
_START_CHILDREN = (
    "phi3kit", "phi3kit.worker", "phi3kit.deployment.supervisor", "streamlit", "mlflow", "tests.support.asking_app", "tests.support.small_files",
)  # fmt: skip
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36  # of prctl(2)
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # of madvise(2)
_NAME = "warm-template"  # 15 bytes at most

ColdPopen = subprocess.Popen
_execve = os.execve
_cold = False
_own: tuple[socket.socket, int] | None = None  # of a child that starts children: its template, and that one's pid


@dataclass(frozen=True)
class _Job:
    """What a child runs. argv: behind the interpreter's name, so that it begins with -m, -c or a script's path."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    new_session: bool
    file_bytes: list[int]  # no file may become bigger; the system's two limits, as whoever asks has them


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Inside, this process' children start from nothing: for what a test says of their memory, or of what they import."""
    global _cold
    before, _cold = _cold, True
    try:
        yield
    finally:
        _cold = before


def is_template(pid: int) -> bool:
    """Whether a process is a template, which no test asked for."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == _NAME
    return False


def install() -> None:
    """From now on this process' children are warm. The template starts with the first of them."""
    if sys.platform == "linux" and os.environ.get("PHI3KIT_TEST_COLD") != "1":
        _take_orphans_in()
        subprocess.Popen = _popen_on(_Template(_own[0] if _own else None), "-m")  # type: ignore[misc]


class _Template:
    """The other end of a template's socket."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        self._connection = connection
        self._one_at_a_time = threading.Lock()

    def start(self, job: _Job, streams: list[int]) -> int:
        """A new child's pid."""
        with self._one_at_a_time:
            if self._connection is None:
                self._connection = _start_template()
            try:
                _send(self._connection, vars(job), streams)
                said, _ = _receive(self._connection)
            except (EOFError, OSError) as error:
                raise RuntimeError("The template of warm Python has ended: it wrote why on stderr.") from error
        return int(said["pid"])


def _popen_on(template: _Template, *kinds: str) -> type:
    class WarmPopen(ColdPopen):  # type: ignore[type-arg]
        """Starts what is Python's by the template, and all else as usual."""

        def _execute_child(self, *given: Any) -> None:
            asked = inspect.signature(ColdPopen._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
            command = [asked["args"]] if isinstance(asked["args"], str) else [os.fspath(each) for each in asked["args"]]
            environment = dict(os.environ if asked["env"] is None else asked["env"])
            if script := _mlflows_script(command[0], environment.get("PATH")):
                command[:1] = [sys.executable, script]
            kind = command[1] if len(command) > 1 else ""
            known_code = command[1:3] in (["-P", "-c"], ["-u", "-c"])
            warm = command[0] == sys.executable and (kind in kinds or kind.endswith((".py", "/mlflow")) or known_code)
            odd = asked["shell"] or asked["preexec_fn"] or asked["pass_fds"] or not asked["close_fds"]
            if _cold or odd or not warm or asked["process_group"] not in (-1, None):
                super()._execute_child(*given)  # type: ignore[misc]
                return
            folder = os.path.abspath(asked["cwd"] or ".")
            os.stat(folder)  # as the usual way, it raises when there is none
            ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
            streams = [number if end == -1 else end for number, end in enumerate(ends)]
            limits = list(resource.getrlimit(resource.RLIMIT_FSIZE))
            job = _Job(command[1:], environment, folder, asked["start_new_session"], limits)
            self.pid = template.start(job, streams)
            self._child_created = True
            names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(asked[name] for name in names))  # type: ignore[attr-defined]

    return WarmPopen


def _mlflows_script(program: str, path: str | None) -> str | None:
    """MLflow's command where it is this Python's: pip wrote it as a script."""
    found = shutil.which(program, path=path) if Path(program).name == "mlflow" else None
    return found if found and Path(found).parent == Path(sys.executable).parent else None


def _take_orphans_in() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _be_called(name: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _start_template() -> socket.socket:
    ours, theirs = socket.socketpair()
    environment = {**os.environ, **_BEFORE_IMPORTS}
    with theirs:
        ColdPopen(
            [sys.executable, "-m", "tests.support.warm_python", str(theirs.fileno())],
            cwd=_ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return ours


def _send(connection: socket.socket, said: dict[str, Any], descriptors: list[int] | None = None) -> None:
    body = json.dumps(said).encode()
    head = len(body).to_bytes(4, "big")
    if descriptors:
        socket.send_fds(connection, [head], descriptors)
    else:
        connection.sendall(head)
    connection.sendall(body)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A message and its descriptors; raises EOFError when the other end is gone."""
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    body = b""
    length = int.from_bytes(head, "big")
    while head and len(body) < length:
        piece = connection.recv(length - len(body))
        if not piece:
            break
        body += piece
    if not head or len(body) < length:
        raise EOFError
    return json.loads(body), list(descriptors)


def _serve(connection: socket.socket) -> NoReturn:
    """Fork a child a message, until nobody asks any more. The children run and end in here too."""
    _be_called(_NAME)
    while True:
        try:
            said, streams = _receive(connection)
        except (EOFError, OSError):
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if child := os.fork():
                try:
                    os.write(write, str(child).encode())
                finally:  # also when the template was killed meanwhile: the child waits for this end
                    os._exit(0)
            for each in (read, write, connection.detach()):
                os.close(each)
            while os.getppid() == between:  # an orphan from here on, and adopted
                time.sleep(0.001)
            _become_child(_Job(**said), streams)
        os.waitpid(between, 0)
        pid = int(os.read(read, 32))
        for each in (read, write, *streams):
            os.close(each)
        _send(connection, {"pid": pid})


def _become_child(job: _Job, streams: list[int]) -> NoReturn:
    """Take the child's streams, and run its job."""
    _be_called("python")
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if job.new_session:
        os.setsid()
    resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_bytes[0], job.file_bytes[1]))
    os.execve = _go_on_as
    _run(job)


def _go_on_as(path: str, argv: list[str], environment: dict[str, str]) -> NoReturn:
    """os.execve of a child: where the other program is a module, this process runs that too."""
    if path != sys.executable or "-m" not in argv[1:3]:
        _execve(path, argv, environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _run(_Job(argv[1:], environment, os.getcwd(), False, list(resource.getrlimit(resource.RLIMIT_FSIZE))))


def _run(job: _Job) -> NoReturn:
    """Take a job's environment and folder, and run its module or code to the end of this process."""
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    time.tzset()
    random.seed()
    importlib.reload(sys.modules["huggingface_hub.constants"])  # it has read the template's environment
    option = job.argv[0] if job.argv[0] in ("-P", "-u") else ""
    argv = job.argv[1:] if option else job.argv
    kind, name, *rest = argv if argv[0] in ("-m", "-c") else ("script", *argv)
    global _own
    if _own is None and (kind == "script" or option == "-u" or (kind == "-m" and name in _START_CHILDREN)):
        _take_orphans_in()
        _own = _fork_template()
        subprocess.Popen = _popen_on(_Template(_own[0]), "-m", "-c")  # type: ignore[misc]
    path = [each for each in job.environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    first = {"-c": "", "-m": job.folder}.get(kind, os.path.dirname(os.path.abspath(name)))
    sys.path[:] = [*([] if option == "-P" else [first]), *path, *_PATH]
    sys.argv = [name if kind == "script" else kind, *rest]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        if kind == "-m":
            runpy._run_module_as_main(name)  # type: ignore[attr-defined]
        elif kind == "script":
            runpy.run_path(name, run_name="__main__")
        else:
            exec(compile(name, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for each in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            each.flush()
    if _own:
        _own[0].close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(_own[1], 0)  # or it would be a zombie of whoever takes it in
    if code == -signal.SIGINT:  # as Python does it, so that its parent knows
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 255)


def _fork_template() -> tuple[socket.socket, int]:
    """A template of this child's own, which holds none of its streams and ends with it; the template's pid."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        with open(os.devnull, "r+b", buffering=0) as nothing:
            for number in range(3):
                os.dup2(nothing.fileno(), number)
        _serve(theirs)
    theirs.close()
    return ours, pid


def _import_all() -> None:
    gc.disable()  # what is imported stays; looking for garbage among it takes a third of the time
    sys.modules["scipy"] = None  # type: ignore[assignment]  # as a worker has it
    for name in (*_HEAVY, *_parts_of_the_kit()):
        importlib.import_module(name)
    for name in ("made_tables", "no_disk_waits", "shared_certificates"):
        importlib.import_module(f"tests.support.{name}").install()
    _let_uvloop_use_popen()
    del sys.modules["scipy"]
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.enable()
    gc.freeze()  # a collection would touch, and so copy, what the children share
    _ask_for_big_pages()


def _let_uvloop_use_popen() -> None:
    """A worker's loop starts its children as asyncio's own does, which is by `subprocess.Popen`."""
    import uvloop

    usual = asyncio.SelectorEventLoop
    for name in ("subprocess_exec", "_make_subprocess_transport", "_child_watcher_callback"):
        setattr(uvloop.Loop, name, getattr(usual, name))
    uvloop.Loop._debug = False  # read by the first of them


def _ask_for_big_pages() -> None:
    """Have this process' memory in pages of 2 MB where the kernel can: a fork copies their table in a third of the time."""
    size, writable_and_no_file = 1 << 21, re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.. \S+ \S+ 0\s+(\[heap\])?\n")
    for start, end in [
        each.groups()[:2] for each in writable_and_no_file.finditer(Path("/proc/self/maps").read_text())
    ]:
        first, last = -(-int(start, 16) // size) * size, int(end, 16) // size * size
        if first < last:
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _parts_of_the_kit() -> list[str]:
    """All but what needs a running Streamlit, Spark or Azure, starts threads (ONNX Runtime does), or is a program."""
    left_out = (
        "embedded",
        "ui",
        "azure_files",
        "spark",
        "onnx_graph",
        "runtime_onnx",
        "__main__",
        "onnx_wrapper",
        "supervisor",
    )
    parts = [path.relative_to(_ROOT).with_suffix("").parts for path in sorted((_ROOT / "phi3kit").rglob("*.py"))]
    return [".".join(each) for each in parts if not {*each} & {*left_out, "__init__"}]


_PATH = sys.path[1:]  # without this module's folder

if __name__ == "__main__":
    sys.modules["tests.support.warm_python"] = sys.modules["__main__"]  # a process of the tests imports it by its name
    _import_all()
    _serve(socket.socket(fileno=int(sys.argv[1])))

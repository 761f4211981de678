"""Recipes: how to serve a logged model, as commands and files to copy.

Knows phi3kit's and MLflow's command lines, systemd and the shell. Runs nothing. Tests run every command as it is shown;
what needs root or a container engine is only checked.
"""

import getpass
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phi3kit.core.errors import RequestInvalid
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import INSTALLED, PROJECT_ROOT, Settings
from phi3kit.deployment.servers import TIMEOUT_S, serve_command
from phi3kit.packaging.wrappers.check import MESSAGES_INPUT, PROMPT_INPUT
from phi3kit.tracking.model_uris import is_plain

Syntax = Literal["bash", "ini", "yaml", "dockerfile", "text"]
Needs = Literal["", "docker", "root"]

UNIT = "phi3kit-worker.service"
_UNIT_ESCAPES = {"\\": "\\\\", '"': '\\"', "%": "%%"}
_KEY_FILE = "/etc/phi3kit/worker.env"


@dataclass(frozen=True)
class RecipeStep:
    """One command."""

    what: str
    command: str  # for bash, in the shell of the steps before it
    serves: bool = False  # runs until it is ended: the next step needs another shell
    needs: Needs = ""


@dataclass(frozen=True)
class RecipeFile:
    """One file to save."""

    name: str
    syntax: Syntax
    text: str


@dataclass(frozen=True)
class Recipe:
    """One way to serve a model."""

    title: str
    sentence: str
    steps: tuple[RecipeStep, ...]
    files: tuple[RecipeFile, ...] = ()
    notes: tuple[str, ...] = ()


def worker(model_uri: str, port: int, settings: Settings) -> Recipe:
    """phi3kit's own worker in the foreground."""
    serve = shlex.join(["python", "-m", "phi3kit", "serve", plain(model_uri), "--port", str(port)])
    messages = json.dumps({**MESSAGES_INPUT, "max_tokens": 64})
    return Recipe(
        "phi3kit serve",
        "OpenAI's protocol with streaming, stop, seed and token counts; every turn is logged and charted on Usage.",
        (
            shell(settings),
            RecipeStep("Serve on this machine", serve, serves=True),
            RecipeStep("Ask, in another shell", _curl(port, "/v1/chat/completions", messages)),
        ),
        notes=(
            "For other machines set PHI3KIT_PROFILE=team and PHI3KIT_API_KEY, add --host 0.0.0.0, and send Authorization: Bearer KEY.",
            "An alias is resolved when the worker starts. Restart the worker after the alias has moved.",
        ),
    )


def scoring_server(model_uri: str, wrapper: WrapperName, port: int, settings: Settings) -> Recipe:
    """MLflow's own scoring server."""
    return Recipe(
        "mlflow models serve",
        "MLflow's scoring protocol, as any MLflow client expects it; needs no phi3kit where it runs.",
        (
            shell(settings),
            RecipeStep("Serve on this machine", shlex.join(serve_command(plain(model_uri), port)), serves=True),
            RecipeStep("Ask, in another shell", _curl(port, "/invocations", json.dumps(native_input(wrapper)))),
        ),
        notes=(
            "It does not stream, has no /v1 routes and asks for no key: keep it on this machine or behind a proxy.",
            f"Without --timeout a request ends after 60 s; here it may take {TIMEOUT_S} s.",
            "Always send the content type: without it MLflow answers 500. With another environment than this one, "
            "leave out --env-manager local: MLflow then installs the model's own pins.",
        ),
    )


def image(model_uri: str, wrapper: WrapperName, port: int, settings: Settings) -> Recipe:
    """An image of MLflow's scoring server."""
    name, model_uri = f"phi3-{wrapper}", plain(model_uri)
    folder = f"{name}-image"
    return Recipe(
        "mlflow models build-docker",
        "An image with the model and its pinned packages inside, for any container platform.",
        (
            shell(settings),
            RecipeStep("Review what will be built", shlex.join(
                ["mlflow", "models", "generate-dockerfile", "--model-uri", model_uri, "--output-directory", folder]
            )),
            RecipeStep("Build the image", shlex.join(
                ["mlflow", "models", "build-docker", "--model-uri", model_uri, "--name", name]
            ), needs="docker"),
            RecipeStep("Run it", f"docker run --rm --publish 127.0.0.1:{port}:8080 {name}", serves=True, needs="docker"),
            RecipeStep("Ask, in another shell", _curl(port, "/invocations", json.dumps(native_input(wrapper))), needs="docker"),
        ),
        notes=("The image takes PyPI's packages: for the transformers wrapper that is a torch of several GB.",),
    )  # fmt: skip


def unit(model_uri: str, port: int, settings: Settings) -> Recipe:
    """A systemd unit around phi3kit's worker."""
    folder = str(settings.home if INSTALLED else PROJECT_ROOT).replace("%", "%%")
    model_uri = plain(model_uri)
    text = f"""[Unit]
Description=phi3kit worker for {model_uri}
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User={getpass.getuser()}
WorkingDirectory={folder}
Environment={_in_unit(f"PHI3KIT_HOME={settings.home}")}
Environment={_in_unit(f"MLFLOW_TRACKING_URI={shown_store(settings)}")}
EnvironmentFile=-{_KEY_FILE}
ExecStart={_in_unit(sys.executable).replace("$", "$$")} -m phi3kit serve {model_uri} --host 127.0.0.1 --port {port}
Restart=on-failure
RestartSec=5
TimeoutStopSec=10
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""
    return Recipe(
        "systemd",
        "phi3kit's worker as a Linux service: it starts at boot and restarts after a crash.",
        (
            RecipeStep("Check the file", f"systemd-analyze verify ./{UNIT}"),
            RecipeStep("Install and start it", f"sudo cp {UNIT} /etc/systemd/system/\nsudo systemctl daemon-reload\n"
                 f"sudo systemctl enable --now {UNIT}", needs="root"),
            RecipeStep("Check its status", f"systemctl status {UNIT}\njournalctl --unit {UNIT} --lines 50", needs="root"),
        ),
        (RecipeFile(UNIT, "ini", text),),
        (
            f"A key goes into {_KEY_FILE} as PHI3KIT_API_KEY=…, readable by root only; with PHI3KIT_PROFILE=team there, --host "
            "may be another one.",
        ),
    )  # fmt: skip


def shell(settings: Settings) -> RecipeStep:
    """The environment in which a shell runs the commands of this app."""
    lines = [
        *([] if INSTALLED else [f"cd {shlex.quote(str(PROJECT_ROOT))}"]),
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"',
        f"export PHI3KIT_HOME={shlex.quote(str(settings.home))}",
        f"export MLFLOW_TRACKING_URI={shlex.quote(shown_store(settings))}",
    ]
    return RecipeStep("Run once in each shell", "\n".join(lines))


def shown_store(settings: Settings) -> str:
    """The tracking URI for pages, with PASSWORD in place of a password."""
    return settings.tracking_uri.shown("PASSWORD")


def native_input(wrapper: WrapperName) -> dict[str, object]:
    """A request for the wrapper's own signature."""
    return dict(MESSAGES_INPUT if wrapper == "transformers" else PROMPT_INPUT)


def plain(model_uri: str) -> str:
    """The URI itself. Raises RequestInvalid for one that a shell or a file could read as more than a name."""
    if not is_plain(model_uri):
        raise RequestInvalid(
            f"{model_uri!r} cannot be used in a file.",
            "A name there can have only letters, digits, dots, hyphens and underscores.",
            "Take the model's own URI (models:/m-…), or register it under another name.",
            param="model_uri",
        )
    return model_uri


def _curl(port: int, path: str, body: str) -> str:
    content = "-H 'Content-Type: application/json'"
    return f"curl -sS http://127.0.0.1:{port}{path} {content} -d {shlex.quote(body)}"


def _in_unit(word: str) -> str:
    """A word of a unit file.

    Source: systemd.syntax(7), "Quoting": double quotes with C's escapes; systemd.unit(5), "Specifiers": %% is a percent
    sign. In ExecStart a dollar sign is doubled as well (systemd.service(5), "Command lines").
    """
    escaped = "".join(_UNIT_ESCAPES.get(char) or (char if char.isprintable() else _escaped(char)) for char in word)
    return f'"{escaped}"' if escaped != word.replace("%", "%%") or any(char in word for char in " ';#") else escaped


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))

"""Every command that the Deploy page shows, run as it is shown; every file that it offers, checked.

Left out: what needs root or a container engine. Its files are parsed, and what they run is run without them.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.deployment import compose, recipes
from phi3kit.deployment.recipes import Recipe, RecipeStep
from phi3kit.deployment.servers import free_port
from phi3kit.endpoints.records import Request
from phi3kit.tracking import registry as registry
from phi3kit.tracking.logged_models import LoggedModel, list_models
from tests.conftest import Built, settings_for
from tests.conversations.test_request_snippets import FOLLOW_UP, HARD_ONE, of, run
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for_server

ANSWER = "The capital of Spain is Madrid."


@pytest.fixture(scope="module")
def settings(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store in which both wrappers are registered, with an alias."""
    copied = copy_of_store(built.settings, tmp_path_factory.mktemp("deploy"))
    for wrapper in WRAPPERS:
        registry.register(built.uri(wrapper), f"phi3-{wrapper}", ADMIN, copied, aliases=["champion"])
    return copied


def bash(script: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A shell as a person opens it: it knows nothing of this test's environment."""
    return subprocess.Popen(
        ["bash", "-euc", script],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def serving(script: str, port: int, folder: Path, **environment: str) -> Iterator[None]:
    """A command that serves, until the block ends."""
    process = bash(script, folder, **environment)

    try:
        wait_for_server(f"http://127.0.0.1:{port}/health", process, lambda: process.communicate()[0])
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=300)


def run_as_shown(
    recipe: Recipe, port: int, folder: Path, settings: Settings, also: Callable[[], None] = lambda: None
) -> str:
    """Type the steps of a recipe; the output of the last one. also: done while it serves."""
    prepare = recipes.shell(settings).command
    server = next((step.command for step in recipe.steps if step.serves), None)
    ask = recipe.steps[-1].command
    assert server is not None
    with serving(f"{prepare}\n{server}", port, folder):
        done = bash(ask, folder)
        output, _ = done.communicate(timeout=300)
        assert done.returncode == 0, output
        also()
    return output


class TestServers:
    def test_phi3kit_serve_answers_the_call_that_is_shown(self, settings: Settings, tmp_path: Path) -> None:
        port = free_port()
        recipe = recipes.worker("models:/phi3-onnx@champion", port, settings)  # its commands are those of any wrapper
        answer = json.loads(run_as_shown(recipe, port, tmp_path, settings))
        assert answer["choices"][0]["message"]["content"].strip() == ANSWER

    @pytest.mark.parametrize("wrapper", ["onnx", pytest.param("transformers", marks=pytest.mark.slow)])
    def test_mlflow_models_serve_answers_the_calls_that_are_shown_here_and_beside_an_answer(
        self, built: Built, settings: Settings, wrapper: WrapperName, tmp_path: Path
    ) -> None:
        port = free_port()

        def text(output: str) -> str:
            (answer,) = json.loads(output)
            return str(answer if wrapper == "onnx" else answer["choices"][0]["message"]["content"])

        def snippets() -> None:
            def asked(request: Request) -> str:
                code = of("curl (/invocations)", request, wrapper, built, scoring=f"http://127.0.0.1:{port}")
                return text(run(code, tmp_path))

            assert asked(FOLLOW_UP) == "The capital of France is Paris."
            assert asked(HARD_ONE)

        recipe = recipes.scoring_server(f"models:/phi3-{wrapper}/1", wrapper, port, settings)
        assert text(run_as_shown(recipe, port, tmp_path, settings, snippets)).strip() == ANSWER

    def test_a_password_of_the_store_is_not_shown(self, tmp_path: Path) -> None:
        settings = settings_for(tmp_path, MLFLOW_TRACKING_URI="postgresql://ada:s3cr3t@db.example:5432/mlflow")
        shown = [recipes.worker("models:/phi3/1", 8000, settings), recipes.unit("models:/phi3/1", 8000, settings)]
        assert "s3cr3t" not in str(shown)
        assert "postgresql://ada:PASSWORD@db.example:5432/mlflow" in str(shown)


INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "EXPOSE", "CMD", "ENTRYPOINT"}


def dockerfile_lines(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) of each line of a Dockerfile, continued ones put together."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


class TestImage:
    @pytest.mark.parametrize("wrapper", WRAPPERS)
    def test_the_dockerfile_that_mlflow_makes_copies_the_model_and_installs_its_pins(
        self, settings: Settings, wrapper: WrapperName, tmp_path: Path
    ) -> None:
        recipe = recipes.image(f"models:/phi3-{wrapper}@champion", wrapper, 5001, settings)
        prepare, generate, *needs_engine = recipe.steps
        moved = prepare.command.replace(f"cd {PROJECT_ROOT}\n", "")  # the folder that it makes is this test's
        done = bash(f"{moved}\n{generate.command}", tmp_path)
        output, _ = done.communicate(timeout=300)
        assert done.returncode == 0, output
        folder = tmp_path / f"phi3-{wrapper}-image"
        lines = dockerfile_lines((folder / "Dockerfile").read_text())
        assert {instruction for instruction, _ in lines} <= INSTRUCTIONS
        (copied,) = [rest for instruction, rest in lines if instruction == "COPY"]
        model = folder / copied.split()[0]
        assert (model / "MLmodel").is_file()
        assert "mlflow==" in (model / "requirements.txt").read_text()
        assert {step.needs for step in needs_engine} == {"docker"}
        assert "8080" in needs_engine[1].command

    def test_build_docker_fails_only_for_the_lack_of_an_engine(self, settings: Settings, tmp_path: Path) -> None:
        """MLflow takes the command line and makes the context; then it calls docker, which is not there."""
        recipe = recipes.image("models:/phi3-onnx@champion", "onnx", 5001, settings)
        prepare, _, build, *_ = recipe.steps
        (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/called\nexit 3\n')
        (tmp_path / "docker").chmod(0o755)
        done = bash(f'{prepare.command}\nexport PATH={tmp_path}:"$PATH"\n{build.command}', tmp_path)
        output, _ = done.communicate(timeout=300)
        assert done.returncode != 0
        assert (tmp_path / "called").read_text().startswith("build -t phi3-onnx -f Dockerfile"), output[-2000:]


class TestInstalled:
    def test_no_command_needs_a_checkout(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(recipes, "INSTALLED", True)
        settings = settings_for(tmp_path)
        shown = str([recipes.worker("models:/phi3/1", 8000, settings), recipes.unit("models:/phi3/1", 8000, settings)])
        assert str(PROJECT_ROOT) not in shown.replace(sys.executable, "").replace(str(Path(sys.executable).parent), "")
        assert f"WorkingDirectory={tmp_path}" in shown


class TestUnit:
    def test_systemd_accepts_the_file_and_what_it_starts_answers(self, settings: Settings, tmp_path: Path) -> None:
        port = free_port()
        recipe = recipes.unit("models:/phi3-onnx@champion", port, settings)
        (file,) = recipe.files
        (tmp_path / file.name).write_text(file.text)
        if shutil.which("systemd-analyze"):
            verify = bash(recipe.steps[0].command, tmp_path)
            output, _ = verify.communicate(timeout=300)
            complaints = [line for line in output.splitlines() if file.name in line or "worker" in line]
            assert complaints == []
            assert verify.returncode == 0, output
        lines = dict(line.split("=", 1) for line in file.text.splitlines() if "=" in line and "Environment" not in line)
        environment = dict(line.split("=", 2)[1:] for line in file.text.splitlines() if line.startswith("Environment="))
        assert environment == {
            "PHI3KIT_HOME": str(settings.home),
            "MLFLOW_TRACKING_URI": settings.tracking_uri.reveal(),
        }
        with serving(f"cd {lines['WorkingDirectory']}\nexec {lines['ExecStart']}", port, tmp_path, **environment):
            assert httpx2.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["wrapper"] == "onnx"

    def test_odd_characters_do_not_become_specifiers_or_words(self, tmp_path: Path) -> None:
        settings = settings_for(tmp_path / 'a "b" 100%')
        text = recipes.unit("models:/phi3/1", 8000, settings).files[0].text
        assert 'a \\"b\\" 100%%"' in text


class TestCompose:
    @pytest.fixture
    def recipe(self, settings: Settings) -> Recipe:
        model = next(each for each in list_models(settings) if each.wrapper == "onnx")
        return compose.compose(model, "phi3-onnx")

    @pytest.fixture
    def services(self, recipe: Recipe) -> dict[str, Any]:
        content = yaml.safe_load(recipe.files[0].text)
        declared = set(content["volumes"])
        for service in content["services"].values():
            assert set(service.get("depends_on", {})) <= set(content["services"])
            named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
            assert {name for name in named if not name.startswith("./")} <= declared
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
            assert service.get("image") or service.get("build")
        return dict(content["services"])

    def test_it_has_app_store_database_and_worker(self, services: dict[str, Any]) -> None:
        assert set(services) == {"app", "mlflow", "db", "worker"}
        assert services["worker"]["command"][4] == "models:/phi3-onnx/1"

    def test_the_file_of_secrets_is_made_as_shown_and_has_every_variable_that_is_asked_for(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        done = bash(recipe.steps[0].command, tmp_path)
        assert (done.wait(30), done.communicate()[0]) == (0, "")
        env = tmp_path / ".env"
        assert env.stat().st_mode & 0o077 == 0
        given = dict(line.split("=", 1) for line in env.read_text().splitlines())
        assert set(given) == set(re.findall(r"\$\{(\w+)", recipe.files[0].text))
        assert all(len(value) >= 32 for value in given.values())

    def test_the_dockerfile_names_files_that_the_project_has(self, recipe: Recipe) -> None:
        lines = dockerfile_lines(recipe.files[1].text)
        assert lines[0] == ("FROM", "python:3.11-slim")
        assert {instruction for instruction, _ in lines} <= INSTRUCTIONS
        sources = [rest.split()[0] for instruction, rest in lines if instruction == "COPY"]
        assert all((PROJECT_ROOT / source).exists() for source in sources)
        pinned = subprocess.run(
            ["bash", "-c", "grep '^torch==' requirements.txt"],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(pinned.stdout.split()) == 1
        (command,) = [rest for instruction, rest in lines if instruction == "CMD"]
        assert json.loads(command)[:3] == ["streamlit", "run", "streamlit_app.py"]

    def test_mlflows_server_lets_the_other_containers_in_and_no_other_name(
        self, services: dict[str, Any], settings: Settings, tmp_path: Path
    ) -> None:
        port = free_port()
        command = re.sub(r"--host \S+ --port 5000", f"--host 127.0.0.1 --port {port}", services["mlflow"]["command"])
        command = command.replace("/artifacts", str(tmp_path / "artifacts"))
        script = f"{recipes.shell(settings).command}\n{command} --workers 1"
        store = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'store.db'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with serving(script, port, tmp_path, **store):

            def status(host: str) -> int:
                url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
                return httpx2.get(url, headers={"Host": host}).status_code

            assert (status("mlflow:5000"), status("elsewhere.example")) == (200, 403)

    def test_the_workers_command_is_one_of_phi3kit(self, services: dict[str, Any], recipe: Recipe) -> None:
        from phi3kit.cli.main import parser

        parsed = parser().parse_args(services["worker"]["command"][3:])
        assert (parsed.model_uri, parsed.port) == ("models:/phi3-onnx/1", 8000)
        words = recipe.steps[2].command.split()
        built = parser().parse_args(words[words.index("phi3kit") + 1 :])
        assert (built.wrapper, built.source, built.precision, built.register) == (
            "onnx",
            "embedded",
            "int4",
            "phi3-onnx",
        )

    def test_a_folder_as_source_is_mounted(self, settings: Settings) -> None:
        model: LoggedModel = replace(list_models(settings)[0], source="/models/my phi3", wrapper="transformers")
        command = compose.compose(model, None).steps[2].command
        assert "--volume '/models/my phi3:/source:ro'" in command
        assert command.endswith("--register phi3-transformers")
        assert "--source /source" in command

    @pytest.mark.parametrize(
        "source",
        ["/", "//", "/..", "/models/../..", "/models/./x", "/a:/b", "/a\nb", "//etc", "/models/", "-v/:/x", "a:b"],
    )
    def test_what_is_not_plainly_a_folder_is_neither_mounted_nor_built_from(
        self, settings: Settings, source: str
    ) -> None:
        recipe = compose.compose(replace(list_models(settings)[0], source=source), None)
        assert [step.what for step in recipe.steps] == [
            "Make the passwords, beside the files below in the project's folder",
            "Start the store and the app",
            "Start the worker",
        ]
        assert not [step for step in recipe.steps if "--volume" in step.command or "phi3kit build" in step.command]
        assert recipe.notes[0].startswith("The command that builds the model there is left out")


def test_every_step_that_is_shown_is_run_or_needs_what_is_not_here(settings: Settings) -> None:
    model = list_models(settings)[0]
    shown = [
        recipes.worker("models:/phi3/1", 1, settings), recipes.scoring_server("models:/phi3/1", "onnx", 1, settings),
        recipes.image("models:/phi3/1", "onnx", 1, settings), recipes.unit("models:/phi3/1", 1, settings),
        compose.compose(model, None),
    ]  # fmt: skip
    free: list[tuple[str, RecipeStep]] = [(each.title, step) for each in shown for step in each.steps if not step.needs]
    assert [(title, step.what.partition(",")[0]) for title, step in free] == [
        ("phi3kit serve", "Run once in each shell"),
        ("phi3kit serve", "Serve on this machine"),
        ("phi3kit serve", "Ask"),
        ("mlflow models serve", "Run once in each shell"),
        ("mlflow models serve", "Serve on this machine"),
        ("mlflow models serve", "Ask"),
        ("mlflow models build-docker", "Run once in each shell"),
        ("mlflow models build-docker", "Review what will be built"),
        ("systemd", "Check the file"),
        ("Compose", "Make the passwords"),
    ]

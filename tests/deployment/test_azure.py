"""The Azure ML bundle: its content, whether Azure's own loader reads it, and whether its scoring script answers."""

import io
import json
import os
import stat
import subprocess
import sys
import tracemalloc
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from phi3kit.core.errors import ModelNotFound
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.deployment import azure
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.samples import artifacts_of, copy_of_store

AZURE_AI_ML = "azure-ai-ml==1.35.2"  # cannot share our environment: it needs another opentelemetry

# Prints what run() gives for each line of stdin; nothing of phi3kit can be imported.
SCORE = """
import json, sys
import score
score.init()
for line in sys.stdin:
    print("ANSWER", json.dumps(score.run(line)), flush=True)
"""


@pytest.fixture(scope="module", params=WRAPPERS)
def unpacked(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WrapperName, Path]:
    """A wrapper and the folder that its zip holds."""
    wrapper: WrapperName = request.param
    bundle = azure.plan_bundle(built.uri(wrapper), ADMIN, built.settings)
    file = tmp_path_factory.mktemp("azure") / "bundle.zip"
    azure.save_bundle(bundle, file)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(file), str(file.parent)], check=True)
    return wrapper, file.parent / bundle.name


def score(folder: Path, *requests: object) -> list[object]:
    """What the scoring script answers, in a process that has MLflow and no phi3kit."""
    done = subprocess.run(
        [sys.executable, "-c", SCORE],
        cwd=folder / "score",
        env={"PATH": os.environ["PATH"], "AZUREML_MODEL_DIR": str(folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        input="\n".join(each if isinstance(each, str) else json.dumps(each) for each in requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    answers = [
        json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line.startswith("ANSWER")
    ]
    assert len(answers) == len(requests), done.stderr[-2000:]
    return answers


class TestBundle:
    def test_it_holds_model_script_yaml_and_instructions(self, unpacked: tuple[WrapperName, Path]) -> None:
        wrapper, folder = unpacked
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        weights = (
            "model/model/model.safetensors" if wrapper == "transformers" else "model/artifacts/embedded-int4/model.onnx"
        )
        assert names >= {
            *("README.md", "endpoint.yml", "deployment.yml", "deploy.sh", "deploy.py", "sample-request.json"),
            *(
                "score/score.py",
                "environment/conda.yaml",
                "model/MLmodel",
                "model/conda.yaml",
                "model/requirements.txt",
            ),
            weights,
        }
        assert "model/registered_model_meta" not in names

    def test_its_libraries_report_nothing(self, unpacked: tuple[WrapperName, Path]) -> None:
        deployment = yaml.safe_load((unpacked[1] / "deployment.yml").read_text())
        assert deployment["environment_variables"] == {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1"}

    def test_no_file_names_this_machines_folders_or_the_store(
        self, unpacked: tuple[WrapperName, Path], built: Built
    ) -> None:
        _, folder = unpacked
        kinds = ("", ".yaml", ".yml", ".md", ".sh")
        texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix in kinds]
        assert len(texts) >= 7
        for text in texts:
            assert str(built.home).encode() not in text
            assert b"run_id" not in text
            assert b"/phi3kit/wrappers" not in text

    def test_the_environment_has_the_models_pins_and_azures_server(self, unpacked: tuple[WrapperName, Path]) -> None:
        _, folder = unpacked
        pins = (folder / "model/requirements.txt").read_text().split()
        conda = yaml.safe_load((folder / "environment/conda.yaml").read_text())
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        assert conda["dependencies"] == [f"python={version}", "pip", {"pip": [*pins, azure.INFERENCE_SERVER]}]
        assert all("==" in pin for pin in pins)

    def test_the_same_model_gives_the_same_bytes(self, built: Built) -> None:
        zips = []
        for _ in range(2):
            target = io.BytesIO()
            azure.write_bundle(azure.plan_bundle(built.uri("onnx"), ADMIN, built.settings), target)
            zips.append(target.getvalue())
        assert zips[0] == zips[1]
        with zipfile.ZipFile(io.BytesIO(zips[0])) as archive:
            assert archive.testzip() is None
            scripts = [each for each in archive.infolist() if each.filename.endswith("deploy.sh")]
            assert [stat.S_IMODE(each.external_attr >> 16) for each in scripts] == [0o755]

    def test_a_big_model_goes_through_a_bounded_memory(self, built: Built, tmp_path: Path) -> None:
        settings = copy_of_store(built.settings, tmp_path)
        size = 300 * 2**20
        with next(artifacts_of(built.uri("onnx"), settings).rglob("model.onnx.data")).open("wb") as weights:
            weights.truncate(size)
        bundle = azure.plan_bundle(built.uri("onnx"), ADMIN, settings)
        assert bundle.model_bytes > size
        seen: list[int] = []
        tracemalloc.start()
        azure.save_bundle(bundle, tmp_path / "big.zip", seen.append)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * 2**20
        assert seen[-1] == bundle.model_bytes
        assert seen == sorted(seen)
        assert (tmp_path / "big.zip").stat().st_size > size

    def test_a_file_that_goes_away_meanwhile_is_said_and_no_zip_is_left(self, built: Built, tmp_path: Path) -> None:
        settings = copy_of_store(built.settings, tmp_path)
        bundle = azure.plan_bundle(built.uri("onnx"), ADMIN, settings)
        next(artifacts_of(built.uri("onnx"), settings).rglob("onnx_wrapper.py")).unlink()
        with pytest.raises(ModelNotFound, match="Build it again"):
            azure.save_bundle(bundle, tmp_path / "b.zip")
        assert list(tmp_path.glob("*b.zip*")) == []

    def test_a_link_in_the_drafts_place_is_not_followed(self, built: Built, tmp_path: Path) -> None:
        bundle = azure.plan_bundle(built.uri("onnx"), ADMIN, built.settings)
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / "b.zip.part").symlink_to(victim)
        azure.save_bundle(bundle, tmp_path / "b.zip")
        assert victim.read_text() == "mine"
        assert zipfile.is_zipfile(tmp_path / "b.zip")

    @pytest.mark.parametrize(
        ("gigabytes", "machine"), [(0.01, "Standard_DS3_v2"), (7.6, "Standard_DS4_v2"), (28, "Standard_E16s_v3")]
    )
    def test_the_machine_has_room_for_the_model(self, gigabytes: float, machine: str) -> None:
        assert azure.instance_for(int(gigabytes * 1e9)) == machine


class TestScoringScript:
    @pytest.mark.parametrize(
        "unpacked", ["onnx", pytest.param("transformers", marks=pytest.mark.slow)], indirect=True, scope="module"
    )
    def test_it_answers_azures_request_format_and_refuses_what_it_cannot_take_with_a_sentence(
        self, unpacked: tuple[WrapperName, Path]
    ) -> None:
        wrapper, folder = unpacked
        sample = json.loads((folder / "sample-request.json").read_text())
        assert set(sample) == {"input_data"}
        if wrapper == "transformers":
            messages = sample["input_data"]["messages"]
            forms = [
                sample,
                {"messages": messages},
                {"input_data": {"columns": ["messages"], "data": [[messages]] * 2}},
            ]
        else:
            (prompt,) = sample["input_data"]["data"][0]
            forms = [sample, {"prompt": prompt}, {"input_data": [prompt, {"prompt": prompt}]}]
            forms += [{"input_data": {"prompt": [prompt]}}]
        refused: list[object] = ["no JSON", {"input_data": []}, {"input_data": [{"text": "x"}]}, {"input_data": 5}]
        refused += [
            {"input_data": {"prompt": "x"}, "params": {"seed": 1}},
            {"input_data": {"columns": ["a"], "data": [[]]}},
        ]
        answers = score(folder, *forms, *refused)
        texts = answers[:3]
        if wrapper == "transformers":
            texts = [[choice["choices"][0]["message"]["content"].strip() for choice in answer] for answer in texts]  # type: ignore[attr-defined]
        assert texts == [["The capital of Spain is Madrid."]] * 2 + [["The capital of Spain is Madrid."] * 2]
        for request, answer in zip(refused, answers[len(forms) :], strict=True):
            assert isinstance(answer, dict), (request, answer)
            assert answer["error"]["message"], request


class TestDeployScript:
    def test_its_az_commands_name_files_that_are_there(
        self, unpacked: tuple[WrapperName, Path], tmp_path: Path
    ) -> None:
        _, folder = unpacked
        az = tmp_path / "az"
        az.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/calls\n')
        az.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RESOURCE_GROUP": "rg", "WORKSPACE": "ws"}
        subprocess.run(["bash", str(folder / "deploy.sh")], env=environment, check=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        assert [call.split()[:3] for call in calls] == [
            ["ml", "online-endpoint", "create"], ["ml", "online-deployment", "create"],
            ["ml", "online-endpoint", "invoke"], ["ml", "online-endpoint", "show"],
        ]  # fmt: skip
        for call in calls:
            assert call.endswith("--resource-group rg --workspace-name ws")
            words = call.split()
            named = [words[at + 1] for at, word in enumerate(words) if word in ("--file", "--request-file")]
            assert all((folder / name).is_file() for name in named)
        without = subprocess.run(
            ["bash", str(folder / "deploy.sh")],
            env={"PATH": environment["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert without.returncode != 0
        assert "RESOURCE_GROUP: is not set" in without.stderr


@pytest.fixture(scope="module")
def azure_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with azure-ai-ml in an environment of its own."""
    folder = tmp_path_factory.mktemp("azure-ai-ml")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        AZURE_AI_ML,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"{AZURE_AI_ML} could not be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    return python


def check(azure_python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the bundle's own script says of its files, read by Azure's loader."""
    command = [str(azure_python), str(folder / "deploy.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
class TestAzuresOwnLoader:
    def test_it_reads_endpoint_and_deployment(self, azure_python: Path, unpacked: tuple[WrapperName, Path]) -> None:
        wrapper, folder = unpacked
        done = check(azure_python, folder)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip() == f"{folder.name}/blue: 1 x Standard_DS3_v2"
        assert folder.name.startswith(f"phi3-{wrapper}-")

    def test_it_knows_a_mistake(self, azure_python: Path, built: Built, tmp_path: Path) -> None:
        bundle = azure.plan_bundle(built.uri("onnx"), ADMIN, built.settings)
        for name in ("deploy.py", "endpoint.yml", "deployment.yml"):
            wrong = bundle.text(name).replace("instance_count: 1", "instance_count: many")
            (tmp_path / name).write_text(wrong)
        done = check(azure_python, tmp_path)
        assert done.returncode != 0
        assert "Not a valid integer" in done.stderr


class TestPins:
    @pytest.mark.slow
    def test_they_resolve_together(self, built: Built, tmp_path: Path) -> None:
        """transformers' pins are those of this environment, so only the onnx pins with Azure's server are tried."""
        conda = yaml.safe_load(
            azure.plan_bundle(built.uri("onnx"), ADMIN, built.settings).text("environment/conda.yaml")
        )
        pins = tmp_path / "requirements.txt"
        pins.write_text("\n".join(conda["dependencies"][2]["pip"]))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += [
            "--only-binary",
            ":all:",
            "--disable-pip-version-check",
            "--report",
            str(tmp_path / "report"),
            "-r",
            str(pins),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if "Could not find a version" in done.stderr and "mlflow" in done.stderr:
            pytest.skip("the package index is away")
        assert done.returncode == 0, done.stderr[-2000:]
        names = {each["metadata"]["name"].lower() for each in json.loads((tmp_path / "report").read_text())["install"]}
        assert names >= {"mlflow", "onnxruntime-genai", "onnxruntime", "azureml-inference-server-http"}

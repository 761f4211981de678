"""Plan: what a build will need, said before anything is downloaded or written."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import BuildFailed
from phi3kit.core.machine import free_memory_bytes
from phi3kit.core.records import WRAPPERS, Precision, WrapperName
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.plan import Need, Plan, make_plan
from phi3kit.packaging.sources.find import find_source
from phi3kit.tracking.logged_models import files_of
from tests.conftest import Built, run_cli, settings_for
from tests.support.actors import ADMIN
from tests.support.folders import TOKENIZER

BOTH = BuildRequest(WRAPPERS, "embedded", "int4")
ONNX = BuildRequest(("onnx",), "embedded", "int4")
OTHER_DISK = Path("/dev/shm")


def plan_for(request: BuildRequest, home: Path, **environment: str) -> Plan:
    settings = settings_for(home, **environment)
    return make_plan(request, find_source(request.source, ADMIN, settings), ADMIN, settings)


def need(plan: Plan, what: str) -> Need:
    (found,) = [each for each in plan.needs if each.what == what]
    return found


def seems(folder: Path, weight_bytes: int) -> Path:
    """A folder that looks like a Phi-3 of any size, and takes no room: its weights are a hole."""
    folder.mkdir()
    for name in (*TOKENIZER, "config.json"):
        shutil.copyfile(MODEL_FOLDER / name, folder / name)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weight_bytes)
    return folder


@pytest.fixture
def too_big(tmp_path: Path) -> Path:
    return seems(tmp_path / "too-big", 10**13)


@pytest.fixture
def tight(tmp_path: Path) -> Path:
    """What takes 92 % of the memory that is free."""
    return seems(tmp_path / "tight", int(free_memory_bytes() * 0.92) - 910_000_000)


class TestVerdict:
    @pytest.mark.parametrize(
        ("needed", "available", "verdict"),
        [
            (10**15, None, "fits"),
            (0, 0, "fits"),
            (85, 100, "fits"),
            (86, 100, "tight"),
            (100, 100, "tight"),
            (101, 100, "too much"),
        ],
    )
    def test_of_a_need_is_how_much_of_what_is_free_it_takes(self, needed: int, available: int | None, verdict: str):
        assert Need("disk", needed, available, "").verdict == verdict

    @pytest.mark.parametrize(
        ("needed", "verdict"), [(940, "fits"), (941, "tight"), (1000, "tight"), (1001, "too much")]
    )
    def test_of_what_was_measured_leaves_no_doubt(self, needed: int, verdict: str):
        """605 of libraries, and of the rest up to 85 % of what they leave."""
        assert Need("memory", needed, 1000, "", measured=605).verdict == verdict

    @pytest.mark.parametrize(
        ("needed", "verdict"), [((1, 1), "fits"), ((1, 90), "tight"), ((90, 1), "tight"), ((90, 101), "too much")]
    )
    def test_of_a_plan_is_the_worst_of_its_needs(self, needed: tuple[int, int], verdict: str):
        plan = Plan("x", ("onnx",), 0, tuple(Need("disk", each, 100, "") for each in needed), 1.0, {})
        assert plan.verdict == verdict


class TestRefusal:
    def test_what_is_tight_is_built_when_somebody_says_yes(self):
        plan = Plan("x", ("onnx",), 0, (Need("disk", 90, 100, ""),), 1.0, {})
        plan.refuse_what_cannot_fit(accept_tight=True)
        with pytest.raises(BuildFailed, match=r"tight fit.*--yes"):
            plan.refuse_what_cannot_fit(accept_tight=False)

    def test_what_cannot_fit_is_refused_whatever_somebody_says(self):
        needs = (Need("disk", 2 * 10**9, 10**9, ""), Need("memory", 90 * 10**9, 10**11, ""))
        with pytest.raises(BuildFailed) as caught:
            Plan("x", ("onnx",), 0, needs, 1.0, {}).refuse_what_cannot_fit(accept_tight=True)
        assert caught.value.why == "disk: 2.0 GB of 1.0 GB."

    def test_the_transformers_wrapper_of_an_onnx_folder_is_refused_before_anything_is_downloaded(
        self, built: Built, tmp_path: Path
    ):
        (config,) = (built.settings.home / "artifacts").rglob("genai_config.json")
        for wrappers in (WRAPPERS, WRAPPERS[:1]):
            with pytest.raises(BuildFailed, match=r"only ONNX Runtime reads\. Choose the onnx wrapper"):
                plan_for(BuildRequest(wrappers, str(config.parent), "int4"), tmp_path)

    @pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
    def test_a_name_that_the_registry_does_not_take_is_refused_before_the_build(self, tmp_path: Path, name: str):
        with pytest.raises(BuildFailed, match="No model can be registered as"):
            plan_for(BuildRequest(("onnx",), "embedded", "int4", name), tmp_path)


class TestFiguresOfTheEmbeddedModel:
    def test_disk_is_what_the_export_takes_and_a_little(self, built: Built, tmp_path: Path):
        sizes = {name.rpartition("/")[2]: size for name, size in files_of(built.uri("onnx"), built.settings)}
        export = sizes["model.onnx"] + sizes["model.onnx.data"]
        needed = need(plan_for(BOTH, tmp_path), "peak disk space").needed
        assert export < needed < 3 * export
        assert sum(sizes.values()) < needed

    def test_the_transformers_wrapper_takes_no_disk_for_weights(self, tmp_path: Path):
        disk = need(plan_for(BuildRequest(("transformers",), "embedded", "int4"), tmp_path), "peak disk space")
        linked = os.stat(MODEL_FOLDER).st_dev == os.stat(tmp_path).st_dev
        assert disk.needed < (5_000_000 if linked else 16_000_000)
        assert disk.how == ("only small files: the weights are linked, not copied" if linked else disk.how)

    @pytest.mark.skipif(
        not OTHER_DISK.is_dir() or os.stat(OTHER_DISK).st_dev == os.stat("/tmp").st_dev, reason="one file system"
    )
    def test_weights_on_another_file_system_are_counted_once(self, tmp_path: Path):
        here = need(plan_for(BOTH, tmp_path), "peak disk space").needed
        there = need(plan_for(BOTH, OTHER_DISK / "phi3kit-no-such-home"), "peak disk space")
        assert there.needed == here + find_source("embedded", ADMIN, settings_for(tmp_path)).files.size_bytes
        assert there.how == "7.8 MB for the ONNX export and 10.5 MB for a copy of the weights"

    @pytest.mark.parametrize(("wrappers", "copies"), [(WRAPPERS, 1), (("transformers",), 1), (("onnx",), 0)])
    def test_weights_of_somebodys_folder_are_copied_where_they_are_logged_as_they_are(
        self, tmp_path: Path, wrappers: tuple[WrapperName, ...], copies: int
    ):
        shutil.copytree(MODEL_FOLDER, tmp_path / "phi")
        folder = str(tmp_path / "phi")
        inside, outside = (
            need(plan_for(BuildRequest(wrappers, folder, "int4"), home), "peak disk space").needed
            for home in (tmp_path, tmp_path / "home")
        )
        assert outside - inside == copies * find_source(folder, ADMIN, settings_for(tmp_path)).files.size_bytes

    def test_a_remote_store_keeps_both_and_is_read_back(self, tmp_path: Path):
        own = need(plan_for(BOTH, tmp_path), "peak disk space").needed
        remote = need(plan_for(BOTH, tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), "peak disk space").needed
        assert own + 17_000_000 < remote < own + 20_000_000

    @pytest.mark.parametrize(("precision", "megabytes"), [("int4", 7.8), ("int8", 9.9), ("fp32", 21.5)])
    def test_an_export_is_as_big_as_its_precision_makes_it(
        self, tmp_path: Path, precision: Precision, megabytes: float
    ):
        how = need(plan_for(BuildRequest(("onnx",), "embedded", precision), tmp_path), "peak disk space").how
        assert float(how.partition(" MB for the ONNX export")[0]) == pytest.approx(megabytes, abs=0.1)

    def test_memory_holds_the_libraries_and_what_is_free_is_the_machines(self, tmp_path: Path):
        plan = plan_for(BOTH, tmp_path)
        assert [each.what for each in plan.needs] == [
            "peak disk space",
            "memory to build",
            "memory to load transformers",
            "memory to load onnx",
        ]
        assert 550_000_000 < need(plan, "memory to build").needed < 1_500_000_000
        assert 150_000_000 < need(plan, "memory to load onnx").needed < 250_000_000
        assert 400_000_000 < need(plan, "memory to load transformers").needed < 500_000_000
        assert need(plan, "memory to build").available == pytest.approx(free_memory_bytes(), rel=0.2)

    def test_a_whole_context_takes_as_much_as_the_config_says(self, tmp_path: Path):
        # 4096 tokens, a key and a value in 4 layers of 4 heads of 64: fp16 as the weights, fp32 in onnxruntime-genai.
        assert plan_for(BOTH, tmp_path).kv_bytes == {
            "transformers": 4096 * 2 * 4 * 4 * 64 * 2,
            "onnx": 4096 * 2 * 4 * 4 * 64 * 4,
        }

    def test_the_build_takes_about_as_long_as_is_said(self, built: Built, tmp_path: Path):
        seconds = plan_for(BOTH, tmp_path).seconds
        assert 5 < seconds < 60
        assert built.cpu_seconds / 10 < seconds < built.cpu_seconds * 10  # which a busy machine does not stretch

    def test_nothing_is_downloaded(self, tmp_path: Path):
        assert plan_for(BOTH, tmp_path).download_bytes == 0


class TestOnnxFolder:
    def test_needs_no_export_and_no_comparison(self, built: Built):
        (config,) = (built.settings.home / "artifacts").rglob("genai_config.json")
        plan = plan_for(BuildRequest(("onnx",), str(config.parent), "int4"), built.settings.home)
        disk = need(plan, "peak disk space")
        assert disk.needed < 5_000_000
        assert "export" not in disk.how + need(plan, "memory to build").how
        assert need(plan, "memory to load onnx").needed < 200_000_000


class TestCommandLine:
    @pytest.mark.parametrize("wrapper", ["both", "transformers", "onnx"])
    def test_plan_prints_json_and_writes_nothing(self, tmp_path: Path, wrapper: str):
        done = run_cli("build", "--wrapper", wrapper, "--plan", home=tmp_path / "home")
        assert (done.returncode, done.stderr) == (0, "")
        plan = json.loads(done.stdout)
        assert (plan["source"], plan["verdict"]) == ("embedded", "fits")
        assert plan["wrappers"] == (list(WRAPPERS) if wrapper == "both" else [wrapper])
        assert {each["verdict"] for each in plan["needs"]} == {"fits"}
        assert list(tmp_path.iterdir()) == []

    def test_plan_tells_of_a_store_in_use_without_touching_it(self, built: Built):
        def builds() -> dict[Path, int]:
            paths = [path for name in ("builds", "exports", "artifacts") for path in (built.home / name).rglob("*")]
            return {path: path.stat().st_mtime_ns for path in paths}

        before = builds()
        assert run_cli("build", "--wrapper", "onnx", "--plan", home=built.home).returncode == 0
        assert builds() == before

    def test_plan_of_what_cannot_fit_says_so_and_is_no_error(self, tmp_path: Path, too_big: Path):
        done = run_cli("build", "--wrapper", "onnx", "--source", str(too_big), "--plan", home=tmp_path / "home")
        assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "too much")

    def test_plan_of_a_bad_source_is_one_line_and_exit_code_2(self, tmp_path: Path):
        done = run_cli("build", "--wrapper", "onnx", "--source", "./nothing", "--plan", home=tmp_path / "home")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("wrapper", "needed"),
        # 10,000 GB to load weights; the export of 5e12 numbers takes 5.2 bytes each. The libraries come on top.
        [("both", "26000.9"), ("transformers", "10000.9"), ("onnx", "26000.9")],
    )
    def test_a_source_that_cannot_fit_is_refused_with_both_figures(
        self, tmp_path: Path, too_big: Path, wrapper: str, needed: str
    ):
        home = tmp_path / "home"
        done = run_cli("build", "--wrapper", wrapper, "--source", str(too_big), "--yes", home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "does not fit on this machine" in done.stderr
        assert re.search(rf"memory to build: {needed} GB of [\d.]+ GB[;.]", done.stderr)
        # Only the build's own record: no store, no run, no export, no model.
        assert [path.name for path in home.iterdir()] == ["builds"]

    def test_a_tight_source_is_refused_until_somebody_says_yes(self, tmp_path: Path, tight: Path):
        home = tmp_path / "home"
        done = run_cli("build", "--wrapper", "transformers", "--source", str(tight), home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "The build is a tight fit. memory to build: " in done.stderr
        assert done.stderr.endswith("build anyway: select it on Build, or use --yes.\n")
        assert [path.name for path in home.iterdir()] == ["builds"]

"""The house: imports point down, heavy libraries stay out of the app, the wrapper stands alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phi3kit.core.settings import PROJECT_ROOT

KIT = PROJECT_ROOT / "phi3kit"

# Each package's floor (docs/architecture.md): a module imports its own package and those on lower floors.
FLOORS = {
    "core": 1,
    "access": 2, "formats": 2, "jobs": 2,
    "tracking": 3,
    "usage": 4,
    "worker": 5,
    "endpoints": 6, "packaging": 6,
    "batch": 7, "conversations": 7, "deployment": 7, "embedded": 7,
    "evaluation": 8,
    "ui": 9, "cli": 9,
    "__main__": 10,
}  # fmt: skip


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(path: Path) -> int:
    part = path.relative_to(KIT).parts[0].removesuffix(".py")
    return FLOORS.get(part, 0)


class TestImports:
    def test_every_module_has_a_floor(self) -> None:
        parts = {path.relative_to(KIT).parts[0].removesuffix(".py") for path in KIT.rglob("*.py")}
        assert parts - {"__init__"} == set(FLOORS)

    def test_imports_only_point_down(self) -> None:
        upward = []
        for path in KIT.rglob("*.py"):
            for name in imported_modules(path):
                part = name.split(".")[1] if name.startswith("phi3kit.") else ""
                if part in FLOORS and FLOORS[part] > floor_of(path):
                    upward.append(f"{path.relative_to(KIT)} -> {name}")
        assert upward == []

    def test_what_follows_and_plans_a_build_imports_no_build(self) -> None:
        for name in ("events", "jobs", "plan"):
            imports = imported_modules(KIT / "packaging" / f"{name}.py")
            assert not {"phi3kit.packaging.build", "mlflow", "torch", "transformers"} & imports, name

    def test_only_ui_imports_streamlit(self) -> None:
        users = {
            path.relative_to(KIT).parts[0]
            for path in KIT.rglob("*.py")
            if any(name.split(".")[0] == "streamlit" for name in imported_modules(path))
        }
        assert users == {"ui"}

    def test_the_onnx_wrapper_imports_nothing_of_phi3kit(self) -> None:
        names = imported_modules(KIT / "packaging" / "wrappers" / "onnx_wrapper.py")
        assert not any(name.split(".")[0] == "phi3kit" for name in names)

    def test_nothing_imports_the_recipe_of_the_embedded_model(self) -> None:
        users = [
            path.name
            for path in KIT.rglob("*.py")
            if path.parent.name != "embedded"
            and any(name.startswith("phi3kit.embedded") for name in imported_modules(path))
        ]
        assert users == []

    def test_pages_hold_no_mlflow_and_no_loops_of_requests(self) -> None:
        for page in (PROJECT_ROOT / "pages").glob("*.py"):
            assert not {"mlflow", "openai", "httpx", "httpx2", "subprocess"} & {
                name.split(".")[0] for name in imported_modules(page)
            }, page.name


def test_no_date_is_written_as_only_some_systems_can() -> None:
    """Windows has no `%-d`; a day without its zero is `.day`."""
    sources = [*KIT.rglob("*.py"), *(PROJECT_ROOT / "pages").glob("*.py")]
    assert [path.name for path in sources if re.search(r"%-[a-zA-Z]", path.read_text("utf-8"))] == []


@pytest.mark.usefixtures("cold_python")
def test_the_app_process_never_imports_a_heavy_library_and_collects_no_loaded_one(tmp_path: Path) -> None:
    """Runs every page in a process of its own, as the server does; looks at what it has loaded, and at what it may throw away."""
    script = """
import gc, sys
from pathlib import Path
from streamlit import config
config.set_option("server.address", "127.0.0.1")
import streamlit_app
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("streamlit_app.py", default_timeout=300).run()
for page in sorted(path.stem for path in Path("pages").glob("*.py")):
    app = app.switch_page(f"pages/{page}.py").run()
    assert not app.exception, app.exception
print("loaded:", [name for name in ("torch", "transformers", "onnxruntime", "onnxruntime_genai") if name in sys.modules])
print("few objects are looked at after a run:", len(gc.get_objects()) < gc.get_freeze_count() / 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT_ROOT,
        env={"PHI3KIT_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()[-2:]
    assert said == ["loaded: []", "few objects are looked at after a run: True"], done.stderr[-2000:]

"""Both wrappers, built once for all test processes and kept for the next run, as long as nothing changes that made them.

Knows where they are kept: in pytest's cache folder of this project. Every process gets a copy.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from phi3kit.core.settings import PROJECT_ROOT, read_settings
from tests.support.samples import copy_of_store

Build = Callable[..., "subprocess.CompletedProcess[str]"]


def built_store(home: Path, build: Build) -> dict[str, Any]:
    """Fill `home` with a store in which both wrappers are; what the command line said, and how much it computed.

    build: makes them in an empty data folder, when no other process or run has.
    """
    place = _place()
    with FileLock(place.parent / "lock"):
        if not (place / "said.json").is_file():
            for earlier in place.parent.glob("built-*"):
                shutil.rmtree(earlier)
            place.mkdir()
            before = os.times()
            done = build("build", "--wrapper", "both", "--json", home=place / "home", timeout=900)
            after = os.times()
            used = after.children_user + after.children_system - before.children_user - before.children_system
            said = {"stdout": done.stdout, "cpu_seconds": used}
            assert done.returncode == 0, done.stderr
            (place / "said.json").write_text(json.dumps(said), "utf-8")
        home.mkdir()
        copy_of_store(read_settings({"PHI3KIT_HOME": str(place / "home")}), home)
        said = json.loads((place / "said.json").read_text("utf-8"))
    return {**said, "stdout": said["stdout"].replace(str(place / "home"), str(home))}


def _place() -> Path:
    """The folder of a build of this source with these libraries."""
    made_by = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
    sources = [path for path in (PROJECT_ROOT / "phi3kit").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in [*sorted(sources), *sorted(PROJECT_ROOT.glob("requirements*.txt"))]:
        made_by.update(str(path.relative_to(PROJECT_ROOT)).encode() + path.read_bytes())
    kept = PROJECT_ROOT / ".pytest_cache" / "phi3kit"
    kept.mkdir(parents=True, exist_ok=True)
    return kept / f"built-{made_by.hexdigest()[:20]}"

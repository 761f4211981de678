"""Known faults of the pinned packages, where an advisory source can be reached."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from phi3kit.core.settings import PROJECT_ROOT

PIP_AUDIT = "pip-audit==2.9.0"  # what checks the packages is none of them: an environment of its own


@pytest.mark.slow
def test_no_pinned_package_has_a_published_advisory(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    install = [tmp_path / "bin/pip", "install", "--quiet", "--disable-pip-version-check", PIP_AUDIT]
    if subprocess.run(install, capture_output=True, timeout=300).returncode:
        pytest.skip(f"{PIP_AUDIT} could not be installed")
    command = [tmp_path / "bin/pip-audit", "--requirement", PROJECT_ROOT / "requirements.txt"]
    done = subprocess.run(
        [*command, "--no-deps", "--disable-pip", "--format", "json"], capture_output=True, text=True, timeout=300
    )
    found = json.loads(done.stdout)["dependencies"]
    if all("skip_reason" in each for each in found):
        pytest.skip("no advisory source was reached")
    assert {each["name"]: [fault["id"] for fault in each["vulns"]] for each in found if each.get("vulns")} == {}

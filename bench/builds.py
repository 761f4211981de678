"""A build under measurement: the command line as a user types it, with its time, memory and disk."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.watching import Watching
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import PROJECT_ROOT, read_settings
from phi3kit.tracking.logged_models import resolve

Figures = dict[str, float | str]


def build(source: Path | str, wrapper: WrapperName, home: Path) -> tuple[Path, Figures]:
    """The logged model's folder, and what it took to build it."""
    command = [
        sys.executable,
        "-m",
        "phi3kit",
        "build",
        "--wrapper",
        wrapper,
        "--source",
        str(source),
        "--json",
        "--yes",
    ]
    # MLflow sets the variable for its own process; a child would take it as the user's setting.
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {**inherited, "PHI3KIT_HOME": str(home)}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    with Watch(process.pid, home) as watch:
        output, _ = process.communicate()
    seconds = time.perf_counter() - began
    assert process.returncode == 0, output[-500:]
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    steps = {line["step"]: line["seconds"] for line in lines if line.get("event") == "step" and line["seconds"]}
    result = lines[-1]
    figures: Figures = {f"{name} s": seconds for name, seconds in steps.items()}
    figures |= {
        "whole build s": seconds,
        "peak memory GB, its own": watch.own / 1e9,
        "peak memory GB, with mapped files": watch.resident / 1e9,
        "peak of new disk GB": watch.disk / 1e9,
        "logged model GB": result["size_bytes"] / 1e9,
    }
    if result["same_beginnings"]:
        figures["same first 20 tokens"] = result["same_beginnings"]
    settings = read_settings({"PHI3KIT_HOME": str(home)})
    return resolve(result["model_uri"], settings).folder, figures


def wrap(onnx_folder: Path, work: Path) -> Figures:
    """An ONNX folder wrapped as it is, against a plain copy of it."""
    size = sum(path.stat().st_size for path in onnx_folder.iterdir())
    copy = work / "copy"
    began = time.perf_counter()
    shutil.copytree(onnx_folder, copy)
    os.sync()
    copied_s = time.perf_counter() - began
    _, figures = build(copy, "onnx", work / "wrap-home")
    shutil.rmtree(copy)
    return {
        "plain copy s": copied_s,
        "log s": figures["log s"],
        "log / plain copy": float(figures["log s"]) / copied_s,
        "peak of new disk / size": float(figures["peak of new disk GB"]) * 1e9 / size,
    }


class Watch(Watching):
    """Peaks of a process with its descendants, and of a folder, sampled five times a second."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._process, self._folder = psutil.Process(pid), folder
        super().__init__()
        self.own = self.resident = self.disk = 0.0  # bytes, at the worst

    def _watch(self) -> None:
        before = new_bytes(self._folder)
        while not self._over.wait(0.2):
            try:
                everyone = [self._process, *self._process.children(recursive=True)]
                memory = [memory_of(each.pid) for each in everyone]
            except psutil.Error:
                continue
            self.own = max(self.own, sum(own for own, _ in memory))
            self.resident = max(self.resident, sum(resident for _, resident in memory))
            self.disk = max(self.disk, new_bytes(self._folder) - before)


def memory_of(pid: int) -> tuple[float, float]:
    """Own and resident bytes of a process; only the latter count mapped files."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return float(lines["RssAnon"].split()[0]) * 1024, float(lines["VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0.0, 0.0


def new_bytes(folder: Path) -> float:
    """Disk space of files without hard links outside the folder."""
    files: dict[int, float] = {}
    names: dict[int, int] = {}
    links: dict[int, int] = {}
    for root, _, found in os.walk(folder):
        for name in found:
            try:
                status = os.lstat(os.path.join(root, name))
            except FileNotFoundError:
                continue
            files[status.st_ino] = status.st_blocks * 512
            names[status.st_ino] = names.get(status.st_ino, 0) + 1
            links[status.st_ino] = status.st_nlink
    return sum(size for inode, size in files.items() if names[inode] == links[inode])

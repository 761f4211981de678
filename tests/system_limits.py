"""Limits that the system really sets: a disk of a few megabytes, a mount that takes nothing, memory of a process.

What a machine does not let us set is skipped, with the reason.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_for


def _mounted(*options: str) -> bool:
    command = ["mount", *options]
    return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of so many megabytes at `folder`."""
    folder.mkdir(exist_ok=True)
    if not _mounted("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)):
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """What is opened in a folder from now on can only be read, by root too."""
    if not (_mounted("--bind", str(folder), str(folder)) and _mounted("-o", "remount,bind,ro", str(folder))):
        pytest.skip("a folder cannot be mounted read-only here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, name: str = "filler") -> Path:
    """Leave not a byte on a disk; the file to remove."""
    with (folder / name).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return folder / name


@contextmanager
def memory_group(pid: int, more_bytes: int) -> Iterator[None]:
    """A process may take so much more memory; the system kills it when it takes more."""
    group = _new_group()
    if group is None:
        pytest.skip("no control group can limit memory here")
    limit = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        (group / limit).write_text(str(more_bytes))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):  # it has ended, or lives on and goes back
            (group.parent / "cgroup.procs").write_text(str(pid))
        wait_for("nobody in the group", lambda: _removed(group))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def _new_group() -> Path | None:
    """A control group of this process' own with a limit of memory, of either version."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        group = Path("/sys/fs/cgroup") / controllers / path.lstrip("/") / f"phi3kit-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if any((group / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            return group
        group.rmdir()
    return None

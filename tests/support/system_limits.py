"""Limits that the system really sets: a disk of a few megabytes, a mount that takes nothing, memory of a process.

Where a machine lets nobody mount a disk, the test is skipped, with the reason.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_for


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


@dataclass(frozen=True)
class MemoryGroup:
    """A control group, as hosts of containers use: what is in it may take so much memory, or the system kills it."""

    folder: Path

    def command(self, *command: str) -> list[str]:
        """The same command inside the group, with all that it starts."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *command]

    def take(self, pid: int) -> None:
        """Put a running process into the group: what it takes from now on counts."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def most_bytes(self) -> int:
        """The most that was used, pages of files included."""
        return int(self._first("memory.peak", "memory.max_usage_in_bytes").read_text())

    @property
    def kills(self) -> int:
        """How often the system had to end a process of the group."""
        lines = self._first("memory.events", "memory.oom_control").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def limit(self, most_bytes: int) -> None:
        """Set what may be used."""
        self._first("memory.max", "memory.limit_in_bytes").write_text(str(most_bytes))

    def remove(self) -> None:
        """End it, once nobody is in it; who lives on goes back to where it came from."""
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                (self.folder.parent / "cgroup.procs").write_text(pid)
        wait_for("nobody in the group", self._removed)

    def _removed(self) -> bool:
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True

    def _first(self, *names: str) -> Path:
        """The file of the second version of control groups, or of the first."""
        return next(path for name in names if (path := self.folder / name).exists())


@contextmanager
def memory_group(most_bytes: int) -> Iterator[MemoryGroup | None]:
    """A new group in which so much memory may be used; None where this machine lets nobody make one."""
    group = _new_group()
    if group is None:
        yield None
        return
    try:
        group.limit(most_bytes)
        yield group
    finally:
        group.remove()


def _new_group() -> MemoryGroup | None:
    """A child of this process' own group whose memory can be limited."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        folder = Path("/sys/fs/cgroup") / controllers / path.lstrip("/") / f"phi3kit-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            return MemoryGroup(folder)
        folder.rmdir()
    return None

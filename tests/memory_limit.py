"""A real bound on the memory of a process and all that it starts: a control group, as hosts of containers use."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryLimit:
    """The group's folder."""

    folder: Path

    def command(self, *command: str) -> list[str]:
        """The same command inside the group."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *command]

    @property
    def most_bytes(self) -> int:
        """The most that was used, pages of files included."""
        names = ("memory.max_usage_in_bytes", "memory.peak")
        return int(next(path.read_text() for name in names if (path := self.folder / name).exists()))

    @property
    def kills(self) -> int:
        """How often the system had to end a process of the group."""
        names = ("memory.oom_control", "memory.events")
        text = next((path.read_text() for name in names if (path := self.folder / name).exists()), "")
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


@contextmanager
def memory_limit(most_bytes: int) -> Iterator[MemoryLimit | None]:
    """A group with a limit; None where this machine lets nobody make one."""
    first = (_ROOT / "memory") if (_ROOT / "memory").is_dir() else _ROOT
    folder = first / f"phi3kit-tests-{os.getpid()}-{secrets.token_hex(4)}"
    limit = MemoryLimit(folder)
    try:
        folder.mkdir()
        name = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
        (folder / name).write_text(str(most_bytes))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield limit
    finally:
        with contextlib.suppress(OSError):  # somebody's child may be on its way out
            folder.rmdir()

"""Machine: how many CPUs and how much memory and disk this process may use, and how it gives memory back.

Knows affinity masks and both versions of Linux's control groups: all else that a container sees is the whole machine's.
Knows nothing of models.
"""

import ctypes
import errno
import gc
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# glibc's malloc.h: how many heaps threads share, and from which size on a block has pages of its own, given back when free.
_HEAP_OPTIONS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 256 * 1024)}
_CGROUPS = Path("/sys/fs/cgroup")
_NO_MEMORY = re.compile(
    r"(cannot|can't|failed to|unable to) allocate|failed to map segment|bad_alloc|can't start new thread", re.IGNORECASE
)


@dataclass(frozen=True)
class Threads:
    """How many threads compute one step, and why so many."""

    count: int
    reason: str


def choose_threads(setting: int | None) -> Threads:
    """As many as the process has CPUs, unless PHI3KIT_THREADS says otherwise."""
    if setting is not None:
        return Threads(setting, "PHI3KIT_THREADS")
    installed = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else installed
    quota = cpu_quota()
    if quota is not None and quota < allowed:
        return Threads(max(1, math.floor(quota)), f"control group: {quota:g} of {installed} CPUs")
    if allowed < installed:
        return Threads(allowed, f"affinity: {allowed} of {installed} CPUs")
    return Threads(installed, f"all {installed} CPUs")


def cpu_quota() -> float | None:
    """CPUs that the control groups grant; None without a limit."""
    quotas = []
    for group in _groups("cpu"):
        parts = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        if len(parts) == 2 and parts[0] not in ("max", "-1"):
            quotas.append(int(parts[0]) / int(parts[1]))
    return min(quotas, default=None)


def free_memory_bytes() -> int:
    """Memory that this process can take without swapping or being killed."""
    free = [int(psutil.virtual_memory().available)]
    for group in _groups("memory"):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if limit and used and limit[0] != "max":
            free.append(max(0, int(limit[0]) - int(used[0]) + _cached(group)))
    return min(free)


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _cached(group: Path) -> int:
    """Bytes of cached files: they count as used, and are freed on demand; running code is not."""
    said = dict(line.split() for line in _lines(group / "memory.stat"))

    def size(*names: str) -> int:  # in the first version of control groups only totals include those below
        return int(next((said[name] for name in names if name in said), 0))

    read = size("total_inactive_file", "inactive_file") + size("total_active_file", "active_file")
    return max(0, read - size("total_mapped_file", "file_mapped"))


def keep_heap_whole() -> bool:
    """Keep this process's heap from fragmenting while threads come and go; whether the C library could be told.

    Each run of a page is a new thread. glibc gives threads heaps of their own with ever larger blocks in them, whose free
    memory never goes back. To be called before threads begin; child_environment tells children. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system, another C library
        return False
    return all(mallopt(option, value) for option, value in _HEAP_OPTIONS.values())


def keep_loaded_out_of_collections() -> None:
    """Leave what is loaded by now to no garbage collection: Streamlit collects all after each run of a page or fragment, and a
    request with many small parts has Python do it in a worker.

    To be called once the libraries are imported and before anything is made that goes away.
    """
    gc.collect()
    gc.freeze()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, also in the words of engines and of the system's loader."""
    known = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return known or _NO_MEMORY.search(str(error)) is not None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of its parents: each may set a limit."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        group = root / path.lstrip("/")
        while group != root.parent:
            yield group
            group = group.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]

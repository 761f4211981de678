"""Machine: how many CPUs and how much memory this process may really use.

Knows affinity masks and Linux' control groups, of both versions. A container sees the whole machine's CPUs and memory
everywhere else.
"""

import errno
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    """Memory that this process can still take without swapping or being killed for it."""
    free = [int(psutil.virtual_memory().available)]
    for group in _groups("memory"):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if limit and used and limit[0] != "max":
            # Files that were read count as used, and go when the memory is wanted.
            files = dict(line.split() for line in _lines(group / "memory.stat"))
            cached = int(files.get("total_inactive_file") or files.get("inactive_file") or 0)
            free.append(max(0, int(limit[0]) - int(used[0]) + cached))
    return min(free)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; engines and the system's loader say so in words of their own."""
    known = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return known or _NO_MEMORY.search(str(error)) is not None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process' control group and of all above it: each may set a limit."""
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

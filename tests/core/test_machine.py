"""Machine: what affinity and control groups leave of CPUs and memory, from files as Linux writes them."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from phi3kit.core import machine
from phi3kit.core.machine import Threads, choose_threads, cpu_quota, free_memory_bytes, keep_heap_whole
from phi3kit.core.settings import PROJECT_ROOT

GIB = 2**30
NO_LIMIT = str(2**63 - 4096)  # version 1 has no word for it

Groups = Callable[[str, dict[str, object]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Write the control groups of this process, on a machine of 8 CPUs with 16 GiB free."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB))
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    membership, lines_of = tmp_path / "membership", machine._lines
    monkeypatch.setattr(
        machine, "_lines", lambda path: lines_of(membership if path == Path("/proc/self/cgroup") else path)
    )

    def write(lines: str, files: dict[str, object]) -> None:
        membership.write_text(lines + "\n")
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return write


class TestThreads:
    def test_the_setting_wins(self, groups: Groups):
        groups("0::/", {"cpu.max": "100000 100000"})
        assert choose_threads(5) == Threads(5, "PHI3KIT_THREADS")

    def test_all_cpus_without_any_limit(self, groups: Groups):
        assert choose_threads(None) == Threads(8, "all 8 CPUs")

    def test_affinity_is_obeyed(self, groups: Groups, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 6})
        assert choose_threads(None) == Threads(3, "affinity: 3 of 8 CPUs")

    @pytest.mark.parametrize(
        ("quota", "threads"),
        [
            ("400000 100000", Threads(4, "control group: 4 of 8 CPUs")),
            ("250000 100000", Threads(2, "control group: 2.5 of 8 CPUs")),
            ("50000 100000", Threads(1, "control group: 0.5 of 8 CPUs")),
            ("1200000 100000", Threads(8, "all 8 CPUs")),
        ],
    )
    def test_a_quota_is_rounded_down_but_never_to_none(self, groups: Groups, quota: str, threads: Threads):
        groups("0::/app", {"app/cpu.max": quota})
        assert choose_threads(None) == threads

    @pytest.mark.parametrize(("quota", "count"), [(200000, 2), (600000, 3)])
    def test_the_smaller_of_affinity_and_quota_counts(
        self, groups: Groups, monkeypatch: pytest.MonkeyPatch, quota: int, count: int
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 6})
        groups("0::/", {"cpu.max": f"{quota} 100000"})
        assert choose_threads(None).count == count


class TestCpuQuota:
    def test_version_2_has_quota_and_period_in_one_file(self, groups: Groups):
        groups("0::/app", {"app/cpu.max": "150000 50000"})
        assert cpu_quota() == 3

    @pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
    def test_version_1_has_them_in_two(self, groups: Groups, controllers: str):
        lines = f"7:cpuset:/other\n4:{controllers}:/app\n1:name=systemd:/app\n0::/app"
        groups(
            lines,
            {
                "cpu/app/cpu.cfs_quota_us": 150000,
                "cpu/app/cpu.cfs_period_us": 100000,
                "cpu/other/cpu.cfs_quota_us": 1,
                "cpu/other/cpu.cfs_period_us": 1000,
            },
        )
        assert cpu_quota() == 1.5

    @pytest.mark.parametrize("smallest", ["cpu.max", "pod/cpu.max", "pod/app/cpu.max"])
    def test_the_smallest_of_nested_groups_counts(self, groups: Groups, smallest: str):
        quotas = dict.fromkeys(("cpu.max", "pod/cpu.max", "pod/app/cpu.max"), "500000 100000")
        groups("0::/pod/app", {**quotas, smallest: "200000 100000", "pod/another/cpu.max": "100000 100000"})
        assert cpu_quota() == 2

    @pytest.mark.parametrize(
        ("line", "files"),
        [
            ("0::/app", {"app/cpu.max": "max 100000", "cpu.max": "max 100000"}),
            ("4:cpu:/app", {"cpu/app/cpu.cfs_quota_us": -1, "cpu/app/cpu.cfs_period_us": 100000}),
            ("0::/gone\n4:cpu:/gone", {}),
            ("4:cpu:/app", {"cpu/app/cpu.cfs_quota_us": 100000}),
        ],
        ids=["max", "-1", "no files", "no period"],
    )
    def test_none_without_a_limit(self, groups: Groups, line: str, files: dict[str, object]):
        groups(line, files)
        assert cpu_quota() is None

    def test_none_where_there_are_no_control_groups(self, groups: Groups):
        assert cpu_quota() is None


class TestFreeMemory:
    def test_is_what_the_machine_has_without_control_groups(self, groups: Groups):
        assert free_memory_bytes() == 16 * GIB

    @pytest.mark.parametrize(
        ("line", "limit", "used"),
        [
            ("0::/app", "app/memory.max", "app/memory.current"),
            ("4:memory:/app", "memory/app/memory.limit_in_bytes", "memory/app/memory.usage_in_bytes"),
            # The group's path is the host's, its files lie at the root: as Docker shows version 1.
            ("4:memory:/docker/1", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        ],
        ids=["version 2", "version 1", "container"],
    )
    def test_is_what_the_limit_leaves(self, groups: Groups, line: str, limit: str, used: str):
        groups(line, {limit: 4 * GIB, used: 3 * GIB})
        assert free_memory_bytes() == GIB

    @pytest.mark.parametrize(
        ("line", "folder", "limit", "used", "names"),
        [
            ("0::/app", "app", "memory.max", "memory.current", ("inactive_file", "active_file", "file_mapped")),
            (
                *("4:memory:/app", "memory/app", "memory.limit_in_bytes", "memory.usage_in_bytes"),
                ("total_inactive_file", "total_active_file", "total_mapped_file"),
            ),
        ],
        ids=["version 2", "version 1"],
    )
    def test_files_that_were_read_make_room_running_code_does_not(
        self, groups: Groups, line: str, folder: str, limit: str, used: str, names: tuple[str, ...]
    ):
        sizes = "\n".join(f"{name} {size * GIB}" for name, size in zip(names, (3, 2, 1), strict=True))
        groups(
            line,
            {f"{folder}/{limit}": 9 * GIB, f"{folder}/{used}": 8 * GIB, f"{folder}/memory.stat": f"anon 1\n{sizes}"},
        )
        assert free_memory_bytes() == 5 * GIB

    @pytest.mark.parametrize(("pod", "app"), [(5, 9), (9, 5)])
    def test_the_group_that_leaves_least_counts(self, groups: Groups, pod: int, app: int):
        limits = {"pod/memory.max": pod * GIB, "pod/app/memory.max": app * GIB, "memory.max": 12 * GIB}
        used = {"pod/memory.current": 3 * GIB, "pod/app/memory.current": 3 * GIB, "memory.current": 3 * GIB}
        groups("0::/pod/app", {**limits, **used})
        assert free_memory_bytes() == 2 * GIB

    @pytest.mark.parametrize("limit", ["max", NO_LIMIT])
    def test_no_limit_leaves_what_the_machine_has(self, groups: Groups, limit: str):
        groups("0::/app", {"app/memory.max": limit, "app/memory.current": 3 * GIB})
        assert free_memory_bytes() == 16 * GIB

    def test_a_limit_without_a_usage_is_none(self, groups: Groups):
        groups("0::/app", {"app/memory.max": GIB})
        assert free_memory_bytes() == 16 * GIB

    def test_a_group_beyond_its_limit_has_nothing_left(self, groups: Groups):
        groups("0::/app", {"app/memory.max": 2 * GIB, "app/memory.current": 3 * GIB})
        assert free_memory_bytes() == 0


# Eight threads at once, each with a block of its own; then glibc's own account of its heaps.
_HEAPS = """
import ctypes, sys, threading
from phi3kit.core.machine import keep_heap_whole
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
if sys.argv[1] == "told":
    assert keep_heap_whole()
together = threading.Barrier(8)
def work():
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of another C library")
@pytest.mark.parametrize(("told", "heaps"), [("told", range(1, 3)), ("not told", range(4, 100))])
def test_threads_share_two_heaps_when_the_c_library_is_told(told: str, heaps: range, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _HEAPS, told, tmp_path / "info.xml"], cwd=PROJECT_ROOT, check=True)
    assert (tmp_path / "info.xml").read_text().count("<heap nr=") in heaps


def test_a_c_library_without_such_a_knob_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_heap_whole()

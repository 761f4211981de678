"""Confinement: what a child that runs libraries over somebody else's files may take, read, write and reach.

Limits of the system hold on POSIX, Landlock on Linux 5.13 and later (TCP: 6.7); where one is missing the others hold.
Knows processes. Knows nothing of what a child does.
"""

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "PHI3KIT_CONFINED"

# linux/landlock.h. The numbers of the calls are the same on every architecture.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38  # prctl(2)
_READ = 1 << 2 | 1 << 3  # files, folders
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_OF_ABI = {1: 13, 2: 14, 3: 15, 5: 16}  # how many rights of files each version knows
_ON_FILES = _EXECUTE | _WRITE_FILE | 1 << 2 | 1 << 14 | 1 << 15  # the rights that a file can have, a folder aside
# Of /proc only what is about this process and the machine: the environment of the parent may hold secrets.
_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/nix", "/sys", "/dev", "/proc/self"),
    *(
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/sys",
        "/proc/filesystems",
        "/proc/version",
        "/proc/uptime",
    ),
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


@dataclass(frozen=True)
class Bounds:
    """What a child may take. Folders are absolute."""

    memory_bytes: int  # of its own; files that it maps do not count
    file_bytes: int  # of one file
    cpu_s: int
    readable: tuple[str, ...]  # besides the system's and Python's own
    writable: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """The variable that tells a child."""
        return {VARIABLE: json.dumps(asdict(self))}


def confine(environment: Mapping[str, str] | None = None) -> bool:
    """Confine this process for good as its parent said; whether files and TCP are closed too.

    To be called before any thread begins, which would stay free.
    """
    bounds = Bounds(**json.loads((os.environ if environment is None else environment)[VARIABLE]))
    bound_memory(bounds.memory_bytes)
    if sys.platform == "win32":
        return False
    import resource

    _limit(resource.RLIMIT_FSIZE, bounds.file_bytes)
    _limit(resource.RLIMIT_CPU, bounds.cpu_s)
    _limit(resource.RLIMIT_CORE, 0)
    return sys.platform == "linux" and _close_files(bounds)


def bound_memory(most_bytes: int) -> None:
    """Let this process have no more memory of its own; files that it maps do not count. Windows has no such limit."""
    if sys.platform != "win32":
        import resource

        _limit(resource.RLIMIT_DATA, most_bytes)


def _limit(kind: int, most: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError, ValueError):  # macOS knows some of them by name only
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _close_files(bounds: Bounds) -> bool:
    """Landlock: no file but those named, no TCP, no look into other processes, no signal to them."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    handled = (1 << max(count for abi, count in _OF_ABI.items() if abi <= version)) - 1
    rules = [
        handled,
        0b11 if version >= 4 else 0,
        0b11 if version >= 6 else 0,
    ]  # files; TCP; signals and abstract sockets
    count = 1 if version < 4 else 2 if version < 6 else 3
    attributes = (ctypes.c_uint64 * count)(*rules[:count])
    ruleset = call(_CREATE, attributes, ctypes.c_size_t(ctypes.sizeof(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).resolve().parents[1]))
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for place in (*_SYSTEM, *own, *packages, *bounds.readable):
        _allow(call, ruleset, place, (_READ | _EXECUTE) & handled)
    for place in _DEVICES:
        _allow(call, ruleset, place, _WRITE_FILE & handled)
    for place in bounds.writable:
        _allow(call, ruleset, place, handled & ~_EXECUTE)  # what is written there is no program
    prctl = ctypes.CDLL(None).prctl
    closed = prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and call(_RESTRICT, ruleset, ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    return closed


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _allow(call: "ctypes._NamedFuncPointer", ruleset: int, place: str, rights: int) -> None:  # type: ignore[name-defined]
    if sys.platform != "linux":
        return
    with suppress(OSError):  # it is not there
        parent = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rights = rights if os.path.isdir(place) else rights & _ON_FILES
        call(_ADD, ruleset, 1, ctypes.byref(_PathBeneath(rights, parent)), ctypes.c_uint32(0))
        os.close(parent)

"""Operating system: what only POSIX has, each with the nearest thing on Windows.

Knows processes and pages of memory. Knows nothing of what they are for.
"""

import contextlib
import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import psutil

Advice = Literal["MADV_DONTNEED", "MADV_NOHUGEPAGE"]


def was_killed(exit_code: int | None) -> bool:
    """Whether a process was killed, by the system or by somebody. Windows does not tell."""
    return sys.platform != "win32" and exit_code == -signal.SIGKILL


def end_group(leader: int, *, kill: bool) -> None:
    """Ask the group of processes that a session's leader began to end, or kill it. Windows kills in both cases.

    Windows has no groups: there it is the leader and those of its descendants whose parents live.
    """
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL if kill else signal.SIGTERM)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(leader)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def become(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Go on as another program. On Windows this process waits for it, as exec there returns the terminal at once."""
    if sys.platform == "win32":
        sys.exit(subprocess.call(command, env=environment))  # noqa: S603 -- a list of our own making
    os.execve(command[0], command, environment)  # noqa: S606


def link(place: Path, target: Path) -> None:
    """A symbolic link to a file; a copy where Windows lets this user make none.

    target: from the link's folder, when relative.
    """
    try:
        place.symlink_to(target)
    except OSError:
        if sys.platform != "win32":
            raise
        shutil.copyfile(place.parent / target, place)


def create(path: Path) -> int:
    """The descriptor of a new file, its user's alone, to be written. Raises OSError where anything lies there, a link too."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a regular file of a folder to be read, following no link on the way. Raises OSError.

    name: from the folder, with slashes. Windows opens no folders: there a link that is put while this looks is followed.
    """
    follow_none = getattr(os, "O_NOFOLLOW", 0)
    flags = os.O_RDONLY | follow_none | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if sys.platform == "win32":
        if (folder / name).resolve() != folder.resolve() / name:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        opened = os.open(folder / name, flags)
    else:
        # A folder on the way need not be one that may be listed.
        on_the_way = getattr(os, "O_PATH", os.O_RDONLY) | follow_none | os.O_DIRECTORY
        *above, last = Path(name).parts
        opened = os.open(folder, on_the_way)
        for part, how in (*((each, on_the_way) for each in above), (last, flags)):
            before = opened
            try:
                opened = os.open(part, how, dir_fd=before)  # a pipe has no writer, and is not waited for
            finally:
                os.close(before)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "No regular file", name)
    return open(opened, "rb")


def open_real(path: Path) -> BinaryIO:
    """Open a regular file by its real path, following no link that came on the way since that was found. Raises OSError.

    Only Linux opens a folder that may not be listed: elsewhere the file and its own folder are looked at.
    """
    root = Path(path.anchor) if hasattr(os, "O_PATH") else path.parent
    return open_inside(root, path.relative_to(root).as_posix())


def private_memory(size: int) -> mmap.mmap:
    """Addresses for `size` bytes, whose memory is taken page by page. Raises OSError when there are none."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # Private: pages of a shared map, the default, stay in memory when they are given back.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def advise(pages: mmap.mmap, advice: Advice, start: int, length: int) -> None:
    """Advise the system about pages. Windows takes no advice, and keeps the memory until the process ends."""
    if hasattr(pages, "madvise") and hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice), start, length)

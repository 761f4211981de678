"""Data folder: everything that the kit writes lies under it.

Knows its size and its errors. Knows not what lies in it.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phi3kit.core.errors import LimitReached, StorageFailed
from phi3kit.core.settings import Settings

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def keep_private() -> None:
    """Let what this process and its children write be read by its user alone."""
    os.umask(0o077)


def prepare_home(home: Path) -> None:
    """Make the data folder and see that it can be written. Raises StorageFailed."""
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        _close_to_others(home)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"x" * 4096)


def keep_temporary_files(home: Path) -> None:
    """Let temporary files of this process and its children lie in the data folder too, where it can be written."""
    folder = home / "tmp"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """Translate the file system's errors. Raises StorageFailed."""
    try:
        yield
    except OSError as error:
        raise unwritable(home, f"{error.strerror or error}.") from error


def unwritable(home: Path, why: str) -> StorageFailed:
    """The error for a data folder that cannot be written."""
    return StorageFailed(
        what=f"The data folder {home} cannot be written.",
        why=why,
        next_step="Free some space or set PHI3KIT_HOME to a folder that you may write to.",
    )


def disk_bytes(home: Path) -> int:
    """The size of a folder; a file with two names (hard links) counts once."""
    return sum({found.st_ino: found.st_size for _, found in files_under(home)}.values())


def files_under(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder; links are none. What is deleted at this moment, a file or a whole folder, is left out."""
    for place, _, names in os.walk(folder):  # rglob would raise for a folder that goes
        for name in names:
            path = Path(place, name)
            with suppress(OSError):
                if stat.S_ISREG((found := path.lstat()).st_mode):
                    yield path, found


def changed_at(path: Path) -> float:
    """When a file or a folder was last changed, in seconds since the epoch; 0 when it is gone."""
    with suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def check_room(settings: Settings) -> None:
    """Let something be written that stays. Raises LimitReached when the data folder is as large as it may be."""
    most = settings.limits.disk_mb
    if most is not None and (held := disk_bytes(settings.home)) > most * 1_000_000:
        hours = settings.limits.keep_hours
        raise LimitReached(
            "The data folder is full.",
            f"It holds {held / 1e6:,.0f} MB; the limit is {most:,} MB (PHI3KIT_DISK_MB).",
            f"Anything older than {hours} h is deleted automatically. Try again later."
            if hours
            else "Ask an admin to clean up.",
            retry_after_s=600,
        )


def _close_to_others(home: Path) -> None:
    """Let only its owner into the data folder. A folder that everybody shares, as /tmp, stays as it is."""
    with suppress(OSError):  # another user's, or a file system without owners
        mode = home.stat().st_mode
        if mode & 0o077 and not mode & stat.S_ISVTX:
            home.chmod(stat.S_IMODE(mode) & 0o700)

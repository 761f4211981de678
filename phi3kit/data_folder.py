"""Data folder: everything that the kit writes lies under it, and a folder that cannot be written is one clear error."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phi3kit.errors import StorageFailed

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare_home(home: Path) -> None:
    """Make the data folder and see that it can be written. Raises StorageFailed."""
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"x" * 4096)


@contextmanager
def writing(home: Path) -> Iterator[None]:
    """Translate what the file system says when it takes no more."""
    try:
        yield
    except OSError as error:
        raise unwritable(home, f"{error.strerror or error}.") from error


def unwritable(home: Path, why: str) -> StorageFailed:
    """The error for a data folder that takes no more."""
    return StorageFailed(
        what=f"The data folder {home} cannot be written.",
        why=why,
        next_step="Free some space or set PHI3KIT_HOME to a folder that you may write to.",
    )

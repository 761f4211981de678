"""Draft: a new file beside an output, which becomes the output once it is whole; its size is bounded.

Knows files and the disk. Knows no tables.
"""

import io
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from phi3kit.core.errors import StorageFailed
from phi3kit.core.operating_system import create

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEFT_BYTES = 200_000_000  # of the disk, for everybody else
_LOOK_BYTES = 16_000_000  # written between two looks at the disk


@contextmanager
def drafted(output: Path, most_bytes: int) -> Iterator[BinaryIO]:
    """A file to be written, which takes the output's place at the end and is gone after an error.

    Raises OSError, or StorageFailed beyond `most_bytes` or when the disk is nearly full.
    """
    # No name that can be known before, and a short one: with the output's whole name it might be too long for a file.
    path = output.with_name(f".{output.name[:50]}.{secrets.token_hex(8)}.part")
    raw = _Bounded(create(path), output, most_bytes)
    try:
        with io.BufferedWriter(raw) as file:
            yield file
        path.replace(output)
    finally:
        path.unlink(missing_ok=True)


class _Bounded(io.FileIO):
    """A file that takes so many bytes and no more."""

    def __init__(self, descriptor: int, output: Path, most_bytes: int) -> None:
        super().__init__(descriptor, "wb")
        self._output, self._most_bytes = output, most_bytes
        self._written_bytes = 0
        self._looked_at_bytes = 0

    def write(self, content: "ReadableBuffer", /) -> int:
        """Raises StorageFailed."""
        self._written_bytes += memoryview(content).nbytes
        if self._written_bytes > self._most_bytes:
            raise StorageFailed(
                f"{self._output.name} cannot be written.",
                f"It would have more than {self._most_bytes / 1e6:,.0f} MB, the limit for its input.",
                "Split the input, or remove columns that no prompt needs. Finished rows are kept.",
            )
        if self._written_bytes - self._looked_at_bytes >= _LOOK_BYTES:
            self._looked_at_bytes = self._written_bytes
            if shutil.disk_usage(self._output.parent).free < LEFT_BYTES:
                raise StorageFailed(
                    f"{self._output.name} cannot be written.",
                    f"Less than {LEFT_BYTES / 1e6:,.0f} MB of disk space would be left.",
                    "Free some space, or choose a file elsewhere with -o. Finished rows are kept.",
                )
        return super().write(content)

"""Files as they are read: a folder, a pipe or a device is refused, for it might be waited for without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO

from app.errors import BadFile


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """The file as a binary stream. Raises BadFile where it cannot be read, when opened or in the block."""
    try:
        refuse_special(path)
        with path.open("rb") as stream:
            yield stream
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"{path}: cannot be read: {reason}; check the path and its permissions") from None


def read_bytes(path: Path, most: int, remedy: str) -> bytes:
    """The whole file. Raises BadFile where it cannot be read, or has more than `most` bytes: then with the remedy."""
    with reading(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise BadFile(f"{path}: is over {most:,} bytes; {remedy}")
    return data


def refuse_special(path: Path) -> None:
    """Raises OSError for what is there and is no regular file."""
    if path.exists() and not path.is_file():
        raise OSError(EINVAL, "it is a folder, a pipe or a device")

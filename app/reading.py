"""Reading files. Folders, pipes and devices are rejected, because reading them could block forever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from typing import BinaryIO

from app.errors import BadFile


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Opens the file as a binary stream. Raises BadFile if it cannot be opened, or read within the block."""
    try:
        refuse_special(path)
        with path.open("rb") as stream:
            yield stream
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"{path}: cannot be read: {reason}; check the path and its permissions") from None


def read_bytes(path: Path, most: int, remedy: str) -> bytes:
    """Reads the whole file. Raises BadFile if that fails, or, with the remedy, if it is larger than `most` bytes."""
    with reading(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise BadFile(f"{path}: larger than {most:,} bytes; {remedy}")
    return data


def refuse_special(path: Path) -> None:
    """Raises OSError for anything that exists and is not a regular file."""
    if path.exists() and not path.is_file():
        raise OSError(EINVAL, "it is a folder, a pipe or a device")

"""The sha256 of a file, for weights and assets alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from app.errors import BadFile


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _count: None) -> str:
    """Hex digest of the file's content, read in pieces; on_bytes is told the size of each.

    Raises BadFile where it cannot be read.
    """
    digest = hashlib.sha256()
    if path.exists() and not path.is_file():
        raise BadFile(f"{path}: is a folder, a pipe or a device; give a file")
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                on_bytes(len(chunk))
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None
    return digest.hexdigest()

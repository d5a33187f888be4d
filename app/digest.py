"""The SHA-256 of files: weights and assets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from app.reading import reading


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _count: None) -> str:
    """Hex digest of the file's content, read in chunks; on_bytes is called with the size of each.

    Raises BadFile if it cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()

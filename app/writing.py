"""Writing files atomically."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import FULL, NotWritable, StorageDown
from app.reading import refuse_special


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content atomically replaces `path`, durably, when the block ends without an exception.

    Until then it is a temporary file in the same folder, which is removed whatever happens.
    Raises NotWritable if the file cannot be written, StorageDown if the disk is full.
    """
    temporary = path.parent / f".splatgate-{secrets.token_hex(8)}.tmp"
    try:
        refuse_special(path)  # a rename would replace a device or a pipe
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        why = f"{path}: cannot be written: {error.strerror or error}"
        if error.errno in FULL:
            raise StorageDown(f"{why}; free space on its disk") from None
        raise NotWritable(f"{why}; check the folder, its permissions and free space") from None


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Splat files on disk: content chooses the reader, suffix the writer; a file is replaced whole or not at all."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from app.errors import FULL, BadFile, BadInput, StorageDown
from app.reading import reading, refuse_special
from app.splat.model import Splat
from app.splat.ply import decode_ply, write_ply
from app.splat.spz import GZIP_MAGIC, MAGIC, ZSTD_MAGIC, decode_spz, encode_spz

SUFFIXES = (".ply", ".spz")


def read_splat(path: Path, max_gaussians: int) -> Splat:
    """Reads a PLY or SPZ file, whatever its suffix says.

    Raises BadFile, naming the file, the field and the remedy, for everything that can be wrong with it.
    """
    return decode_splat(_map(path), max_gaussians, str(path))


def decode_splat(data: bytes | memoryview, max_gaussians: int, name: str = "splat data") -> Splat:
    """Reads a PLY or SPZ from memory, told apart by the first bytes.

    name: what to call the data in a message. Raises BadFile.
    """
    start = bytes(data[:4])
    if start.startswith(b"ply"):
        return decode_ply(data, max_gaussians, name)
    if start.startswith((GZIP_MAGIC, ZSTD_MAGIC, MAGIC)):
        return decode_spz(data, max_gaussians, name)
    found = f"starts with {start!r}" if start else "is empty"
    raise BadFile(f"{name}: {found}: neither a PLY nor an SPZ file; give a 3D Gaussian splat")


def write_splat(path: Path, splat: Splat) -> None:
    """Writes a binary PLY (.ply) or SPZ version 3 (.spz); the path holds the whole new file, or what it held before.

    Raises BadInput where the suffix or a value has no place in the format, BadFile where the file cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path}: suffix {path.suffix!r} names no splat format; use .ply or .spz")
    with replacing(path) as stream:
        if path.suffix.lower() == ".ply":
            write_ply(splat, stream)
        else:
            stream.write(encode_spz(splat))


def copy_splat(source: Path, target: Path) -> None:
    """Copies a file bit for bit, whole or not at all; the two may be the same. Raises BadFile."""
    data = _map(source)
    with replacing(target) as stream:
        stream.write(data)


def stored_as(path: Path) -> str:
    """The suffix that fits the content: ".ply" or ".spz". Raises BadFile."""
    with reading(path) as stream:
        return ".ply" if stream.read(3) == b"ply" else ".spz"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `path`, on disk and in one step, when the block ends without an exception.

    Until then it has a temporary name in the same folder, which is gone afterwards whatever happened.
    Raises BadFile where the file cannot be written, StorageDown where the disk is full.
    """
    temporary = path.parent / f".splatgate-{secrets.token_hex(8)}.tmp"
    try:
        refuse_special(path)  # a rename over a device or a pipe would take its place
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
        raise BadFile(f"{why}; check the folder, its permissions and free space") from None


def _map(path: Path) -> memoryview:
    """The file as a view of its pages: nothing is copied before the header has been checked against the length."""
    with reading(path) as stream:
        if not os.fstat(stream.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Splat files on disk. The content selects the reader, the suffix the writer; files are replaced atomically."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from loguru import logger

from app.errors import BadFile
from app.reading import reading
from app.splat import formats
from app.splat.foreign import name_of
from app.splat.format import Format
from app.splat.model import Splat
from app.writing import replacing


def read_splat(path: Path, max_gaussians: int) -> Splat:
    """Reads a splat file of any format of the registry, whatever its suffix says.

    Raises BadFile, naming the file, the field and the remedy, if the file cannot be used.
    """
    return decode_splat(_map(path), max_gaussians, str(path))


def decode_splat(data: bytes | memoryview, max_gaussians: int, name: str = "splat data") -> Splat:
    """Reads a splat from memory; the first bytes decide the format.

    name: what to call the data in a message. Raises BadFile.
    """
    start = bytes(data[: formats.START_BYTES])
    found = formats.recognized(start)
    if found and found.read:
        splat = found.read(data, max_gaussians, name)
        for note in splat.notes:
            logger.warning("{}: {}", name, note)
        return splat
    if foreign := name_of(start, len(data)):
        what, remedy = foreign
        raise BadFile(f"{name}: is {what}; {remedy}")
    what = f"starts with {start[:4]!r}" if start else "is empty"
    raise BadFile(f"{name}: {what}: neither a PLY nor an SPZ file; give a 3D Gaussian splat")


def write_splat(path: Path, splat: Splat, format: str | None = None) -> None:
    """Writes the splat atomically: after an error the path holds what it held before.

    format: a name in the registry; None selects the format by the suffix.
    Raises BadInput if no format has the suffix or the format cannot hold a value, BadFile if writing fails.
    """
    chosen = formats.written_as(path, format)
    with replacing(path) as stream:
        assert chosen.write
        chosen.write(splat, stream)


def copy_splat(source: Path, target: Path) -> None:
    """Copies a file bit for bit and atomically; source and target may be the same. Raises BadFile."""
    data = _map(source)
    with replacing(target) as stream:
        stream.write(data)


def stored_as(path: Path) -> Format | None:
    """The format of a file, by its content; None if it is unknown. Raises BadFile."""
    with reading(path) as stream:
        return formats.recognized(stream.read(formats.START_BYTES))


def _map(path: Path) -> memoryview:
    """The file, memory-mapped: nothing is copied before the header has been checked against the length."""
    with reading(path) as stream:
        if not os.fstat(stream.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

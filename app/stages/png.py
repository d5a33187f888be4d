"""PNG files before Pillow reads them.

Pillow refuses a picture for a text, a date or a colour profile that is broken or large, although no pixel depends on
it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = struct.Struct(">I4s")  # the length of the data, the type
DEPTH = len(SIGNATURE) + CHUNK.size + 8
"""Where the header says how many bits a channel has."""

OF_USE = (b"tRNS", b"eXIf")
"""Chunks that are not critical, and say how the picture looks: its transparent colour, its orientation."""


def without_metadata(data: bytes) -> bytes:
    """The PNG with its critical chunks and the intact ones of OF_USE. The rest of a file that ends early or is none is
    kept as it is, for Pillow to name."""
    return b"".join((data[: len(SIGNATURE)], *_kept(memoryview(data))))


def bits(data: bytes) -> int:
    """Bits of a channel."""
    return data[DEPTH] if len(data) > DEPTH else 0


def _kept(data: memoryview) -> Iterator[memoryview]:
    start = len(SIGNATURE)
    while start + CHUNK.size <= len(data):
        length, kind = CHUNK.unpack_from(data, start)
        end = start + CHUNK.size + length + 4
        critical = not kind[0] & 0x20  # a capital letter
        if critical or (kind in OF_USE and _is_intact(data[start:end])):
            yield data[start:end]
        if kind == b"IEND":
            return
        start = end
    yield data[start:]


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")

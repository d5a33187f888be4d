"""Removes metadata from a picture before Pillow reads it.

Pillow refuses a PNG or JPEG with a broken or large text, date or colour profile, although no pixel depends on it. In a
WebP it ignores broken metadata.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
CHUNK = struct.Struct(">I4s")  # the length of the data, the type
DEPTH = len(PNG) + CHUNK.size + 8
"""Offset of the number of bits per channel in a PNG."""

CHUNKS = (b"tRNS", b"eXIf")
"""Ancillary chunks of a PNG that affect how it looks: its transparent colour, its orientation."""

JPEG = b"\xff\xd8"
SEGMENT = struct.Struct(">BBH")  # 0xFF, the marker, the length with its own two bytes
SCAN, COMMENT = 0xDA, 0xFE
APPLICATION = range(0xE0, 0xF0)
MARKERS = {0xE0: (b"JFIF\0", 14), 0xE1: (b"", 0), 0xEE: (b"Adobe", 12)}
"""Application segments that affect how a JPEG looks (colour space, orientation): first bytes and minimum size."""


def without_metadata(data: bytes) -> bytes:
    """The PNG or JPEG without the metadata that do not affect how it looks; other files unchanged. Everything from a
    damaged place on is kept, for Pillow to report."""
    if data.startswith(PNG):
        return b"".join((PNG, *_chunks(memoryview(data))))
    if data.startswith(JPEG):
        return b"".join((JPEG, *_segments(memoryview(data))))
    return data


def bits(data: bytes) -> int:
    """Bits per channel."""
    return data[DEPTH] if data.startswith(PNG) and len(data) > DEPTH else 8


def _chunks(data: memoryview) -> Iterator[memoryview]:
    start = len(PNG)
    while start + CHUNK.size <= len(data):
        length, kind = CHUNK.unpack_from(data, start)
        end = start + CHUNK.size + length + 4
        critical = not kind[0] & 0x20  # a capital letter
        if critical or (kind in CHUNKS and _is_intact(data[start:end])):
            yield data[start:end]
        if kind == b"IEND":
            return
        start = end
    yield data[start:]


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _segments(data: memoryview) -> Iterator[memoryview]:
    start = len(JPEG)
    while start + SEGMENT.size <= len(data):
        first, marker, length = SEGMENT.unpack_from(data, start)
        if first != 0xFF or not 0xC0 <= marker < 0xFF or marker == SCAN:
            break
        end = start + 2 + length
        beginning, least = MARKERS.get(marker, (b"", len(data) + 1))
        segment = data[start + SEGMENT.size : end]
        looks = len(segment) >= least and segment[: len(beginning)] == beginning
        if looks or (marker not in APPLICATION and marker != COMMENT):
            yield data[start:end]
        start = end
    yield data[start:]

"""PlayCanvas's compressed PLY, read only: chunks of 256 Gaussians with ranges, and four uint32 per Gaussian.

Source of the layout: PlayCanvas's splat-transform. position, scale: 11, 10, 11 bits between the chunk's ends. rotation:
2 bits for the largest of w, x, y, z, then 10 for each of the others. color: 8 bits each for red, green, blue, opacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app.errors import BadFile
from app.splat.format import Format
from app.splat.model import SH_C0, Float32, Splat
from app.splat.ply import REST_COUNTS
from app.splat.ply_rows import check_counts, element_rows, read_header

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
AXES = ("x", "y", "z")
LEAST_OPACITY = 0.499 / 255
"""0 and 255 are read as half a step inside, because their logits would be infinite."""


def recognizes(start: bytes) -> bool:
    """Whether a file begins with the header of a compressed PLY."""
    header = start.partition(b"end_header")[0]
    return start.startswith(b"ply") and b"element chunk" in header and b"packed_position" in header


def decode_compressed_ply(data: bytes | memoryview, max_gaussians: int, name: str = "compressed PLY") -> Splat:
    """Reads a compressed PLY; arguments and errors as for decode_ply."""
    header = read_header(data, name)
    check_counts(header, len(data) - header.size, max_gaussians, name)
    rows = element_rows(header, data, name)
    chunks, packed = rows.get("chunk"), rows["vertex"]
    missing = [field for field in PACKED if field not in (packed.dtype.names or ())]
    if missing or chunks is None or CHUNK * len(chunks) < len(packed):
        what = f"property {missing[0]!r} is missing" if missing else "there are too few chunks"
        raise BadFile(f"{name}: compressed PLY: {what}; export it again")
    chunk = np.arange(len(packed)) // CHUNK
    color = _unpacked(packed["packed_color"], (8, 8, 8, 8))
    rgb = color[:, :3]
    if "min_r" in (chunks.dtype.names or ()):
        rgb = _between(chunks, chunk, rgb, ("r", "g", "b"), "", name)
    opacity = color[:, 3].clip(LEAST_OPACITY, 1 - LEAST_OPACITY)
    position, scale = (_unpacked(packed[field], (11, 10, 11)) for field in ("packed_position", "packed_scale"))
    sh = _harmonics(rows.get("sh"), len(packed), name)
    sh[:, 0] = (rgb - 0.5) / SH_C0
    return Splat(
        means=_between(chunks, chunk, position, AXES, "", name),
        quats=_rotations(packed["packed_rotation"]),
        log_scales=_between(chunks, chunk, scale, AXES, "scale_", name),
        opacity_logits=np.log(opacity / (1 - opacity)),
        sh=sh,
    )


def _unpacked(words: Any, bits: tuple[int, ...]) -> Float32:
    """(N, len(bits)) fields of 32-bit words, the first in the highest bits, as fractions of their range."""
    shift, columns = 32, []
    for width in bits:
        shift -= width
        columns.append(((words.astype(np.uint32) >> shift) & ((1 << width) - 1)) / np.float32((1 << width) - 1))
    return np.column_stack(columns).astype(np.float32)


def _between(chunks: Any, chunk: Any, fractions: Float32, axes: tuple[str, ...], what: str, name: str) -> Float32:
    try:
        low, high = (np.column_stack([chunks[f"{end}_{what}{axis}"] for axis in axes]) for end in ("min", "max"))
    except ValueError as error:
        raise BadFile(f"{name}: compressed PLY: element 'chunk': {error}; export it again") from None
    with np.errstate(over="ignore", invalid="ignore"):  # diagnosis reports values that are not finite
        result: Float32 = (low[chunk] + fractions * (high - low)[chunk]).astype(np.float32)
    return result


def _rotations(words: Any) -> Float32:
    """(N, 4) wxyz."""
    largest = words.astype(np.uint32) >> 30
    others = (_unpacked(words, (2, 10, 10, 10))[:, 1:] - np.float32(0.5)) * np.float32(np.sqrt(2))
    quats = np.empty((len(words), 4), np.float32)
    rest = np.sqrt(np.maximum(0, 1 - np.square(others).sum(axis=1)))
    for index in range(4):
        mask = largest == index
        quats[mask] = np.insert(others[mask], index, rest[mask], axis=1)
    return quats


def _harmonics(rows: Any, count: int, name: str) -> Float32:
    """(N, K, 3), band 0 left at zero. Byte b stands for 8 ((b + 0.5) / 256 - 0.5), but 0 and 255 for -4 and 4."""
    rest = len(rows.dtype.names) if rows is not None else 0
    if rest not in REST_COUNTS or (rows is not None and len(rows) != count):
        raise BadFile(f"{name}: compressed PLY: element 'sh': {rest} coefficients; export it with 0, 9, 24 or 45")
    sh = np.zeros((count, 1 + rest // 3, 3), np.float32)
    if rest:
        stored = np.column_stack([rows[f"f_rest_{i}"] for i in range(rest)]).astype(np.float32)
        values = 8 * np.where(stored == 0, -0.5, np.where(stored == 255, 0.5, (stored + 0.5) / 256 - 0.5))
        sh[:, 1:] = values.reshape(count, 3, -1).transpose(0, 2, 1)
    return sh


FORMAT = Format(name="compressed-ply", suffix=".compressed.ply", recognizes=recognizes, read=decode_compressed_ply)
"""Read only."""

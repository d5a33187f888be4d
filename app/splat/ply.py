"""3DGS PLY, from and to bytes. app.splat.files opens and replaces the files and selects the format.

One layout is written, in pieces, without a second copy of the splat. app.splat.ply_rows reads the rows.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray
from plyfile import PlyListProperty

from app.errors import BadFile, BadInput
from app.splat.format import Format
from app.splat.model import Float32, Splat
from app.splat.ply_rows import check_counts, element_rows, read_header, shortened, text_rows

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
OPACITY = ("opacity",)
LOG_SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
REST_COUNTS = (0, 9, 24, 45)
DEGREE_4 = 72
"""Number of f_rest_ properties at degree 4. Our rasterisers draw degree 3: the last nine per channel are dropped."""

DISC = -20.0
"""log_scale used for the thickness of 2D Gaussians, which have none."""

PIECE = 8192
"""Rows written at a time: 0.6 MB, or 2 MB with all harmonics, which fit a core's cache."""


def decode_ply(data: bytes | memoryview, max_gaussians: int, name: str = "PLY data") -> Splat:
    """Reads a 3DGS PLY: binary of either endianness or ASCII, any property order and scalar type, SH degree 0 to 3.

    data: the whole file. Properties and elements that a splat does not have (normals, faces) are ignored.
    max_gaussians: files with more are rejected before anything is allocated.
    name: what to call the data in a message.

    Values are not checked: NaN and infinity are findings of a diagnosis, not errors of the file.
    Raises BadFile if the data are no such PLY, are truncated, exceed the limit, or have no finite position.
    """
    header = read_header(data, name)
    check_counts(header, len(data) - header.size, max_gaussians, name)
    vertex = header.ply["vertex"]
    rest = _check_properties(vertex, name)
    rows = text_rows(header, data, name) if header.ply.text else element_rows(header, data, name)["vertex"]
    splat = _splat(rows, rest)
    if header.vertical and header.vertical != "y":
        note = f"its header says that {header.vertical} points up, here +Y does: `--up {header.vertical}` turns it"
        splat = replace(splat, notes=(*splat.notes, note))
    if not np.isfinite(splat.means).all(axis=1).any():
        raise BadFile(
            f"{name}: properties x, y, z: no Gaussian has a finite position, there is nothing to repair; make it again"
        )
    return splat


def encode_ply(splat: Splat) -> bytes:
    """The splat as a binary little-endian 3DGS PLY; see write_ply."""
    stream = io.BytesIO()
    write_ply(splat, stream)
    return stream.getvalue()


def write_ply(splat: Splat, stream: BinaryIO) -> None:
    """Writes the 3DGS property order, float32, little-endian, normals zero, axes as they are (+Y up).

    The header has no comment line: the SPZ converters of 404-Repo and (before October 2025) Niantic require
    `element vertex` in the third line (nianticlabs/spz issue 19). Raises BadInput if the splat has no Gaussian.
    """
    if not len(splat):
        raise BadInput("splat: 0 Gaussians; there is nothing to write")
    n, rest = len(splat), 3 * (splat.sh.shape[1] - 1)
    names = (*MEANS, *NORMALS, *DC, *_rest(rest), *OPACITY, *LOG_SCALES, *QUATS)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {n}", *(f"property float {k}" for k in names)]
    stream.write("\n".join([*header, "end_header", ""]).encode())
    table = np.zeros((min(n, PIECE), len(names)), "<f4")
    for start in range(0, n, PIECE):
        rows = table[: n - start]
        _fill(rows, splat, slice(start, start + PIECE))
        stream.write(rows.data)


def _check_properties(vertex: Any, name: str) -> int:
    """Checks that all needed properties are there, as scalars. Returns the number of f_rest_ properties."""
    found = {prop.name for prop in vertex.properties}
    rest = sum(re.fullmatch(r"f_rest_\d+", prop) is not None for prop in found)
    if rest not in (*REST_COUNTS, DEGREE_4):
        raise BadFile(
            f"{name}: properties f_rest_*: there are {rest}; export it with 0, 9, 24 or 45 (SH degree 0 to 3)"
        )
    needed = (*MEANS, *DC, *_rest(rest), *OPACITY, *LOG_SCALES[:2], *QUATS)
    if missing := [field for field in needed if field not in found]:
        raise BadFile(f"{name}: property {missing[0]!r} is missing; export it as an uncompressed 3DGS PLY")
    if lists := [prop.name for prop in vertex.properties if isinstance(prop, PlyListProperty)]:
        raise BadFile(f"{name}: property {shortened(lists[0])!r} is a list; expected a scalar, export it again")
    return rest


def _rest(count: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(count))


def _splat(rows: NDArray[np.void], rest: int) -> Splat:
    """Everything is copied, because the rows may be views of a mapped file. Doubles beyond float32 become infinite."""
    notes = []
    kept = min(rest, REST_COUNTS[-1])
    sh = np.empty((len(rows), 1 + kept // 3, 3), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        sh[:, 0] = _columns(rows, DC)
        if rest:  # stored channel by channel: all of red, then green, then blue
            stored = _columns(rows, _rest(rest)).reshape(len(rows), 3, -1)
            sh[:, 1:] = stored[:, :, : kept // 3].transpose(0, 2, 1)
        if rest == DEGREE_4:
            notes.append("harmonics of degree 4 are dropped: 0 to 3 are kept")
        log_scales, flat = _log_scales(rows)
        if flat:
            notes.append(f"2D Gaussians: read as discs, {flat}")
        return Splat(
            means=_columns(rows, MEANS).copy(),
            quats=_columns(rows, QUATS).copy(),
            log_scales=log_scales,
            opacity_logits=_columns(rows, OPACITY)[:, 0].copy(),
            sh=sh,
            notes=tuple(notes),
        )


def _log_scales(rows: NDArray[np.void]) -> tuple[Float32, str]:
    """(N, 3) log scales, and why they are those of discs; the reason is empty if they are not."""
    if LOG_SCALES[2] not in (rows.dtype.names or ()):
        flat = np.full((len(rows), 1), DISC, np.float32)
        return np.concatenate([_columns(rows, LOG_SCALES[:2]), flat], axis=1), "there is no property scale_2"
    log_scales = _columns(rows, LOG_SCALES).copy()
    for axis, field in enumerate(LOG_SCALES):
        if len(rows) and np.isneginf(log_scales[:, axis]).all():
            log_scales[:, axis] = DISC
            return log_scales, f"{field} is minus infinity throughout"
    return log_scales, ""


def _columns(rows: NDArray[np.void], fields: tuple[str, ...]) -> Float32:
    """(N, len(fields)); a view if the fields are adjacent and float32."""
    table: Float32 = structured_to_unstructured(rows[list(fields)], dtype=np.float32)
    return table


def _fill(table: Float32, splat: Splat, rows: slice) -> None:
    """Copies these Gaussians into the table, all columns except the normals."""
    rest = 3 * (splat.sh.shape[1] - 1)
    _put(table, 0, splat.means[rows])
    _put(table, 6, splat.sh[rows, 0])
    _put(table, 9, splat.sh[rows, 1:].transpose(0, 2, 1).reshape(len(table), rest))
    _put(table, 9 + rest, splat.opacity_logits[rows, None])
    _put(table, 10 + rest, splat.log_scales[rows])
    _put(table, 13 + rest, splat.quats[rows])


def _put(table: Float32, column: int, values: Float32) -> None:
    """Copies (n, k) values into adjacent columns, each row as one record: single floats take three times as long."""
    width = values.shape[1]
    if width:
        record = f"V{4 * width}"
        table[:, column : column + width].view(record)[:] = values.astype("<f4", copy=False).view(record)


FORMAT = Format(
    name="ply",
    suffix=".ply",
    recognizes=lambda start: start.startswith(b"ply"),
    read=decode_ply,
    write=write_ply,
    tolerance=0.005,
)
"""Lossless. The tolerance allows for another backend or device."""

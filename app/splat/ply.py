"""3DGS PLY, bytes in and bytes out. Knows no paths: app.splat.files opens, chooses the format and replaces files.

plyfile owns the grammar that is read (header, types). The rows are taken from the buffer by numpy, because plyfile
believes the header's counts before it has seen the file's length, and what it cannot memory-map (bytes, ASCII) it reads
value by value: 1.7 s for 52,709 Gaussians. Written is only one layout, in pieces: no second copy of the splat is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from numpy.typing import NDArray
from plyfile import PlyData, PlyListProperty, PlyParseError

from app.errors import BadFile, BadInput
from app.splat.format import Format
from app.splat.model import Float32, Splat

MAX_HEADER_BYTES = 65_536
"""A degree-3 3DGS header has 1.5 kB; what is longer is no splat, and no row of a text is longer."""

MAX_LISTS = 100_000
"""Before the vertices: they are walked through one by one, and millions of them would hold up everything else."""

MEANS = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
DC = ("f_dc_0", "f_dc_1", "f_dc_2")
OPACITY = ("opacity",)
LOG_SCALES = ("scale_0", "scale_1", "scale_2")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
REST_COUNTS = (0, 9, 24, 45)
DEGREE_4 = 72
"""Properties f_rest_ of degree 4, which no rasteriser of ours draws: the last nine of each channel are dropped."""

DISC = -20.0
"""log of the thickness of a Gaussian that has none: a 2D Gaussian."""

PIECE = 8192
"""Rows written at a time: 0.6 MB, or 2 MB with all harmonics, that stay in a core's cache until they are written."""


@dataclass(frozen=True)
class Header:
    """The first lines: `ply` has the elements with all counts 0, `counts` what they promise, `size` is in bytes."""

    ply: Any
    counts: dict[str, int]
    size: int

    def row_bytes(self, element: Any) -> int:
        """Fewest bytes one row of the element can take; in ASCII a digit and a separator for each property."""
        if self.ply.text:
            return 2 * len(element.properties)
        return sum(np.dtype(_types(prop, self.ply.byte_order)[0]).itemsize for prop in element.properties)


def decode_ply(data: bytes | memoryview, max_gaussians: int, name: str = "PLY data") -> Splat:
    """Reads a 3DGS PLY: binary of either endianness or ASCII, any property order and scalar type, SH degree 0 to 3.

    data: the whole file. Properties and elements that a splat does not have (normals, faces) are passed over.
    max_gaussians: more than this is refused, before anything is allocated.
    name: what to call the data in a message.

    Values are taken as they are: NaN and infinity are findings of a diagnosis, not errors of the file.
    Raises BadFile where the file is not such a PLY, is cut off, is over the limit, or has no finite position at all.
    """
    header = read_header(data, name)
    check_counts(header, len(data) - header.size, max_gaussians, name)
    vertex = header.ply["vertex"]
    rest = _check_properties(vertex, name)
    rows = _ascii_rows(header, data, name) if header.ply.text else element_rows(header, data, name)["vertex"]
    splat = _splat(rows, rest)
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

    The header carries no comment line: the SPZ converters of 404-Repo and (before October 2025) Niantic want
    `element vertex` in the third line and refuse the file otherwise (nianticlabs/spz issue 19).
    Raises BadInput where the splat has no Gaussian.
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


def read_header(data: bytes | memoryview, name: str) -> Header:
    start = bytes(data[:MAX_HEADER_BYTES])
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", start)
    if first is None:
        raise BadFile(f"{name}: is not a PLY file: its first line is not 'ply'; give a 3DGS PLY")
    # after a header of lines that end in CR alone, a LF belongs to the data
    newline = rb"\r" if first[1] == b"\r" else rb"\r\n|\n"
    last = re.search(rb"[\r\n][ \t]*end_header[ \t]*(" + newline + rb")", start)
    if last is None:
        raise BadFile(f"{name}: header: no line 'end_header' in the first {MAX_HEADER_BYTES:,} bytes; export it again")
    try:
        lines, counts = _strip_counts(re.split(rb"\r\n|\n|\r", start[: last.start()]), name)
        ply = PlyData.read(io.BytesIO("\n".join([*lines, "end_header", ""]).encode()))
    except (PlyParseError, ValueError) as error:
        raise BadFile(f"{name}: header: {_short(str(error))}; export it again") from None
    return Header(ply, counts, last.end())


def _strip_counts(lines: list[bytes], name: str) -> tuple[list[str], dict[str, int]]:
    """The header's lines with every count replaced by 0, and what the counts were."""
    kept, counts, seen = [], {}, set[str]()
    for number, line in enumerate(lines, 1):
        words = _words(line, number, name)
        if words[:1] == ["element"] and len(words) == 3:
            counts[words[1]] = _count(words[1], words[2], name)
            words[2] = "0"
            seen = set()
        if words[:1] == ["property"]:
            if words[-1] in seen:
                raise BadFile(f"{name}: property {_short(words[-1])!r} stands twice in its element; export it again")
            seen.add(words[-1])
        kept.append(" ".join(words) or " ")  # an entirely empty line is the end of the file to plyfile
    return kept, counts


def _words(line: bytes, number: int, name: str) -> list[str]:
    """Split as plyfile splits; a comment has none, being free text in any encoding."""
    if re.match(rb"\s*(comment|obj_info)\b", line):
        return []
    if not line.isascii():
        raise BadFile(f"{name}: header: line {number} is not ASCII; rename what it declares and export it again")
    return line.decode("ascii").split()


def _count(element: str, word: str, name: str) -> int:
    if not word.isdecimal() or len(word) > 18:
        raise BadFile(f"{name}: element {_short(element)!r}: {_short(word)!r} is not a count; export it again")
    return int(word)


def check_counts(header: Header, available: int, max_gaussians: int, name: str) -> None:
    if "vertex" not in header.ply:
        raise BadFile(f"{name}: header: there is no element 'vertex'; export it as a 3DGS PLY")
    needed = sum(header.counts[element.name] * header.row_bytes(element) for element in header.ply.elements)
    if needed > available + header.ply.text:  # the last line of a text may end without a newline
        raise BadFile(
            f"{name}: header: promises {header.counts['vertex']:,} Gaussians, at least {needed:,} bytes, and"
            f" {available:,} follow; the file was cut off or damaged, fetch or export it again"
        )
    if not header.counts["vertex"]:
        raise BadFile(f"{name}: element 'vertex': 0 Gaussians; the file is empty, export it again")
    over = next((item for item in header.counts.items() if item[1] > max_gaussians), None)
    if over:
        raise BadFile(
            f"{name}: element {_short(over[0])!r}: {over[1]:,} rows are more than limits.max_gaussians ="
            f" {max_gaussians:,}; raise the limit or prune the splat"
        )


def _check_properties(vertex: Any, name: str) -> int:
    """How many f_rest_ properties there are, once it is clear that all that a splat needs are there as scalars."""
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
        raise BadFile(f"{name}: property {_short(lists[0])!r} is a list; expected a scalar, export it again")
    return rest


def _rest(count: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(count))


def element_rows(header: Header, data: bytes | memoryview, name: str) -> dict[str, NDArray[np.void]]:
    """The rows of every element of a binary file that has no lists, by element name; views of the data.

    Elements with lists are passed over. Raises BadFile where the file ends too early, or was changed in transfer.
    """
    offset, order, rows = header.size, header.ply.byte_order, dict[str, NDArray[np.void]]()
    for element in header.ply.elements:
        count = header.counts[element.name]
        if any(isinstance(prop, PlyListProperty) for prop in element.properties):
            if "vertex" in rows and count * len(element.properties) > MAX_LISTS:
                return rows  # what follows the lists is not looked at
            offset = _skip(element, count, order, data, offset, name)
            continue
        kind = element.dtype(order)
        if offset + count * kind.itemsize > len(data):
            raise BadFile(
                f"{name}: element {_short(element.name)!r}: the file ends before its last row; fetch or export it again"
            )
        rows[element.name] = np.frombuffer(data, kind, count, offset)
        offset += count * int(kind.itemsize)
    _check_end(bytes(data[header.size :]) if offset < len(data) else b"", len(data) - offset, name)
    return rows


def _check_end(body: bytes, left: int, name: str) -> None:
    """Raises BadFile for bytes after the last element that a transfer as text explains."""
    if left <= 0 or not body[-left:].strip(b"\0\t\n\r \x1a"):
        return  # padding
    ends = body.count(b"\r\n")
    how = ""
    if 0 < left <= ends == body.count(b"\n"):
        how = "every line feed became CR LF"
    elif left <= 3 * body.count("\N{REPLACEMENT CHARACTER}".encode()) or _is_utf8(body):
        how = "its bytes were taken for text and encoded as UTF-8"
    raise BadFile(
        f"{name}: {left:,} bytes left over after the last element: changed in transfer"
        f"{how and ': '}{how}; fetch it again, in binary mode"
    )


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return not body.isascii()


def _skip(element: Any, count: int, order: str, data: bytes | memoryview, offset: int, name: str) -> int:
    """The offset after an element that stands before the vertices; lists have to be walked through row by row."""
    if not any(isinstance(prop, PlyListProperty) for prop in element.properties):
        return offset + count * int(element.dtype(order).itemsize)
    row = [tuple(np.dtype(kind) for kind in _types(prop, order)) for prop in element.properties]
    if count * len(row) > MAX_LISTS:
        raise BadFile(
            f"{name}: element {_short(element.name)!r}: {count:,} rows with lists stand before the vertices, more than"
            " are walked through; export it with the vertices first"
        )
    try:
        for _ in range(count):
            for head, *values in row:
                length = int(np.frombuffer(data, head, 1, offset)[0]) if values else 0
                offset += head.itemsize + sum(max(length, 0) * value.itemsize for value in values)
    except (ValueError, OverflowError):
        raise BadFile(
            f"{name}: element {_short(element.name)!r}: its lists run past the end; export it again"
        ) from None
    return offset


def _types(prop: Any, order: str) -> tuple[str, ...]:
    """numpy types of a property: one for a scalar, those of the length and of the values for a list."""
    return tuple(prop.list_dtype(order)) if isinstance(prop, PlyListProperty) else (prop.dtype(order),)


def _ascii_rows(header: Header, data: bytes | memoryview, name: str) -> NDArray[np.void]:
    """A row is a line; elements before the vertices are that many lines."""
    names = [element.name for element in header.ply.elements]
    before = sum(header.counts[element] for element in names[: names.index("vertex")])
    fields, count = header.ply["vertex"].properties, header.counts["vertex"]
    lines = map(_plain_numbers, islice(_text_lines(data[header.size :], name), before, before + count))
    try:  # loadtxt warns of an input without lines, so the first is looked at here
        first = list(islice(lines, 1))
        table = np.loadtxt(chain(first, lines), np.float32, comments=None, ndmin=2) if first else np.empty((0, 0))
    except (ValueError, OverflowError) as error:
        raise BadFile(f"{name}: element 'vertex': {_short(str(error))}; export it again") from None
    if table.shape != (count, len(fields)):
        raise BadFile(
            f"{name}: element 'vertex': {table.shape[0]:,} rows of {table.shape[1]} values, the header promises"
            f" {count:,} of {len(fields)}; fetch or export it again"
        )
    return table.view([(field.name, np.float32) for field in fields])[:, 0]


_NOT_A_NUMBER = re.compile(r"[+-]?(?:1\.#(?:IND|QNAN|SNAN)\d*|nan\([^)\s]*\))", re.IGNORECASE)
_INFINITY = re.compile(r"([+-]?)1\.#INF\d*", re.IGNORECASE)
_FORTRAN_EXPONENT = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d)")


def _plain_numbers(line: str) -> str:
    """The line with NaN and infinity as Microsoft's run-times print them, and Fortran's exponents, in C's spelling."""
    if "#" in line or "(" in line:
        line = _INFINITY.sub(r"\1inf", _NOT_A_NUMBER.sub("nan", line))
    return _FORTRAN_EXPONENT.sub("e", line) if "d" in line or "D" in line else line


def _text_lines(body: bytes | memoryview, name: str) -> Iterator[str]:
    """Those that hold anything. One without an end would be parsed to its end, whatever was expected."""
    text = io.TextIOWrapper(io.BytesIO(body), "latin-1")
    while line := text.readline(MAX_HEADER_BYTES):
        if len(line) == MAX_HEADER_BYTES:
            raise BadFile(f"{name}: a line has {MAX_HEADER_BYTES:,} characters or more, no row has; export it again")
        if line.strip():
            yield line


def _splat(rows: NDArray[np.void], rest: int) -> Splat:
    """Copies throughout: the buffer behind the rows may be a mapped file. A double beyond float32 becomes infinite."""
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
    """(N, 3), and why they are those of discs; empty where they are not."""
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
    """(N, len(fields)); a view where the fields lie side by side as float32."""
    table: Float32 = structured_to_unstructured(rows[list(fields)], dtype=np.float32)
    return table


def _fill(table: Float32, splat: Splat, rows: slice) -> None:
    """Puts these Gaussians into the table, all columns but the normals'."""
    rest = 3 * (splat.sh.shape[1] - 1)
    _put(table, 0, splat.means[rows])
    _put(table, 6, splat.sh[rows, 0])
    _put(table, 9, splat.sh[rows, 1:].transpose(0, 2, 1).reshape(len(table), rest))
    _put(table, 9 + rest, splat.opacity_logits[rows, None])
    _put(table, 10 + rest, splat.log_scales[rows])
    _put(table, 13 + rest, splat.quats[rows])


def _put(table: Float32, column: int, values: Float32) -> None:
    """Copies (n, k) values beside each other, a row as one record: float by float takes three times as long."""
    width = values.shape[1]
    if width:
        record = f"V{4 * width}"
        table[:, column : column + width].view(record)[:] = values.astype("<f4", copy=False).view(record)


def _short(text: str) -> str:
    """A quotation from a file, cut: a hostile name may be as long as the header."""
    return text if len(text) <= 80 else f"{text[:77]}..."


FORMAT = Format(
    name="ply",
    suffix=".ply",
    recognizes=lambda start: start.startswith(b"ply"),
    read=decode_ply,
    write=write_ply,
    tolerance=0.005,
)
"""Lossless. The tolerance is for another backend or device."""

"""The grammar of PLY: the header, and the rows of its elements, binary or text. Knows nothing of Gaussians.

plyfile parses the header (types, lists). numpy reads the rows, because plyfile trusts the header's counts before it
knows the length of the file, and reads what it cannot memory-map (bytes, ASCII) value by value: 1.7 s for 52,709
Gaussians.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyListProperty, PlyParseError

from app.errors import BadFile

MAX_HEADER_BYTES = 65_536
"""Longest header, and longest row of a text file. The header of a degree-3 3DGS file has 1.5 kB."""

MAX_LISTS = 100_000
"""Most lists before the vertices: they are read one by one, and millions would take too long."""

_NOT_A_NUMBER = re.compile(r"[+-]?(?:1\.#(?:IND|QNAN|SNAN)\d*|nan\([^)\s]*\))", re.IGNORECASE)
_INFINITY = re.compile(r"([+-]?)1\.#INF\d*", re.IGNORECASE)
_FORTRAN_EXPONENT = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d)")


@dataclass(frozen=True)
class Header:
    """The header. ply: the elements, all counts 0. counts: what the file promises. size: bytes.

    vertical: the axis that a comment calls vertical, as nerfstudio's exporter does; empty without one.
    """

    ply: Any
    counts: dict[str, int]
    size: int
    vertical: str = ""

    def row_bytes(self, element: Any) -> int:
        """Least bytes that a row of the element can take; in ASCII a digit and a separator per property."""
        if self.ply.text:
            return 2 * len(element.properties)
        return sum(np.dtype(_types(prop, self.ply.byte_order)[0]).itemsize for prop in element.properties)


def read_header(data: bytes | memoryview, name: str) -> Header:
    start = bytes(data[:MAX_HEADER_BYTES])
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", start)
    if first is None:
        raise BadFile(f"{name}: is not a PLY file: its first line is not 'ply'; give a 3DGS PLY")
    # if the header's lines end in CR alone, a following LF belongs to the data
    newline = rb"\r" if first[1] == b"\r" else rb"\r\n|\n"
    last = re.search(rb"[\r\n][ \t]*end_header[ \t]*(" + newline + rb")", start)
    if last is None:
        raise BadFile(f"{name}: header: no line 'end_header' in the first {MAX_HEADER_BYTES:,} bytes; export it again")
    try:
        lines, counts = _strip_counts(re.split(rb"\r\n|\n|\r", start[: last.start()]), name)
        ply = PlyData.read(io.BytesIO("\n".join([*lines, "end_header", ""]).encode()))
    except (PlyParseError, ValueError) as error:
        raise BadFile(f"{name}: header: {shortened(str(error))}; export it again") from None
    vertical = re.search(rb"[\r\n]comment Vertical Axis: (-?[xyz])\s", start[: last.end()])
    return Header(ply, counts, last.end(), vertical[1].decode() if vertical else "")


def _strip_counts(lines: list[bytes], name: str) -> tuple[list[str], dict[str, int]]:
    """The header's lines with every count replaced by 0, and the counts."""
    kept, counts, seen = [], {}, set[str]()
    for number, line in enumerate(lines, 1):
        words = _words(line, number, name)
        if words[:1] == ["element"] and len(words) == 3:
            counts[words[1]] = _count(words[1], words[2], name)
            words[2] = "0"
            seen = set()
        if words[:1] == ["property"]:
            if words[-1] in seen:
                raise BadFile(f"{name}: property {shortened(words[-1])!r} stands twice in its element; export it again")
            seen.add(words[-1])
        kept.append(" ".join(words) or " ")  # plyfile takes an empty line for the end of the file
    return kept, counts


def _words(line: bytes, number: int, name: str) -> list[str]:
    """The words of a line, split as plyfile splits them; none for a comment, which may have any encoding."""
    if re.match(rb"\s*(comment|obj_info)\b", line):
        return []
    if not line.isascii():
        raise BadFile(f"{name}: header: line {number} is not ASCII; rename what it declares and export it again")
    return line.decode("ascii").split()


def _count(element: str, word: str, name: str) -> int:
    if not word.isdecimal() or len(word) > 18:
        raise BadFile(f"{name}: element {shortened(element)!r}: {shortened(word)!r} is not a count; export it again")
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
            f"{name}: element {shortened(over[0])!r}: {over[1]:,} rows are more than limits.max_gaussians ="
            f" {max_gaussians:,}; raise the limit or prune the splat"
        )


def element_rows(header: Header, data: bytes | memoryview, name: str) -> dict[str, NDArray[np.void]]:
    """The rows of every element of a binary file that has no lists, by element name; views of the data.

    Elements with lists are skipped. Raises BadFile if the file ends too early, or was changed in transfer.
    """
    offset, order, rows = header.size, header.ply.byte_order, dict[str, NDArray[np.void]]()
    for element in header.ply.elements:
        count = header.counts[element.name]
        if any(isinstance(prop, PlyListProperty) for prop in element.properties):
            if "vertex" in rows and count * len(element.properties) > MAX_LISTS:
                return rows  # what follows the lists is not needed
            offset = _skip(element, count, order, data, offset, name)
            continue
        kind = element.dtype(order)
        if offset + count * kind.itemsize > len(data):
            raise BadFile(
                f"{name}: element {shortened(element.name)!r}: the file ends before its last row; fetch it again"
            )
        rows[element.name] = np.frombuffer(data, kind, count, offset)
        offset += count * int(kind.itemsize)
    _check_end(bytes(data[header.size :]) if offset < len(data) else b"", len(data) - offset, name)
    return rows


def _check_end(body: bytes, left: int, name: str) -> None:
    """Raises BadFile for bytes after the last element, which a transfer in text mode leaves; padding is allowed."""
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
    """The offset after an element before the vertices; lists have to be read row by row."""
    if not any(isinstance(prop, PlyListProperty) for prop in element.properties):
        return offset + count * int(element.dtype(order).itemsize)
    row = [tuple(np.dtype(kind) for kind in _types(prop, order)) for prop in element.properties]
    if count * len(row) > MAX_LISTS:
        raise BadFile(
            f"{name}: element {shortened(element.name)!r}: {count:,} rows with lists before the vertices, more than"
            " are walked through; export it with the vertices first"
        )
    try:
        for _ in range(count):
            for head, *values in row:
                length = int(np.frombuffer(data, head, 1, offset)[0]) if values else 0
                offset += head.itemsize + sum(max(length, 0) * value.itemsize for value in values)
    except (ValueError, OverflowError):
        raise BadFile(
            f"{name}: element {shortened(element.name)!r}: its lists run past the end; export it again"
        ) from None
    return offset


def _types(prop: Any, order: str) -> tuple[str, ...]:
    """numpy types of a property: one for a scalar; for a list those of its length and of its values."""
    return tuple(prop.list_dtype(order)) if isinstance(prop, PlyListProperty) else (prop.dtype(order),)


def text_rows(header: Header, data: bytes | memoryview, name: str) -> NDArray[np.void]:
    """The vertices of an ASCII file: one row per line, after the lines of the elements before them."""
    names = [element.name for element in header.ply.elements]
    before = sum(header.counts[element] for element in names[: names.index("vertex")])
    fields, count = header.ply["vertex"].properties, header.counts["vertex"]
    lines = map(_plain_numbers, islice(_text_lines(data[header.size :], name), before, before + count))
    try:  # loadtxt warns about input without lines, so the first line is checked here
        first = list(islice(lines, 1))
        table = np.loadtxt(chain(first, lines), np.float32, comments=None, ndmin=2) if first else np.empty((0, 0))
    except (ValueError, OverflowError) as error:
        raise BadFile(f"{name}: element 'vertex': {shortened(str(error))}; export it again") from None
    if table.shape != (count, len(fields)):
        raise BadFile(
            f"{name}: element 'vertex': {table.shape[0]:,} rows of {table.shape[1]} values, the header promises"
            f" {count:,} of {len(fields)}; fetch or export it again"
        )
    return table.view([(field.name, np.float32) for field in fields])[:, 0]


def _plain_numbers(line: str) -> str:
    """The line with Microsoft's NaN and infinity and Fortran's exponents replaced by C's spelling."""
    if "#" in line or "(" in line:
        line = _INFINITY.sub(r"\1inf", _NOT_A_NUMBER.sub("nan", line))
    return _FORTRAN_EXPONENT.sub("e", line) if "d" in line or "D" in line else line


def _text_lines(body: bytes | memoryview, name: str) -> Iterator[str]:
    """The lines that are not blank. Raises BadFile for an overlong line, which numpy would parse to its end."""
    text = io.TextIOWrapper(io.BytesIO(body), "latin-1")
    while line := text.readline(MAX_HEADER_BYTES):
        if len(line) == MAX_HEADER_BYTES:
            raise BadFile(f"{name}: a line has {MAX_HEADER_BYTES:,} characters or more, no row has; export it again")
        if line.strip():
            yield line


def shortened(text: str) -> str:
    """Text quoted from a file, truncated: a hostile name may be as long as the header."""
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Niantic SPZ, from and to bytes. Versions 1 to 3 are a gzip or a zstd stream (404-Repo/spz), version 4 is the NGSP
container. This file knows no paths.

gsply writes; reading is our own. gsply reads paths only, unpacks a stream of any size, rejects zstd streams, and reads
version 1 as fixed point although it holds float16 (nianticlabs/spz, load-spz.cc).

Quantisation of a value x (values outside a field's range are clamped to it):
    means           24-bit fixed point, 12 fraction bits: step 2^-12 (fewer for large objects, more for small ones)
    log_scales      byte / 16 - 10: step 1/16, range -10 .. 5.94
    opacity_logits  byte = 255 * sigmoid(x); 0 and 255, whose logits would be infinite, are read as -6.234 and 6.234,
                    just under half a step inside, so that writing them gives the same byte
    quats           three smallest components, 9 bits and a sign each (versions 1, 2: x, y, z, a byte each)
    sh[:, 0]        (byte / 255 - 0.5) / 0.15: step 0.026, range +-3.33
    sh[:, 1:]       byte / 128 - 1: step 1/128, range -1 .. 0.992
Axes: SPZ's own are ours, +Y up; a file that declares others is rotated.
"""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from app.errors import BadFile, BadInput
from app.splat.axes import from_letters, turned
from app.splat.extent import core_of
from app.splat.format import Format
from app.splat.model import Float32, Splat

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

EXTENDED = 2
"""Flag: the file has extensions, records of (type, length, payload)."""

COORDINATE_SYSTEM = 0xADBE0003
"""Type of the extension that says where x, y and z point in the file (SPZ_ADOBE_coordinate_system)."""

SYSTEMS = (
    *("", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF"),
    *("LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU"),
)
"""The values of COORDINATE_SYSTEM: left or right, up or down, front or back; the first is unspecified."""

Version = Literal[2, 3, 4]
Bytes = NDArray[np.uint8]

_FIXED_POINT_LIMIT = 2**23 - 1
_FRACTION_BITS = 12
_SMALL = 0.25  # world units: 12 fraction bits are too few for an object that lies within this distance of the origin
_LOG_SCALE_RANGE = (-10.0 - 1 / 32, 5.9375 + 1 / 32)
_COLOUR_RANGE = 0.5 / 0.15 + 0.5 / 255 / 0.15
_MAX_FRACTION_BITS = 24
_LOGIT_MARGIN = 0.499  # in steps: at exactly 0.5 the writer's rounding to even would turn 255 into 254
MAX_RATIO, FREE_BYTES = 100, 2**24
"""An SPZ may unpack to this many times its size, or to so many bytes."""

_PIECE = 1 << 20  # bytes unpacked at a time, and the most that may follow the Gaussians (extensions)


@dataclass(frozen=True)
class _Header:
    """The fields that all versions share; `count` Gaussians, SH `degree` 0 to 4."""

    version: int
    count: int
    degree: int
    fraction_bits: int
    flags: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Bytes of a Gaussian in each section: positions, alphas, colours, scales, rotations, higher harmonics."""
        rest = 3 * ((self.degree + 1) ** 2 - 1)
        return (6 if self.version == 1 else 9, 1, 3, 3, 3 if self.version < 3 else 4, rest)


def decode_spz(data: bytes | memoryview, max_gaussians: int, name: str = "SPZ data") -> Splat:
    """Reads SPZ versions 1 to 4; the first bytes tell which container it is.

    data: the whole file.
    max_gaussians: files with more are rejected; a stream is unpacked only as far as its header's count requires.
    name: what to call the data in a message.

    Raises BadFile if the data are not SPZ, damaged, truncated, or over the limit.
    """
    view = memoryview(data)
    try:
        if view[:4] == MAGIC:
            header, sections, extensions = _read_container(view, max_gaussians, name)
        else:
            header, sections, extensions = _read_stream(_pieces(view, name), len(view), max_gaussians, name)
    except (zlib.error, zstandard.ZstdError) as error:
        raise BadFile(f"{name}: cannot be unpacked: {error}; the file is damaged, fetch or export it again") from None
    splat = _in_our_axes(_decode(header, sections), extensions)
    if not np.isfinite(splat.means).all(axis=1).any():  # version 1 stores float16
        raise BadFile(
            f"{name}: positions: no Gaussian has a finite position, there is nothing to repair; make it again"
        )
    return splat


def encode_spz(splat: Splat, version: Version = 3) -> bytes:
    """The splat as SPZ, quantised as described at the top of this file.

    version: 2 (gzip, rotations of 8 bits, for the oldest readers), 3 (gzip, read by everything) or 4 (zstd).
    Raises BadInput for values that SPZ cannot hold: not finite, a zero quaternion, a position beyond 4 million units.
    """
    import gsply  # here, because it imports numba: 0.4 s

    if reason := unstorable(splat):
        raise BadInput(reason)
    logits = np.clip(splat.opacity_logits, -80, 80)  # gives the same byte, without overflow in gsply's exp
    largest = np.abs(splat.quats).max(axis=1, keepdims=True)  # gsply squares them: avoid overflow of float32
    packed = gsply.GSData.from_arrays(
        means=splat.means,
        scales=splat.log_scales,
        quats=splat.quats / largest,
        opacities=logits,
        sh0=splat.sh[:, 0],
        shN=splat.sh[:, 1:] if splat.sh_degree else None,
        format="ply",
    )
    with tempfile.TemporaryDirectory(prefix="splatgate-") as folder:  # gsply writes only to paths
        path = Path(folder, "splat.spz")
        gsply.write_spz(path, packed, version=max(version, 3), fractional_bits=_fraction_bits(splat.means))
        data = _undated(path.read_bytes())
    return _as_version_2(data, splat) if version == 2 else data


def _as_version_2(data: bytes, splat: Splat) -> bytes:
    """Version 3 with the rotations of version 2: x, y, z of the unit quaternion with w >= 0, a byte each."""
    stream = bytearray(gzip.decompress(data))
    header = _Header(*struct.unpack_from("<IIBBB", stream, 4))
    start = 16 + sum(header.widths[:4]) * header.count
    quats = splat.quats / np.linalg.norm(splat.quats.astype(np.float64), axis=1, keepdims=True)
    quats *= np.where(quats[:, :1] < 0, -1, 1)
    stream[start : start + 4 * header.count] = np.rint(quats[:, 1:] * 127.5 + 127.5).astype(np.uint8).tobytes()
    stream[4:8] = struct.pack("<I", 2)
    return gzip.compress(bytes(stream), mtime=0)


def write_spz(splat: Splat, stream: BinaryIO, version: Version = 3) -> None:
    """Writes an SPZ; see encode_spz."""
    stream.write(encode_spz(splat, version))


def unstorable(splat: Splat) -> str:
    """Why SPZ cannot hold the splat, and the remedy; empty where it can."""
    if not len(splat):
        return "splat: 0 Gaussians, there is nothing to write"
    for field in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        if bad := int((~np.isfinite(getattr(splat, field))).sum()):
            return f"{field}: {bad:,} values are not finite; SPZ cannot hold them: repair the splat, or write a .ply"
    if zeros := int((~splat.quats.any(axis=1)).sum()):
        return f"quats: {zeros:,} are zero; SPZ cannot hold them: repair the splat, or write a .ply"
    extent, reach = float(np.abs(splat.means).max()), _FIXED_POINT_LIMIT / 2
    if extent > reach:
        return (
            f"means: {extent:g} units from the origin are beyond SPZ's reach of {reach:,.0f}: "
            "rescale it with `repair --extent 1.5`, or write a .ply"
        )
    return ""


def losses(splat: Splat) -> tuple[str, ...]:
    """What SPZ would lose of a storable splat beyond the usual rounding, a sentence each."""
    bits = _fraction_bits(splat.means)
    found = []
    before, after = (_distinct(each) for each in (splat.means, np.rint(splat.means.astype(np.float64) * 2.0**bits)))
    step, extent = 2.0**-bits, core_of(splat.means).extent
    if after < 0.9 * before or step > extent / 500:
        found.append(
            f"positions: {before:,} distinct ones become {after:,}, in steps of {step:.3g} units "
            f"(the object measures {extent:.3g})"
        )
    for what, values, low, high in (
        ("sizes (logarithms)", splat.log_scales, _LOG_SCALE_RANGE[0], _LOG_SCALE_RANGE[1]),
        ("colours", splat.sh[:, 0], -_COLOUR_RANGE, _COLOUR_RANGE),
        ("harmonics above degree 0", splat.sh[:, 1:], -1.0, 1.0),
    ):
        if clamped := int(((values < low) | (values > high)).sum()):
            found.append(f"{what}: {clamped:,} of {values.size:,} are clamped to {low:.4g} .. {high:.4g}")
    return tuple(found)


def _distinct(means: NDArray[np.floating]) -> int:
    rows = np.ascontiguousarray(means + 0.0)  # no negative zeros
    return len(np.unique(rows.view(f"V{rows.itemsize * 3}")))


def _undated(data: bytes) -> bytes:
    """The file with gzip's timestamp zeroed (RFC 1952: zero means none), so that equal splats give equal bytes."""
    return data[:4] + bytes(4) + data[8:] if data.startswith(GZIP_MAGIC) else data


def _pieces(data: memoryview, name: str) -> Iterator[bytes]:
    if data[:2] == GZIP_MAGIC:
        return _gunzip(data)
    if data[:4] == ZSTD_MAGIC:
        return _unzstd(data)
    raise BadFile(f"{name}: is not an SPZ file: neither a gzip nor a zstd stream nor an NGSP container; give an SPZ")


def _gunzip(data: memoryview) -> Iterator[bytes]:
    """The first member in pieces; zlib verifies its checksum at the end."""
    codec = zlib.decompressobj(wbits=31)
    for start in range(0, len(data), _PIECE):
        fresh: memoryview | bytes = data[start : start + _PIECE]
        while not codec.eof and (out := codec.decompress(fresh, _PIECE)):
            yield out
            fresh = codec.unconsumed_tail
    if not codec.eof:
        raise zlib.error("the stream ends early")


def _unzstd(data: memoryview) -> Iterator[bytes]:
    """The first frame in pieces; the content size that it claims is not trusted."""
    stream = zstandard.ZstdDecompressor().stream_reader(data)
    return iter(lambda: stream.read(_PIECE), b"")


def _fill(buffer: bytearray, pieces: Iterator[bytes], size: int) -> None:
    """Unpacks until the buffer holds at least `size` bytes or the stream ends."""
    while len(buffer) < size and (piece := next(pieces, None)):
        buffer += piece


def _read_stream(
    pieces: Iterator[bytes], packed: int, max_gaussians: int, name: str
) -> tuple[_Header, list[Bytes], bytes]:
    """Versions 1 to 3: a header of 16 bytes, then the sections, all in one compressed stream."""
    buffer = bytearray()
    _fill(buffer, pieces, 16)
    header = _header(buffer, packed, range(1, 4), max_gaussians, name)
    size = header.count * sum(header.widths)
    _fill(buffer, pieces, 16 + size)
    if len(buffer) < 16 + size:
        raise _too_short(header, size, len(buffer) - 16, name)
    _fill(buffer, pieces, 16 + size + _PIECE)
    if len(buffer) >= 16 + size + _PIECE:
        raise BadFile(f"{name}: header: counts {header.count:,} Gaussians and far more follows; export it again")
    body = np.frombuffer(buffer, np.uint8, size, 16)
    extensions = bytes(buffer[16 + size :]) if header.flags & EXTENDED else b""
    return header, np.split(body, np.cumsum(header.widths)[:-1] * header.count), extensions


def _read_container(data: memoryview, max_gaussians: int, name: str) -> tuple[_Header, list[Bytes], bytes]:
    """Version 4: a plain header of 32 bytes, a table of (packed, unpacked) sizes, a zstd stream for each section."""
    header = _header(data, len(data), range(4, 5), max_gaussians, name)
    sizes = [header.count * width for width in header.widths]
    streams = sum(size > 0 for size in sizes)
    count, table = struct.unpack("<BI", bytes(data[15:20]).ljust(5, b"\0"))
    if count != streams or table < 32 or table + 16 * streams > len(data):
        raise BadFile(f"{name}: table of streams: {count} at byte {table:,}, expected {streams}; export it again")
    offset, sections = table + 16 * streams, []
    for index, size in enumerate(sizes):
        packed = struct.unpack_from("<Q", data, table + 16 * index)[0] if size else 0
        section = bytearray()
        _fill(section, _unzstd(data[offset : offset + packed]), size + 1)
        if len(section) != size:
            raise _too_short(header, size, len(section), name)
        sections.append(np.frombuffer(section, np.uint8))
        offset += packed
    return header, sections, bytes(data[32 : min(table, 32 + _PIECE)]) if header.flags & EXTENDED else b""


def _in_our_axes(splat: Splat, extensions: bytes) -> Splat:
    """Rotates the splat if the file declares other axes than SPZ's default, which is ours (RUB: right, up, back)."""
    offset = 0
    while offset + 8 <= len(extensions):
        kind, size = struct.unpack_from("<II", extensions, offset)
        if kind == COORDINATE_SYSTEM and size == 4 and offset + 12 <= len(extensions):
            (system,) = struct.unpack_from("<I", extensions, offset + 8)
            letters = SYSTEMS[system] if system < len(SYSTEMS) else ""
            if not letters or letters == "RUB":
                return splat
            note = f"the file declares its axes as {letters}: turned to RUB (right, up, back), +Y is up"
            return replace(turned(splat, from_letters(letters)), notes=(*splat.notes, note))
        offset += 8 + size
    return splat


def _header(start: bytearray | memoryview, packed: int, versions: range, max_gaussians: int, name: str) -> _Header:
    if bytes(start[:3]) == b"ply":
        raise BadFile(f"{name}: is a compressed PLY (gzip or zstd); decompress it first: gunzip, or zstd -d")
    if len(start) < 16 or bytes(start[:4]) != MAGIC:
        raise BadFile(f"{name}: is not an SPZ file: no SPZ header where it should be; give an SPZ")
    header = _Header(*struct.unpack_from("<IIBBB", start, 4))
    if header.version not in versions:
        raise BadFile(f"{name}: header: version {header.version} in this container; export it as version 1 to 4")
    if header.degree > 4:
        raise BadFile(f"{name}: header: SH degree {header.degree}; degrees 0 to 4 are read, export it with fewer")
    if header.fraction_bits > _MAX_FRACTION_BITS:
        raise BadFile(f"{name}: header: {header.fraction_bits} fraction bits of 24; it is damaged, export it again")
    if not header.count:
        raise BadFile(f"{name}: header: 0 Gaussians; the file is empty, export it again")
    if header.count > max_gaussians:
        raise BadFile(
            f"{name}: header: {header.count:,} Gaussians are more than limits.max_gaussians = {max_gaussians:,};"
            " raise the limit or prune the splat"
        )
    size = header.count * sum(header.widths)
    if size > max(MAX_RATIO * packed, FREE_BYTES):
        raise BadFile(f"{name}: {packed:,} bytes unpack to {size:,}; no splat compresses so well, export it again")
    return header


def _too_short(header: _Header, size: int, found: int, name: str) -> BadFile:
    return BadFile(
        f"{name}: header: counts {header.count:,} Gaussians; a section of {size:,} bytes has {found:,};"
        " the file was cut off or damaged, fetch or export it again"
    )


def _decode(header: _Header, sections: list[Bytes]) -> Splat:
    positions, alphas, colours, scales, rotations, rest = sections
    n = header.count
    sh = np.empty((n, (min(header.degree, 3) + 1) ** 2, 3), np.float32)
    sh[:, 0] = (colours.reshape(n, 3).astype(np.float32) / 255 - 0.5) / 0.15
    sh[:, 1:] = rest.reshape(n, -1, 3)[:, : sh.shape[1] - 1].astype(np.float32) / 128 - 1
    probability = np.clip(alphas, _LOGIT_MARGIN, 255 - _LOGIT_MARGIN) / 255
    return Splat(
        means=_means(header, positions),
        quats=_three_bytes(rotations) if header.version < 3 else _smallest_three(rotations),
        log_scales=scales.reshape(n, 3).astype(np.float32) * np.float32(1 / 16) - np.float32(10),
        opacity_logits=np.log(probability / (1 - probability)).astype(np.float32),
        sh=sh,
        notes=("harmonics of degree 4 are dropped: 0 to 3 are kept",) if header.degree > 3 else (),
    )


def _means(header: _Header, positions: Bytes) -> Float32:
    if header.version == 1:
        return positions.view("<f2").astype(np.float32).reshape(-1, 3)
    words = np.zeros((len(positions) // 3, 4), np.uint8)
    words[:, 1:] = positions.reshape(-1, 3)  # in the upper three bytes, so that the right shift extends the sign
    fixed = words.view("<i4") >> 8
    return (fixed.astype(np.float32) / np.float32(1 << header.fraction_bits)).reshape(-1, 3)


def _three_bytes(rotations: Bytes) -> Float32:
    """x, y, z as bytes; w >= 0 completes the unit quaternion. (N, 4) wxyz."""
    xyz = rotations.reshape(-1, 3) / np.float32(127.5) - np.float32(1)
    w = np.sqrt(np.maximum(0, 1 - (xyz * xyz).sum(axis=1)))
    return np.column_stack([w, xyz])


def _smallest_three(rotations: Bytes) -> Float32:
    """32 bits: index of the largest of x, y, z, w in the top 2, then the others, sign and 9 bits each. (N, 4) wxyz."""
    packed = rotations.view("<u4")
    largest = packed >> 30
    xyzw = np.zeros((len(packed), 4), np.float32)
    for axis in range(4):  # w has the lowest bits; the components before the largest move down
        shift = 10 * (3 - axis - (largest > axis).astype(np.uint32))
        field = packed >> shift
        size = (field & 511) * np.float32(np.sqrt(0.5) / 511)
        xyzw[:, axis] = np.where(field & 512, -size, size)
    rows = np.arange(len(packed))
    xyzw[rows, largest] = 0
    xyzw[rows, largest] = np.sqrt(np.maximum(0, 1 - (xyzw * xyzw).sum(axis=1)))
    return np.roll(xyzw, 1, axis=1)


def _fraction_bits(means: Float32) -> int:
    """12, as other writers use; fewer if the extent needs the integer bits; more for small objects."""
    extent = max(float(np.abs(means).max()), 1e-9)
    room = int(np.floor(np.log2(_FIXED_POINT_LIMIT / extent)))
    return int(np.clip(room, 0, _FRACTION_BITS if extent > _SMALL else min(_MAX_FRACTION_BITS, room)))


FORMAT = Format(
    name="spz",
    suffix=".spz",
    recognizes=lambda start: start.startswith((GZIP_MAGIC, ZSTD_MAGIC, MAGIC)),
    read=decode_spz,
    write=write_spz,
    tolerance=0.02,
    refusal=unstorable,
    losses=losses,
)
"""The tolerance allows for the quantisation."""

FORMAT_2 = Format("spz2", ".spz", write=partial(write_spz, version=2), refusal=unstorable, losses=losses)
FORMAT_4 = Format("spz4", ".spz", write=partial(write_spz, version=4), refusal=unstorable, losses=losses)
"""The other versions, by name only; FORMAT reads all."""

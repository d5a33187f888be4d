"""PLY: files of 3DGS tools are read exactly, ours are read by other tools, garbage is one BadFile."""

from __future__ import annotations

import io

import gsply
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData
from tracing import peak_of

from app.errors import BadFile, BadInput
from app.splat.model import Splat
from app.splat.ply import PIECE, decode_ply, encode_ply
from app.splat.ply_rows import MAX_LISTS

LIMIT = 2_000
NUMPY_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "uint": "u4", "float": "f4", "double": "f8"}
QUICK = settings(max_examples=250)
LONG = settings(max_examples=5_000)


def random_splat(count: int = 5, degree: int = 0, seed: int = 0) -> Splat:
    rng = np.random.default_rng(seed)
    return Splat(
        means=rng.normal(size=(count, 3)),
        quats=rng.normal(size=(count, 4)),
        log_scales=rng.normal(-5, 2, size=(count, 3)),
        opacity_logits=rng.normal(1, 4, size=count),
        sh=rng.normal(size=(count, (degree + 1) ** 2, 3)),
    )


def columns_of(splat: Splat) -> dict[str, np.ndarray]:
    """Each property of a 3DGS file, written out one by one as the format's authors do: f_rest is channel-major."""
    columns = {name: splat.means[:, i] for i, name in enumerate("xyz")}
    columns |= {f"f_dc_{i}": splat.sh[:, 0, i] for i in range(3)}
    higher = splat.sh.shape[1] - 1
    for channel in range(3):
        for k in range(higher):
            columns[f"f_rest_{channel * higher + k}"] = splat.sh[:, 1 + k, channel]
    columns["opacity"] = splat.opacity_logits
    columns |= {f"scale_{i}": splat.log_scales[:, i] for i in range(3)}
    columns |= {f"rot_{i}": splat.quats[:, i] for i in range(4)}
    return columns


def make_ply(columns, kind="binary_little_endian", types=None, newline="\n", before="", before_body=b"", after=""):
    """A PLY written by hand, in the columns' order; `before` and `after` are header lines of other elements."""
    types = dict.fromkeys(columns, "float") | (types or {})
    lines = ["ply", f"format {kind} 1.0", "comment caf\xe9", *before.splitlines()]
    lines += [f"element vertex {len(next(iter(columns.values())))}"]
    lines += [f"property {types[name]} {name}" for name in columns] + [*after.splitlines(), "end_header", ""]
    header = newline.join(lines).encode("latin-1")
    if kind == "ascii":
        rows = [" ".join(f"{value:.9g}" for value in row) for row in zip(*columns.values(), strict=True)]
        return header + before_body + "".join(f"{row}{newline}" for row in rows).encode()
    order = "<" if "little" in kind else ">"
    table = np.empty(len(next(iter(columns.values()))), [(name, order + NUMPY_TYPES[types[name]]) for name in columns])
    for name, column in columns.items():
        table[name] = column
    return header + before_body + table.tobytes()


def assert_same(a: Splat, b: Splat) -> None:
    for field in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


# -- what others write ------------------------------------------------------------------------------------------------


@given(
    data=st.data(),
    count=st.integers(1, 12),
    degree=st.integers(0, 3),
    kind=st.sampled_from(["binary_little_endian", "binary_big_endian", "ascii"]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=150)
def test_any_order_type_endianness_and_extra_properties_are_read_exactly(data, count, degree, kind, newline):
    splat = random_splat(count, degree, seed=count)
    columns = columns_of(splat)
    extra = data.draw(st.dictionaries(st.sampled_from(["nx", "red", "label", "mip"]), st.sampled_from([*NUMPY_TYPES])))
    columns |= {name: np.arange(count) for name in extra}
    order = data.draw(st.permutations(list(columns)))
    doubles = data.draw(st.sets(st.sampled_from(order)))
    types = dict.fromkeys(doubles, "double") | extra
    text = make_ply(
        {name: columns[name] for name in order}, kind, types, newline, after="element face 0\nproperty list uchar int i"
    )
    assert_same(decode_ply(text, LIMIT), splat)


@pytest.mark.parametrize("kind", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_elements_before_the_vertices_are_passed_over(kind):
    splat = random_splat()
    before = "element camera 2\nproperty float f\nelement face 2\nproperty list uchar short i\nproperty uchar flag"
    order = "<" if "little" in kind else ">"
    scalars = np.array([1, 2], order + "f4").tobytes()
    lists = b"\x03" + np.array([1, 2, 3], order + "i2").tobytes() + b"\x07" + b"\x00" + b"\x08"
    body = b"1.0\n2.0\n3 1 2 3 7\n0 8\n" if kind == "ascii" else scalars + lists
    assert_same(decode_ply(make_ply(columns_of(splat), kind, before=before, before_body=body), LIMIT), splat)


def test_integer_properties_become_float32():
    columns = columns_of(random_splat(3)) | {"opacity": np.array([-3, 0, 7])}
    decoded = decode_ply(make_ply(columns, types={"opacity": "char"}), LIMIT)
    np.testing.assert_array_equal(decoded.opacity_logits, np.float32([-3, 0, 7]))
    assert decoded.opacity_logits.dtype == np.float32


def test_a_double_beyond_float32_becomes_infinite_without_a_warning():
    columns = columns_of(random_splat(2)) | {"opacity": np.array([1e300, -1.0])}
    assert decode_ply(make_ply(columns, types={"opacity": "double"}), LIMIT).opacity_logits[0] == np.inf


@pytest.mark.parametrize("kind", ["binary_little_endian", "ascii"])
def test_values_that_are_not_finite_are_kept_for_the_diagnosis(kind):
    columns = columns_of(random_splat(3))
    columns["x"] = np.float32([np.nan, 1, 2])
    columns["opacity"] = np.float32([np.inf, -np.inf, np.nan])
    decoded = decode_ply(make_ply(columns, kind), LIMIT)
    np.testing.assert_array_equal(decoded.means[:, 0], columns["x"])
    np.testing.assert_array_equal(decoded.opacity_logits, columns["opacity"])


def test_blank_lines_in_an_ascii_body_are_no_rows():
    splat = random_splat()
    text = make_ply(columns_of(splat), "ascii")
    assert_same(decode_ply(text.replace(b"end_header\n", b"end_header\n\n \n") + b"\n\n", LIMIT), splat)


def test_what_is_read_does_not_alias_the_file():
    text = bytearray(encode_ply(random_splat(1)))
    decoded = decode_ply(memoryview(text), LIMIT)
    before = decoded.means.copy()
    text[-68:] = bytes(68)
    np.testing.assert_array_equal(decoded.means, before)
    assert decoded.means.flags.writeable


# -- what we write ----------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), degree=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_round_trip_keeps_every_bit(count, degree, seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, size=(count, 11 + 3 * (degree + 1) ** 2), dtype=np.uint32)
    values = bits.view(np.float32)  # any float32 there is: NaN, infinities, denormals
    values[0, :3] = 0.5
    splat = Splat(values[:, :3], values[:, 3:7], values[:, 7:10], values[:, 10], values[:, 11:].reshape(count, -1, 3))
    assert_same(decode_ply(encode_ply(splat), LIMIT), splat)


@pytest.mark.parametrize("count", [PIECE - 1, PIECE, 2 * PIECE + 3])
@pytest.mark.parametrize("degree", [0, 3])
def test_rows_written_in_several_pieces_are_all_there_in_their_order(degree, count):
    splat = random_splat(count, degree)
    rows = np.column_stack([np.zeros((count, 3)), *columns_of(splat).values()]).astype("<f4")
    order = [3, 4, 5, 0, 1, 2, *range(6, rows.shape[1])]  # normals, which are zero, come after the positions
    assert encode_ply(splat).partition(b"end_header\n")[2] == rows[:, order].tobytes()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_header_is_what_the_strictest_readers_expect(degree):
    """404-Repo/spz and older nianticlabs/spz: `element vertex` in line three, nothing but `property float` after it."""
    header = encode_ply(random_splat(7, degree)).split(b"end_header\n")[0].decode().splitlines()
    assert header[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 7"]
    rest = " ".join(f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1)))
    names = f"x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 {rest} opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    assert header[3:] == [f"property float {name}" for name in names.split()]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_plyfile_alone_reads_the_right_fields(degree):
    splat = random_splat(50, degree)
    ply = PlyData.read(io.BytesIO(encode_ply(splat)))
    assert ply.byte_order == "<"
    assert [element.name for element in ply] == ["vertex"]
    for name, column in columns_of(splat).items():
        np.testing.assert_array_equal(ply["vertex"][name], column, err_msg=name)
    assert not any(ply["vertex"][name].any() for name in ("nx", "ny", "nz"))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gsply_reads_the_same_values(degree, tmp_path):
    splat = random_splat(50, degree)
    path = tmp_path / "splat.ply"
    path.write_bytes(encode_ply(splat))
    other = gsply.plyread(path)
    np.testing.assert_array_equal(other.means, splat.means)
    np.testing.assert_array_equal(other.quats, splat.quats)
    np.testing.assert_array_equal(other.scales, splat.log_scales)
    np.testing.assert_array_equal(other.opacities, splat.opacity_logits)
    np.testing.assert_array_equal(other.sh0, splat.sh[:, 0])
    if degree:
        np.testing.assert_array_equal(np.reshape(other.shN, splat.sh[:, 1:].shape), splat.sh[:, 1:])


def test_an_empty_splat_is_not_written():
    with pytest.raises(BadInput, match="0 Gaussians"):
        encode_ply(random_splat(1).take(np.zeros(1, bool)))


@pytest.mark.parametrize("degree", [0, 3])
def test_peak_memory_of_writing_and_reading_stays_under_three_times_the_file(degree):
    splat = random_splat(50_000, degree)
    limit = 3 * len(encode_ply(splat))
    assert peak_of(lambda: decode_ply(encode_ply(splat), len(splat)), limit) < limit  # the file itself is counted


# -- what is broken ---------------------------------------------------------------------------------------------------


MOST = 4_000_000
"""Bytes that reading anything of at most LIMIT Gaussians may take at a time."""


def outcome(data: bytes, limit: int) -> Splat | str:
    """The splat, or the message of the error."""
    try:
        return decode_ply(data, limit, "fuzz")
    except BadFile as error:
        return str(error)


def refused(data: bytes, *words: str, limit: int = LIMIT) -> None:
    """Exactly one BadFile, in one line, that names the file and what is wrong, and nothing large on the way."""
    with pytest.raises(BadFile) as caught:
        decode_ply(data, limit, "broken.ply")
    message = str(caught.value)
    assert message.startswith("broken.ply: ")
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message
    assert peak_of(lambda: outcome(data, limit), MOST) < MOST


VALID = make_ply(columns_of(random_splat(9)))
TEXT = make_ply(columns_of(random_splat(9)), "ascii")


def edit(before: bytes, after: bytes, data: bytes = VALID) -> bytes:
    assert before in data
    return data.replace(before, after, 1)


def with_lists(types: bytes, body: bytes, rows: bytes = b"1") -> bytes:
    data = edit(b"element vertex", b"element face " + rows + b"\nproperty list " + types + b" i\nelement vertex")
    return edit(b"end_header\n", b"end_header\n" + body, data)


EXTRA = make_ply(columns_of(random_splat(9)) | {"nonsense": np.zeros(9)})
BROKEN = {
    "empty": (b"", "first line"),
    "a text": (b"Dear Sir or Madam,\n", "first line"),
    "only the magic": (b"ply\n", "end_header"),
    "header without an end": (b"ply\nformat ascii 1.0\n" + b"comment x\n" * 50_000, "end_header"),
    "body cut by one byte": (VALID[:-1], "promises 9 Gaussians", "cut off"),
    "text cut by a value": (TEXT[: TEXT.rstrip().rindex(b" ")], "element 'vertex'"),
    "text cut by a row": (TEXT[: TEXT.rstrip().rindex(b"\n")], "8 rows of 14 values", "promises 9"),
    "text without a row": (TEXT[: TEXT.index(b"end_header\n") + 11] + b"\n" * 4000, "0 rows"),
    "text row with a value too many": (TEXT.rstrip() + b" 7\n", "element 'vertex'"),
    "word for a number": (edit(b"end_header\n", b"end_header\nseven ", TEXT), "element 'vertex'", "seven"),
    "more promised than there is": (edit(b"vertex 9", b"vertex 10"), "promises 10 Gaussians"),
    "a million million": (edit(b"vertex 9", b"vertex 1000000000000"), "promises 1,000,000,000,000 Gaussians"),
    "a million million in ascii": (edit(b"vertex 9", b"vertex 1000000000000", TEXT), "1,000,000,000,000"),
    "a count beyond any integer": (edit(b"vertex 9", b"vertex " + b"9" * 5000), "is not a count"),
    "a negative count": (edit(b"vertex 9", b"vertex -9"), "'-9' is not a count"),
    "a count in words": (edit(b"vertex 9", b"vertex nine"), "'nine' is not a count"),
    "no Gaussian": (edit(b"vertex 9", b"vertex 0"), "0 Gaussians"),
    "no vertex element": (edit(b"element vertex", b"element points"), "no element 'vertex'"),
    "no element at all": (b"ply\nformat ascii 1.0\nend_header\n", "no element 'vertex'"),
    "missing opacity": (edit(b"property float opacity", b"property float alpha"), "property 'opacity' is missing"),
    "missing second scale": (edit(b"float scale_1", b"float scale_9"), "property 'scale_1' is missing"),
    "a list where a float belongs": (edit(b"float opacity", b"list uchar float opacity"), "'opacity' is a list"),
    "two properties of a name": (edit(b"float rot_3", b"float rot_2"), "'rot_2' stands twice"),
    "two vertex elements": (edit(b"end_header", b"element vertex 1\nproperty float x\nend_header"), "same name"),
    "some of f_rest": (edit(b"float nonsense", b"float f_rest_0", EXTRA), "f_rest_*", "there are 1"),
    "unknown type": (edit(b"float opacity", b"half opacity"), "header", "half"),
    "unknown format": (edit(b"binary_little_endian", b"binary_middle_endian"), "header", "binary_middle_endian"),
    "name that is not ASCII": (edit(b"float rot_3", b"float r\xf6t_3"), "header: line 18 is not ASCII"),
    "absurd element name": (edit(b"element vertex", b"element " + b"v" * 60_000), "no element 'vertex'"),
    "header over the limit": (edit(b"comment", b"comment " + b"x" * 70_000), "end_header", "65,536"),
    "a header with a separator of Unicode": (
        edit(b"element vertex 9", b"element\x1cvertex 9000000000"),
        "9,000,000,000",
    ),
    "end_header with spaces": (edit(b"element vertex", b" end_header \nelement vertex"), "no element 'vertex'"),
    "lists past the end": (with_lists(b"uint double", b"\xff" * 8, b"2"), "'face'", "lists"),
    "vertices past the end": (with_lists(b"uint char", b"\x09\0\0\0"), "'vertex'", "last row"),
    "a list of nan values": (with_lists(b"float char", b"\0\0\xc0\x7f"), "'face'", "lists"),
    "a rowful of elsewhere": (edit(b"element vertex", b"element face 5000\nelement vertex"), "'face'", "max_gaussians"),
    "no finite position": (make_ply(columns_of(random_splat(2)) | {"y": np.full(2, np.nan)}), "x, y, z", "finite"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_error(case):
    data, *words = BROKEN[case]
    refused(data, *words)


def test_more_lists_before_the_vertices_than_can_be_walked_through_are_refused():
    rows = MAX_LISTS + 1
    data = with_lists(b"uchar char", bytes(rows), str(rows).encode())
    refused(data, "'face'", "100,001 rows with lists", "vertices first", limit=rows)
    assert len(decode_ply(with_lists(b"uchar char", bytes(9), b"9"), LIMIT)) == 9


def test_a_text_without_line_breaks_is_refused_before_it_is_parsed():
    refused(TEXT[: TEXT.index(b"end_header\n") + 11] + b"1 " * 100_000, "a line has 65,536 characters or more")


def test_more_gaussians_than_the_limit_are_refused():
    refused(VALID, "9 rows", "limits.max_gaussians = 8", limit=8)


# -- garbage ----------------------------------------------------------------------------------------------------------

FOREIGN = """
ply
format ascii 1.0
format binary_big_endian 1.0
comment
obj_info \xff
end_header
\x20
element vertex 9
element vertex 999999999999
element face 2
element \x1d 3 3
element vertex -1
property float x
property list uchar int l
property list double float m
property uchar \0
"""
LINES = st.sampled_from(FOREIGN.split("\n")).map(lambda line: line.encode("latin-1"))


@st.composite
def mutated(draw: st.DrawFn, originals: tuple[bytes, ...]) -> bytes:
    """A valid file after a few cuts, repeats, overwritten stretches and foreign header lines."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(data)))
        upto = where + draw(st.sampled_from([0, 1, 2, 8, 100]))
        data[where:upto] = draw(st.one_of(st.binary(max_size=9), st.just(data[where:upto] * 2), LINES))
        if draw(st.booleans()):
            start = data.rfind(b"\n", 0, where) + 1
            data[start:start] = draw(LINES) + b"\n"
    return bytes(data)


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """A header that parses, with any elements around the vertices, and a body unrelated to it."""
    types = st.sampled_from([*NUMPY_TYPES, "list uchar short", "list char double", "list float int", "list uint uchar"])
    elements = [(name, draw(st.integers(0, 4)), draw(st.lists(types, max_size=3))) for name in ("camera", "face")]
    elements.insert(draw(st.integers(0, 2)), ("vertex", draw(st.integers(1, 3)), []))
    lines = ["ply", f"format {draw(st.sampled_from(['ascii', 'binary_little_endian', 'binary_big_endian']))} 1.0"]
    for name, count, kinds in elements:
        lines.append(f"element {name} {count}")
        lines += [f"property {kind} p{index}" for index, kind in enumerate(kinds)]
        if name == "vertex":
            fields = draw(st.permutations(list(columns_of(random_splat(1)))))
            lines += [f"property {draw(st.sampled_from([*NUMPY_TYPES]))} {field}" for field in fields]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([20, 200, 2_000]))
    words = " ".join(rng.choice(["0", "1", "-1", "2.5", "1e39", "nan", "\n"], size)) + draw(st.sampled_from(["", " x"]))
    rows = "\n".join([" ".join("1" * 14)] * 9)
    small = rng.integers(0, 256, size).astype(np.uint8) * (rng.random(size) < 0.3)
    body = draw(st.sampled_from([words, rows])).encode() if "ascii" in lines[1] else small.tobytes()
    return "\n".join([*lines, "end_header", ""]).encode() + body


FUZZ = st.one_of(
    plausible(),
    mutated((VALID, TEXT, encode_ply(random_splat(4, 1)))),
    st.lists(LINES, max_size=12).map(lambda lines: b"\n".join([b"ply", *lines, b"end_header", b"1 2 3"])),
    st.binary(max_size=200).map(lambda tail: b"ply\n" + tail),
    st.binary(max_size=200),
)


def survives(data: bytes) -> None:
    found = outcome(data, LIMIT)
    if isinstance(found, str):
        assert found.startswith("fuzz: ")
        assert "\n" not in found
    else:
        assert 1 <= len(found) <= LIMIT
    assert peak_of(lambda: outcome(data, LIMIT), MOST) < MOST


@given(FUZZ)
@QUICK
def test_garbage_gives_a_splat_or_a_bad_file(data):
    survives(data)


@pytest.mark.slow
@given(FUZZ)
@LONG
def test_thousands_of_pieces_of_garbage_give_a_splat_or_a_bad_file(data):
    survives(data)

"""SPZ in and out: every version and wrapping is read, gsply reads what we write, bombs and garbage are one BadFile."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable

import gsply
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tracing import peak_of

from app.errors import BadFile, BadInput
from app.splat.model import Splat, sigmoid
from app.splat.spz import decode_spz, encode_spz

LIMIT = 2_000
REST = {0: 0, 1: 9, 2: 24, 3: 45}


def random_splat(count: int = 5, degree: int = 0, seed: int = 0) -> Splat:
    """Every value within what SPZ can hold."""
    rng = np.random.default_rng(seed)
    return Splat(
        means=rng.uniform(-100, 100, size=(count, 3)),
        quats=rng.normal(size=(count, 4)),
        log_scales=rng.uniform(-10, 5.9, size=(count, 3)),
        opacity_logits=rng.normal(1, 4, size=count),
        sh=rng.uniform(-0.99, 0.99, size=(count, (degree + 1) ** 2, 3)),
    )


def header(version=2, count=4, degree=0, bits=12) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, bits, 0, 0)


def payload(version=2, count=4, degree=0, bits=12, seed=0) -> bytes:
    """A stream of random sections, before compression; version 1 with finite float16 positions."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=3 * count).astype("<f2").tobytes() if version == 1 else rng.bytes(9 * count)
    rotations = (3 if version < 3 else 4) * count
    return header(version, count, degree, bits) + positions + rng.bytes((7 + REST[degree]) * count + rotations)


def by_hand(data: bytes) -> dict[str, np.ndarray]:
    """Versions 1 and 2 value by value, as nianticlabs/spz unpackGaussians does."""
    _, version, count, degree, bits = struct.unpack_from("<4sIIBB", data)
    at = 16
    means = np.empty((count, 3))
    for i in range(3 * count):
        if version == 1:
            means.flat[i] = np.frombuffer(data, "<f2", 1, at)[0]
        else:
            means.flat[i] = int.from_bytes(data[at : at + 3], "little", signed=True) / 2**bits
        at += 2 if version == 1 else 3
    section = lambda width, start: np.frombuffer(data, np.uint8, width * count, start).reshape(count, width) / 1.0  # noqa: E731
    alphas, colours, scales, xyz = (
        section(1, at),
        section(3, at + count),
        section(3, at + 4 * count),
        section(3, at + 7 * count),
    )
    xyz = xyz / 127.5 - 1
    rest = section(REST[degree], at + 10 * count).reshape(count, -1, 3) / 128 - 1
    return {
        "means": means,
        "alphas": alphas[:, 0] / 255,
        "dc": (colours / 255 - 0.5) / 0.15,
        "log_scales": scales / 16 - 10,
        "quats": np.column_stack([np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1))), xyz]),
        "rest": rest,
    }


# -- what others write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("bits", [0, 12, 24])
def test_versions_1_and_2_are_read_as_their_authors_define_them(pack, version, degree, bits):
    data = payload(version, 60, degree, bits, seed=degree)
    expected, splat = by_hand(data), decode_spz(pack(data), LIMIT)
    np.testing.assert_allclose(splat.means, expected["means"], rtol=1e-6)
    np.testing.assert_allclose(splat.quats, expected["quats"], atol=1e-3)  # the root near w = 0
    np.testing.assert_allclose(splat.log_scales, expected["log_scales"], atol=1e-6)
    np.testing.assert_allclose(sigmoid(splat.opacity_logits), expected["alphas"], atol=0.5 / 255)
    np.testing.assert_allclose(splat.sh[:, 0], expected["dc"], atol=1e-5)
    np.testing.assert_allclose(splat.sh[:, 1:], expected["rest"], atol=1e-6)


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("version", [2, 3, 4])
def test_gsply_reads_the_same_values(version, degree, tmp_path):
    data = gzip.compress(payload(version, 300, degree)) if version < 4 else encode_spz(random_splat(300, degree), 4)
    path = tmp_path / "splat.spz"
    path.write_bytes(data)
    other, ours = gsply.read_spz(path), decode_spz(data, LIMIT)
    np.testing.assert_array_equal(other.means, ours.means)
    np.testing.assert_allclose(other.quats, ours.quats, atol=1e-3)
    np.testing.assert_array_equal(other.scales, ours.log_scales)
    np.testing.assert_allclose(np.clip(other.opacities, -6.2344, 6.2344), ours.opacity_logits, atol=1e-3)
    np.testing.assert_allclose(other.sh0, ours.sh[:, 0], atol=1e-6)
    if degree:
        np.testing.assert_allclose(other.shN, ours.sh[:, 1:], atol=1e-6)


def test_opacity_bytes_0_and_255_give_finite_logits_beyond_their_neighbours():
    data = bytearray(payload(2, 256))
    data[16 + 9 * 256 : 16 + 10 * 256] = bytes(range(256))
    logits = decode_spz(gzip.compress(data), LIMIT).opacity_logits
    assert np.isfinite(logits).all()
    assert (np.diff(logits) > 0).all()
    assert logits[0] == pytest.approx(np.log(0.499 / 254.501), abs=1e-5)
    assert logits[255] == -logits[0]


def test_extensions_after_the_gaussians_are_passed_over():
    data = payload(3)
    plain = decode_spz(gzip.compress(data), LIMIT)
    np.testing.assert_array_equal(decode_spz(gzip.compress(data + b"extension" * 100), LIMIT).means, plain.means)


def test_a_zstd_frame_that_does_not_tell_its_size_is_read():
    data = payload(2)
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = packer.compress(data) + packer.flush()
    assert zstandard.get_frame_parameters(frame).content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert len(decode_spz(frame, LIMIT)) == 4


# -- what we write ----------------------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 30), degree=st.integers(0, 3), version=st.sampled_from([3, 4]), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=80)
def test_round_trip_stays_within_half_a_step(count, degree, version, seed):
    splat = random_splat(count, degree, seed)
    back = decode_spz(encode_spz(splat, version), LIMIT)
    tiny = 1e-5
    np.testing.assert_allclose(back.means, splat.means, atol=0.5 / 4096 + tiny)
    np.testing.assert_allclose(back.log_scales, splat.log_scales, atol=0.5 / 16 + tiny)
    np.testing.assert_allclose(sigmoid(back.opacity_logits), sigmoid(splat.opacity_logits), atol=0.5 / 255 + tiny)
    np.testing.assert_allclose(back.sh[:, 0], splat.sh[:, 0], atol=0.5 / (255 * 0.15) + tiny)
    np.testing.assert_allclose(back.sh[:, 1:], splat.sh[:, 1:], atol=0.5 / 128 + tiny)
    unit = splat.quats / np.linalg.norm(splat.quats, axis=1, keepdims=True)
    assert (np.abs((unit * back.quats).sum(axis=1)) > 1 - 3e-6).all()


@pytest.mark.parametrize("version", [3, 4])
def test_writing_what_was_read_changes_nothing(version):
    count = 256
    data = bytearray(payload(3, count, 3, seed=1))
    data[16 + 9 * count : 16 + 10 * count] = bytes(range(256))
    first = decode_spz(gzip.compress(data), LIMIT)
    again = decode_spz(encode_spz(first, version), LIMIT)
    for field in ("means", "log_scales", "opacity_logits", "sh"):
        np.testing.assert_array_equal(getattr(again, field), getattr(first, field), err_msg=field)


@pytest.mark.parametrize("version", [3, 4])
def test_the_bytes_do_not_tell_when_they_were_written(version, monkeypatch):
    splat, written = random_splat(), []
    for now in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        written.append(encode_spz(splat, version))
    assert written[0] == written[1]


def test_beyond_the_range_the_nearest_end_is_stored():
    splat = random_splat(2, 1)
    far = Splat(
        splat.means, splat.quats, splat.log_scales * 0 + [[-30], [30]], np.float32([-500, 500]), splat.sh * 0 + 9
    )
    back = decode_spz(encode_spz(far), LIMIT)
    np.testing.assert_array_equal(back.log_scales[:, 0], np.float32([-10, 5.9375]))
    assert back.opacity_logits.tolist() == pytest.approx([-6.2344, 6.2344], abs=1e-3)
    np.testing.assert_allclose(back.sh[:, 0], 0.5 / 0.15, rtol=1e-6)
    np.testing.assert_allclose(back.sh[:, 1:], 127 / 128)


@pytest.mark.parametrize("extent", [2047, 2049, 1e5, 4e6])
def test_a_large_scene_keeps_its_extent_and_gives_up_fraction_bits(extent):
    splat = random_splat(3)
    wide = Splat(splat.means / 100 * extent, splat.quats, splat.log_scales, splat.opacity_logits, splat.sh)
    back = decode_spz(encode_spz(wide), LIMIT)
    np.testing.assert_allclose(back.means, wide.means, atol=max(extent, 2048) / 2**23)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_quaternions_of_any_length_are_normalised(size):
    splat = random_splat(50)
    sized = Splat(splat.means, splat.quats * np.float32(size), splat.log_scales, splat.opacity_logits, splat.sh)
    np.testing.assert_array_equal(
        decode_spz(encode_spz(sized), LIMIT).quats, decode_spz(encode_spz(splat), LIMIT).quats
    )


@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(field, value):
    splat = random_splat(3)
    getattr(splat, field).flat[1] = value
    with pytest.raises(BadInput, match=f"{field}: 1 values are not finite; .* repair"):
        encode_spz(splat)


def test_zero_quaternions_no_gaussians_and_the_far_distance_are_refused():
    splat = random_splat(3)
    with pytest.raises(BadInput, match="0 Gaussians"):
        encode_spz(splat.take(np.zeros(3, bool)))
    splat.quats[1] = 0
    with pytest.raises(BadInput, match="quats: 1 are zero"):
        encode_spz(splat)
    far = random_splat(3)
    far.means[0, 0] = 1e7
    with pytest.raises(BadInput, match=r"means: 1e\+07 .* reach of 4,194,304: .* write a .ply"):
        encode_spz(far)
    far.means[0, 0] = 4_194_303
    assert decode_spz(encode_spz(far), LIMIT).means[0, 0] == 4_194_303


# -- what is broken ---------------------------------------------------------------------------------------------------


def measured(data: bytes, limit: int = LIMIT) -> tuple[str, int]:
    """The message of the one BadFile ('' if it was read) and the peak of the memory that Python allocated."""
    messages: list[str] = []

    def decode() -> None:
        try:
            assert 1 <= len(decode_spz(data, limit, "broken.spz")) <= limit
            messages.append("")
        except BadFile as error:
            messages.append(str(error))
            assert messages[-1].startswith("broken.spz: ")
            assert "\n" not in messages[-1]

    peak = peak_of(decode, HARMLESS)
    return messages[0], peak


HARMLESS = 2_000_000
"""Bytes that no test here minds: more is measured again."""


def container(streams: list[bytes], sizes: list[int], count=4, degree=0, table=32, number=None) -> bytes:
    number = len(streams) if number is None else number
    start = b"NGSP" + struct.pack("<IIBBBBI12x", 4, count, degree, 12, 0, number, table)
    return (
        start + b"".join(struct.pack("<QQ", len(s), n) for s, n in zip(streams, sizes, strict=True)) + b"".join(streams)
    )


SIZES = [36, 4, 12, 12, 16]
STREAMS = [zstandard.compress(bytes(size)) for size in SIZES]
GZIP = gzip.compress(payload(3, 9, 1))
ZSTD = zstandard.compress(payload(2, 9, 1))
NGSP = encode_spz(random_splat(9, 1), 4)


def recoded(position: int, value: int, data: bytes = NGSP) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


BROKEN = {
    "empty": (b"", "neither a gzip nor a zstd"),
    "a text": (b"Dear Sir or Madam", "neither a gzip nor a zstd"),
    "gzip of something else": (gzip.compress(b"Dear Sir or Madam, nothing"), "no SPZ header"),
    "gzip of nothing": (gzip.compress(b""), "no SPZ header"),
    "zstd of nothing": (zstandard.compress(b""), "no SPZ header"),
    "gzip cut": (GZIP[:-20], "cannot be unpacked", "ends early"),
    "gzip without its checksum": (GZIP[:-8], "ends early"),
    "gzip with a wrong checksum": (recoded(len(GZIP) - 6, GZIP[-6] ^ 1, GZIP), "cannot be unpacked"),
    "zstd cut": (ZSTD[:-20], "counts 9 Gaussians", "cut off"),
    "a payload cut": (gzip.compress(payload(3)[:-1]), "counts 4 Gaussians", "80 bytes has 79"),
    "no Gaussian": (gzip.compress(payload(2, 0)), "0 Gaussians"),
    "degree 5": (gzip.compress(header(2, 1, 5) + bytes(900)), "SH degree 5"),
    "version 9": (gzip.compress(header(9) + bytes(900)), "version 9"),
    "version 4 in gzip": (gzip.compress(header(4) + bytes(900)), "version 4 in this container"),
    "version 0": (zstandard.compress(header(0) + bytes(900)), "version 0"),
    "more fraction bits than bits": (gzip.compress(header(2, 1, 0, 25) + bytes(900)), "25 fraction bits"),
    "four thousand million": (
        gzip.compress(header(2, 2**32 - 1) + bytes(900)),
        "4,294,967,295",
        "max_gaussians = 2,000",
    ),
    "as many as allowed but not there": (gzip.compress(header(2, LIMIT) + bytes(900)), "counts 2,000", "900"),
    "no finite position": (gzip.compress(header(1, 2) + b"\x00\x7c" * 6 + bytes(20)), "finite position"),
    "container: only the magic": (b"NGSP", "no SPZ header"),
    "container: header cut": (NGSP[:17], "table of streams"),
    "container: version 3": (recoded(4, 3), "version 3 in this container"),
    "container: degree 9": (recoded(12, 9), "SH degree 9"),
    "container: stream missing": (recoded(15, 5), "table of streams"),
    "container: table beyond the end": (container(STREAMS, SIZES, table=2**32 - 1), "table of streams"),
    "container: table in the header": (container(STREAMS, SIZES, table=8), "table of streams"),
    "container: cut": (NGSP[:-30], "cut off"),
    "container: short section": (container([STREAMS[1], *STREAMS[1:]], SIZES), "36 bytes has 4"),
    "container: long section": (container([STREAMS[0], STREAMS[0], *STREAMS[2:]], SIZES), "4 bytes has 36"),
    "container: no zstd": (container([b"x" * 40, *STREAMS[1:]], SIZES), "cannot be unpacked"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_error(case):
    data, *words = BROKEN[case]
    message, peak = measured(data)
    for word in words:
        assert word in message
    assert peak < 2_000_000


def test_the_container_of_these_tests_is_read_where_it_is_right():
    assert measured(container(STREAMS, SIZES))[0] == ""


ZEROS = bytes(1 << 20)


def gzip_bomb(start: bytes, mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([packer.compress(start), *(packer.compress(ZEROS) for _ in range(mebibytes)), packer.flush()])


def zstd_bomb(start: bytes, mebibytes: int) -> bytes:
    packer = zstandard.ZstdCompressor(level=9).compressobj()
    return b"".join([packer.compress(start), *(packer.compress(ZEROS) for _ in range(mebibytes)), packer.flush()])


@pytest.mark.parametrize(
    "bomb",
    [
        gzip_bomb(payload(2), 100),
        zstd_bomb(payload(2), 100),
        container([zstd_bomb(b"", 100), *STREAMS[1:]], SIZES),
    ],
    ids=["gzip", "zstd", "container"],
)
def test_a_bomb_is_refused_without_being_unpacked(bomb):
    assert len(bomb) < 400_000
    message, peak = measured(bomb)
    assert "counts 4 Gaussians" in message
    assert peak < 8_000_000


def test_a_bomb_with_as_many_gaussians_as_are_allowed_unpacks_no_more_than_these():
    message, peak = measured(gzip_bomb(header(2, 100_000), 100), limit=100_000)
    assert "counts 100,000 Gaussians" in message
    assert peak < 10_000_000


def test_a_frame_that_asks_for_a_window_of_gigabytes_is_refused():
    frame = b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00"  # no content size, window log 31, an empty last block
    message, peak = measured(frame)
    assert "cannot be unpacked" in message
    assert peak < 2_000_000


def test_a_frame_that_claims_an_exbibyte_is_refused():
    data = payload(2)
    block = struct.pack("<I", len(data) << 3 | 1)[:3] + data  # raw, the last one
    message, peak = measured(b"\x28\xb5\x2f\xfd\xc0\x50" + struct.pack("<Q", 2**60) + block)
    assert "cannot be unpacked" in message
    assert peak < 2_000_000


# -- garbage ----------------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes changed, cut or repeated: outside the compression, or inside it."""
    inside = draw(st.booleans())
    kinds = [
        (payload(v, 6, d), p) for v, d, p in [(1, 0, gzip.compress), (2, 1, zstandard.compress), (3, 2, gzip.compress)]
    ]
    data, pack = draw(st.sampled_from(kinds)) if inside else (draw(st.sampled_from([GZIP, ZSTD, NGSP])), bytes)
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.one_of(st.integers(0, 40), st.integers(0, len(changed))))
        upto = where + draw(st.sampled_from([0, 1, 1, 4, 30]))
        changed[where:upto] = draw(st.one_of(st.binary(max_size=5), st.just(changed[where:upto] * 2)))
    return pack(bytes(changed))


FUZZ = st.one_of(
    mutated(),
    st.binary(max_size=120).map(lambda tail: b"NGSP\x04\0\0\0" + tail),
    st.binary(max_size=120).map(lambda tail: gzip.compress(b"NGSP" + tail)),
    st.tuples(st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"NGSP"]), st.binary(max_size=120)).map(b"".join),
)


@given(FUZZ)
@settings(max_examples=250)
def test_garbage_gives_a_splat_or_a_bad_file(data):
    assert measured(data)[1] < 8_000_000


@pytest.mark.slow
@given(FUZZ)
@settings(max_examples=10_000)
def test_thousands_of_pieces_of_garbage_give_a_splat_or_a_bad_file(data):
    assert measured(data)[1] < 8_000_000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("version", [2, 3])
def test_a_few_kilobytes_that_unpack_to_hundreds_of_megabytes_are_refused(
    pack: Callable[[bytes], bytes], version: int
) -> None:
    data = pack(b"NGSP" + struct.pack("<IIBBBB", version, 1_000_000, 0, 12, 0, 0) + bytes(20_000_000))
    with pytest.raises(BadFile, match="no splat compresses so well"):
        decode_spz(data, 1_000_000)


def test_a_small_splat_may_compress_as_well_as_it_does() -> None:
    one = random_splat(1)
    fields = (one.means, one.quats, one.log_scales, one.opacity_logits, one.sh)
    same = Splat(*(np.repeat(field, 20_000, axis=0) for field in fields))
    assert len(decode_spz(encode_spz(same), 1_000_000)) == 20_000

"""Files as users have them: damaged in transfer, from other run-times, of other kinds, of related formats."""

import gzip
import io
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace

import gsply
import numpy as np
import pytest
import zstandard
from healthy import ball

from app.config import DiagnoseConfig, RepairConfig
from app.errors import BadFile, StageFailed
from app.splat.axes import UP, from_letters, resized, turned
from app.splat.blank import why_blank
from app.splat.cameras import judge_placement, orbit
from app.splat.diagnosis import diagnose
from app.splat.extent import bounding_box
from app.splat.files import decode_splat, write_splat
from app.splat.model import Splat
from app.splat.ply import DISC, encode_ply
from app.splat.raster import prepare, render
from app.splat.repair import repair
from app.splat.spz import SYSTEMS, decode_spz, encode_spz, losses

LIMIT = 100_000
PLY = encode_ply(ball(500))


def read(data: bytes) -> Splat:
    return decode_splat(data, LIMIT, "given")


# ------------------------------------------------------------------------------- changed in transfer


@pytest.mark.parametrize("count", [200, 3_000])
def test_a_transfer_as_text_is_named_with_the_bytes_left_over(count: int) -> None:
    data = encode_ply(ball(count, seed=count))
    damaged = data.replace(b"\n", b"\r\n")
    body = damaged[damaged.index(b"end_header\r\n") + 12 :]
    left = len(body) - len(data[data.index(b"end_header\n") + 11 :])
    with pytest.raises(
        BadFile, match=f"{left:,} bytes left over .*: changed in transfer: every line feed became CR LF"
    ):
        read(damaged)


@pytest.mark.parametrize("errors", ["replace", "latin-1"])
def test_a_transfer_that_encoded_bytes_as_utf_8_is_named(errors: str) -> None:
    text = PLY.decode("latin-1") if errors == "latin-1" else PLY.decode("utf-8", "replace")
    with pytest.raises(BadFile, match="changed in transfer: its bytes were taken for text"):
        read(text.encode())


def test_bytes_after_the_last_element_are_a_damaged_file() -> None:
    with pytest.raises(BadFile, match="7 bytes left over after the last element: changed in transfer"):
        read(PLY + b"garbage")


@pytest.mark.parametrize("padding", [b"\n", b"\r\n", bytes(512)])
def test_padding_after_the_last_element_is_no_fault(padding: bytes) -> None:
    assert len(read(PLY + padding)) == 500


# ------------------------------------------------------------------------------- other run-times


def ascii_ply(opacity: str, header_end: str = "end_header\n") -> bytes:
    names = [
        "x",
        "y",
        "z",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        "opacity",
        "scale_0",
        "scale_1",
        "scale_2",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
    ]
    header = ["ply", "format ascii 1.0", "element vertex 2", *(f"property float {name}" for name in names)]
    row = "0 1 2 0.1 0.2 0.3 {} -4 -4 -4 1 0 0 0\n"
    return ("\n".join([*header, header_end]) + row.format("1.5") + row.format(opacity)).encode()


@pytest.mark.parametrize("text", ["-nan(ind)", "nan(snan)", "NAN(0x8000)", "-1.#IND", "1.#QNAN", "1.#SNAN00"])
def test_nan_in_any_spelling_is_nan(text: str) -> None:
    assert np.isnan(read(ascii_ply(text)).opacity_logits[1])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.#INF", np.inf), ("-1.#INF00", -np.inf), ("-Infinity", -np.inf), ("2.5D+01", 25.0), ("1d-2", 0.01)],
)
def test_infinity_and_exponents_of_other_run_times_are_read(text: str, value: float) -> None:
    assert read(ascii_ply(text)).opacity_logits[1] == np.float32(value)


@pytest.mark.parametrize("text", ["true", "null", "1,5", "0x1p0", "(1)"])
def test_what_is_no_number_is_an_error(text: str) -> None:
    with pytest.raises(BadFile, match="element 'vertex'"):
        read(ascii_ply(text))


@pytest.mark.parametrize("end", ["end_header \n", "end_header\t\r\n", "  end_header\r\n"])
def test_the_last_line_of_the_header_may_have_spaces_and_its_own_line_end(end: str) -> None:
    assert len(read(ascii_ply("1", end))) == 2
    binary = PLY.replace(b"end_header\n", end.encode())
    np.testing.assert_array_equal(read(binary).means, ball(500).means)


# ------------------------------------------------------------------------------- relatives


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_compressed_ply_is_read_as_gsply_reads_it(degree: int) -> None:
    splat = ball(700, degree=degree)
    data = gsply.compress_to_bytes(
        gsply.GSData.from_arrays(
            means=splat.means,
            scales=splat.log_scales,
            quats=splat.quats,
            opacities=splat.opacity_logits,
            sh0=splat.sh[:, 0],
            shN=splat.sh[:, 1:] if degree else None,
            format="ply",
        )
    )
    ours, theirs = read(data), gsply.decompress_from_bytes(data)
    np.testing.assert_allclose(ours.means, theirs.means, atol=1e-6)
    np.testing.assert_allclose(ours.log_scales, theirs.scales, atol=1e-5)
    np.testing.assert_allclose(np.abs((ours.quats * theirs.quats).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(ours.sh[:, 0], theirs.sh0, atol=1e-5)
    assert ours.sh_degree == degree
    if degree:
        np.testing.assert_allclose(ours.sh[:, 1:], theirs.shN, atol=1e-5)
    inside = np.abs(theirs.opacities) < 5
    np.testing.assert_allclose(ours.opacity_logits[inside], theirs.opacities[inside], atol=1e-3)


def test_a_compressed_ply_that_lies_is_one_bad_file() -> None:
    header = b"ply\nformat binary_little_endian 1.0\nelement chunk 1\nproperty float min_x\nelement vertex 300\n"
    header += b"property uint packed_position\nend_header\n"
    with pytest.raises(BadFile, match="compressed PLY: property 'packed_rotation' is missing"):
        read(header + bytes(4 + 1_200))
    with pytest.raises(BadFile, match="cut off"):
        read(header)


def test_degree_4_of_a_ply_is_dropped_with_a_note() -> None:
    splat = ball(20, degree=3)
    columns = {"x": splat.means[:, 0], "y": splat.means[:, 1], "z": splat.means[:, 2]}
    columns |= {f"f_dc_{i}": splat.sh[:, 0, i] for i in range(3)}
    rest = np.concatenate([splat.sh[:, 1:], np.full((20, 9, 3), 7.0)], axis=1).transpose(0, 2, 1).reshape(20, 72)
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(72)} | {"opacity": splat.opacity_logits}
    columns |= {f"scale_{i}": splat.log_scales[:, i] for i in range(3)} | {
        f"rot_{i}": splat.quats[:, i] for i in range(4)
    }
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 20", *(f"property float {k}" for k in columns)]
    data = (
        "\n".join([*lines, "end_header", ""]).encode() + np.column_stack(list(columns.values())).astype("<f4").tobytes()
    )
    back = read(data)
    np.testing.assert_array_equal(back.sh, splat.sh)
    assert back.notes == ("harmonics of degree 4 are dropped: 0 to 3 are kept",)


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_2d_gaussians_are_discs_and_no_fault(axis: int | None) -> None:
    splat = ball(500)
    if axis is None:
        header, body = PLY.split(b"end_header\n", 1)
        rows = np.frombuffer(body, "<f4").reshape(500, -1)
        names = [line.split()[-1] for line in header.splitlines() if line.startswith(b"property")]
        kept = [index for index, name in enumerate(names) if name != b"scale_2"]
        data = header.replace(b"property float scale_2\n", b"") + b"end_header\n" + rows[:, kept].tobytes()
    else:
        splat.log_scales[:, axis] = -np.inf
        data = encode_ply(splat)
    back = read(data)
    flat = 2 if axis is None else axis
    assert (back.log_scales[:, flat] == DISC).all()
    assert diagnose(back, DiagnoseConfig()).healthy
    assert "read as discs" in back.notes[0]


def declared(splat: Splat, system: int, version: int = 4) -> bytes:
    """An SPZ that says where its axes point, as the extension of Adobe does."""
    extension = struct.pack("<III", 0xADBE0003, 4, system)
    if version == 4:
        data = bytearray(encode_spz(splat, 4))
        table = struct.unpack_from("<I", data, 16)[0]
        data[14] |= 2
        data[16:20] = struct.pack("<I", table + len(extension))
        return bytes(data[:table] + extension + data[table:])
    stream = bytearray(gzip.decompress(encode_spz(splat, 3)))
    stream[14] |= 2
    return gzip.compress(bytes(stream) + extension)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("system", range(1, len(SYSTEMS)))
def test_an_spz_that_declares_its_axes_is_turned(system: int, version: int) -> None:
    splat = ball(300)
    letters = SYSTEMS[system]
    stored = turned(splat, np.linalg.inv(from_letters(letters)))
    back = read(declared(stored, system, version))
    np.testing.assert_allclose(back.means, splat.means, atol=2e-4)
    assert (back.notes == ()) is (letters == "RUB")


@pytest.mark.parametrize("system", [0, 17, 4_000_000_000])
def test_axes_that_an_spz_does_not_declare_are_its_own(system: int) -> None:
    assert read(declared(ball(50), system)).notes == ()


# ------------------------------------------------------------------------------- axes and size


@pytest.mark.parametrize("up", list(UP))
def test_a_turned_splat_looks_the_same_from_the_turned_camera(up: str) -> None:
    """+Y of the result is the named axis of the file; view-dependent colours rotate too."""
    axis = np.zeros(3)
    axis["xyz".index(up[-1])] = -1 if up[0] == "-" else 1
    splat = ball(3_000, seed=3, degree=3)
    result = turned(splat, UP[up])
    np.testing.assert_allclose(UP[up] @ axis, [0, 1, 0])
    np.testing.assert_allclose(result.means, splat.means @ UP[up].T.astype(np.float32), atol=1e-7)
    back = turned(result, UP[up].T)
    views = [render(each, [orbit(30, -20, size=64)], device="cpu", sh_degree=3).images for each in (splat, back)]
    assert np.abs(views[0] - views[1]).max() < 0.02


def test_a_splat_on_its_head_is_seen_from_below() -> None:
    splat = ball(3_000, seed=5, degree=2)
    splat.means[:, 1] *= 1.5
    upright = render(splat, [orbit(0, 0, size=64)], device="cpu", sh_degree=2).images[0]
    head = render(turned(splat, UP["-y"]), [orbit(180, 0, size=64)], device="cpu", sh_degree=2).images[0]
    # a half turn about x, seen from behind, is a half turn of the picture
    assert np.abs(head[::-1, ::-1] - upright).max() < 0.02


@pytest.mark.parametrize("factor", [1e-3, 0.02, 1_000.0])
def test_resizing_gives_the_extent_and_is_done_once(factor: float) -> None:
    splat = ball(500)
    log_scales = splat.log_scales + np.float32(np.log(factor))
    far = replace(splat, means=np.float32(factor) * (splat.means + np.float32(3)), log_scales=log_scales)

    def sized(given: Splat) -> Splat:
        low, high = bounding_box(given.means)
        return resized(given, float((high - low).max()), 1.5, (low + high) / 2)

    once = sized(far)
    low, high = bounding_box(once.means)
    assert (high - low).max() == pytest.approx(1.5, rel=1e-5)
    np.testing.assert_allclose((low + high) / 2, 0, atol=1e-4)
    assert sized(once) is once


# ------------------------------------------------------------------------------- other kinds


def sog() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("meta.json", '{"version": 2}')
    return stream.getvalue()


FOREIGN = {
    "glb": (b"glTF\2\0\0\0" + bytes(20), r"glTF binary \(.glb\)"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html><title>Sign in</title>", "an HTML page"),
    "html in capitals": (b"<HTML><BODY>", "an HTML page"),
    "s3": (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>', "error message of an object store"),
    "json": (b'{"detail": "not found"}', "JSON"),
    "sog": (sog(), r"SOG bundle \(.sog\)"),
    "zip": (b"PK\x03\x04" + bytes(40) + b"point_cloud.ply", "ZIP archive"),
    "gzip of a ply": (gzip.compress(PLY), "compressed PLY.*gunzip"),
    "zstd of a ply": (zstandard.compress(PLY), "compressed PLY.*zstd -d"),
    "splat": (np.random.default_rng(1).normal(size=(64, 8)).astype("<f4").tobytes(), "probably a .splat"),
    "ksplat": (bytes([0, 1]) + bytes(5_000), "probably a .ksplat"),
    "png": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "base64": (b"cGx5CmZvcm1hdCBi", "a PLY in base64"),
    "pickle": (b"\x80\x04\x95", "a Python pickle"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_named_with_a_remedy(kind: str) -> None:
    data, message = FOREIGN[kind]
    with pytest.raises(BadFile, match=f"given: is (an? )?{message}"):
        read(data)


# ------------------------------------------------------------------------------- what SPZ loses


@pytest.mark.parametrize("version", [2, 3, 4])
def test_every_version_of_spz_is_written_and_read(version: int, tmp_path) -> None:
    splat = ball(400, degree=1)
    write_splat(tmp_path / "a.spz", splat, {2: "spz2", 3: "spz", 4: "spz4"}[version])
    data = (tmp_path / "a.spz").read_bytes()
    stream = data if version == 4 else gzip.decompress(data)
    assert struct.unpack_from("<I", stream, 4)[0] == version
    back = decode_spz(data, LIMIT)
    np.testing.assert_allclose(back.means, splat.means, atol=2**-13)
    turn = np.abs((back.quats * splat.quats).sum(axis=1) / np.linalg.norm(splat.quats, axis=1))
    assert turn.min() > (0.999 if version == 2 else 0.9999)


def test_a_usual_splat_loses_nothing_worth_saying_and_a_small_one_keeps_its_positions() -> None:
    splat = ball(5_000)
    assert losses(splat) == ()
    small = replace(splat, means=splat.means * np.float32(0.02), log_scales=splat.log_scales + np.float32(np.log(0.02)))
    assert [loss for loss in losses(small) if "positions" in loss] == []
    assert np.ptp(decode_spz(encode_spz(small), LIMIT).means - small.means) < 1e-5


def test_what_spz_cannot_hold_is_said_with_its_figures() -> None:
    far = replace(ball(5_000), means=ball(5_000).means + np.float32([100_000, 0, 0]))
    assert any("steps of 0.0156 units (the object measures 0.7" in loss for loss in losses(far))
    dark = ball(500)
    dark.sh[:7, 0] = -8
    assert losses(dark) == ("colours: 21 of 1,500 are clamped to -3.346 .. 3.346",)
    tiny = ball(500)
    tiny.log_scales[3] = -15
    assert losses(tiny) == ("sizes (logarithms): 3 of 1,500 are clamped to -10.03 .. 5.969",)


# ------------------------------------------------------------------------------- anything


@pytest.mark.parametrize("axis", ["z", "-y"])
def test_the_vertical_axis_that_a_header_names_is_reported(axis: str) -> None:
    named = PLY.replace(b"element vertex", f"comment Vertical Axis: {axis}\nelement vertex".encode(), 1)
    assert f"`--up {axis}` turns it" in read(named).notes[0]
    assert read(PLY.replace(b"element vertex", b"comment Vertical Axis: y\nelement vertex", 1)).notes == ()


@pytest.mark.parametrize("seed", range(8))
def test_garbage_in_a_file_gives_no_warning(seed: int) -> None:
    """Signalling NaNs, infinities and the largest numbers: pytest turns a warning into an error."""
    random = np.random.default_rng(seed)
    data = bytearray(encode_ply(ball(300, degree=seed % 3)))
    start = data.index(b"end_header\n") + 11
    if seed % 2:
        data[start:] = random.integers(0, 256, len(data) - start, dtype=np.uint8).tobytes()
    else:
        for place in random.integers(start, len(data), 3_000):
            data[place] = random.integers(0, 256)
    splat = read(bytes(data))
    diagnosis = diagnose(splat, DiagnoseConfig())
    why_blank(splat, judge_placement(splat))
    prepare(turned(splat, UP["z"]), judge_placement(splat), device="cpu")
    with suppress(StageFailed):
        repaired, _ = repair(splat, diagnosis, RepairConfig(max_lost=1))
        assert np.isfinite(repaired.means).all()

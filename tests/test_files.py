"""Splat files: content decides the format, writes are atomic, and every failure is one BadFile."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.certificate import read_certificate
from app.config import LimitsConfig
from app.digest import sha256_of
from app.errors import BadFile, BadInput
from app.reading import read_bytes
from app.splat.files import copy_splat, decode_splat, read_splat, stored_as, write_splat
from app.splat.model import Splat
from app.splat.ply import encode_ply
from app.splat.spz import encode_spz
from app.stages.picture import read_picture
from app.writing import replacing

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
LIMIT = 4_000_000


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real asset {name} is not on this machine")
    return path


def random_splat(count: int = 5) -> Splat:
    rng = np.random.default_rng(0)
    return Splat(*(rng.normal(size=shape) for shape in ((count, 3), (count, 4), (count, 3), (count,), (count, 1, 3))))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- real assets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "mean_logit"), [("robocop_with_hammer.spz", 267_776, 3.51), ("hamburger.ply", 52_709, 0.676)]
)
def test_a_real_asset_is_read(name, count, mean_logit):
    splat = read_splat(shared(name), LIMIT)
    assert (len(splat), splat.sh_degree) == (count, 0)
    assert splat.opacity_logits.mean() == pytest.approx(mean_logit, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(splat.quats, axis=1), 1, atol=0.01)  # SPZ 2 has a byte an axis
    assert np.abs(splat.means).max() < 0.55


def test_robocop_stands_upright_with_his_hammer_on_the_right_as_in_the_reference():
    splat = read_splat(shared("robocop_with_hammer.spz"), LIMIT)
    with Image.open(shared("robocop_reference_renders.png")) as picture:
        front = np.asarray(picture.convert("L"))[:, :512] < 250
    seen = splat.means[splat.opacity_logits > 0]
    drawn = np.histogram2d(-seen[:, 1], seen[:, 0], bins=200, range=[[-0.6, 0.6]] * 2)[0] > 0  # rows go down, +Y up
    for axis in (0, 1):  # columns tell left from right, rows tell up from down
        upright, mirrored = (
            np.corrcoef(profile(front, axis), profile(mask, axis))[0, 1] for mask in (drawn, np.flip(drawn))
        )
        assert upright > 0.8
        assert mirrored < 0.4


def profile(mask: np.ndarray, axis: int) -> np.ndarray:
    """The share of the silhouette in each of 50 columns (axis 0) or rows (axis 1) between its ends."""
    filled = mask.sum(axis=axis)
    ends = np.flatnonzero(filled)[[0, -1]]
    return np.interp(np.linspace(*ends, 50), np.arange(len(filled)), filled)


def test_a_real_asset_survives_the_way_through_both_formats(tmp_path):
    original = read_splat(shared("hamburger.ply"), LIMIT)
    write_splat(tmp_path / "a.spz", original)
    write_splat(tmp_path / "b.ply", read_splat(tmp_path / "a.spz", LIMIT))
    back = read_splat(tmp_path / "b.ply", LIMIT)
    np.testing.assert_allclose(back.means, original.means, atol=0.51 / 4096)
    np.testing.assert_allclose(back.log_scales, original.log_scales.clip(-10), atol=0.51 / 16)
    assert (tmp_path / "a.spz").stat().st_size < shared("hamburger.ply").stat().st_size / 3


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "encode"), [(".ply", encode_spz), (".spz", encode_ply), ("", encode_ply)])
def test_content_decides_whatever_the_suffix_says(suffix, encode, tmp_path):
    path = tmp_path / f"splat{suffix}"
    path.write_bytes(encode(random_splat(7)))
    assert len(read_splat(path, LIMIT)) == 7


def test_a_splat_is_read_from_memory():
    np.testing.assert_array_equal(decode_splat(encode_ply(random_splat()), LIMIT).means, random_splat().means)
    assert len(decode_splat(memoryview(encode_spz(random_splat(), 4)), LIMIT)) == 5


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "empty.ply").touch()
    (folder / "text.ply").write_text("Dear Sir or Madam")
    (folder / "cut.ply").write_bytes(encode_ply(random_splat())[:-1])
    (folder / "folder.ply").mkdir()
    os.mkfifo(folder / "pipe.ply")
    (folder / "loop.ply").symlink_to(folder / "loop.ply")
    names = {
        "missing.ply": "No such file",
        "empty.ply": "is empty",
        "text.ply": "starts with b'Dear': neither a PLY nor an SPZ",
        "cut.ply": "promises 5 Gaussians",
        "folder.ply": "it is a folder",
        "pipe.ply": "a pipe",
        "loop.ply": "cannot be read",
        "text.ply/inside.ply": "Not a directory",
        "nul\0.ply": "cannot be read: embedded null byte",
        "long" * 100: "cannot be read: File name too long",
    }
    return {name: (folder / name, reason) for name, reason in names.items()} | {"device": (Path("/dev/zero"), "device")}


def test_what_cannot_be_read_is_one_bad_file_that_names_it(tmp_path):
    for path, reason in unreadable(tmp_path).values():
        with pytest.raises(BadFile) as caught:
            read_splat(path, LIMIT)
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)


READERS = {
    "splat": lambda path: read_splat(path, LIMIT),
    "suffix": stored_as,
    "certificate": read_certificate,
    "picture": lambda path: read_picture(path, LimitsConfig()),
    "sha256": sha256_of,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["folder.ply", "pipe.ply", "device", "missing.ply", "nul\0.ply", "loop.ply"])
def test_every_reader_refuses_what_is_no_regular_file(kind, reader, tmp_path):
    path, reason = unreadable(tmp_path)[kind]
    with pytest.raises(BadFile) as caught:
        READERS[reader](path)
    assert str(caught.value).startswith(f"{path}: cannot be read: ")
    assert reason in str(caught.value)


def test_a_file_over_the_limit_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5, "shorten it") == b"12345"
    with pytest.raises(BadFile, match="long: larger than 4 bytes; shorten it"):
        read_bytes(path, 4, "shorten it")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Inside the block a root process is the user nobody, because root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_without_permission_is_one_bad_file(tmp_path):
    path = tmp_path / "secret.ply"
    path.write_bytes(encode_ply(random_splat()))
    path.chmod(0)
    with unprivileged(), pytest.raises(BadFile, match=r"secret.ply: cannot be read: Permission denied; .*permissions"):
        read_splat(path, LIMIT)


def test_a_folder_without_permission_is_one_bad_file(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with unprivileged(), pytest.raises(BadFile, match=r"new.ply: cannot be written: Permission denied"):
            write_splat(tmp_path / "new.ply", random_splat())
    finally:
        tmp_path.chmod(0o755)


@given(st.binary(max_size=64), st.sampled_from([b"", b"ply\n", b"NGSP", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]))
@settings(max_examples=200)
def test_bytes_of_any_sort_give_a_splat_or_a_bad_file(tail, start):
    with pytest.raises(BadFile, match=r"^splat data: "):
        decode_splat(start + tail, LIMIT)


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "A.PLY", "A.Spz"])
def test_the_suffix_chooses_the_format(name, tmp_path):
    write_splat(tmp_path / name, random_splat())
    assert (tmp_path / name).read_bytes()[:2] == (b"pl" if "ply" in name.lower() else b"\x1f\x8b")
    assert len(read_splat(tmp_path / name, LIMIT)) == 5
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.obj", "a", "a.ply.gz"])
def test_another_suffix_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(BadInput, match=r"use .ply or .spz"):
        write_splat(tmp_path / name, random_splat())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "splat.ply"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as stream:  # noqa: PT012
        stream.write(b"new" * 100_000)
        raise error
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["splat.ply"]


def test_a_splat_that_spz_cannot_hold_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "splat.spz"
    write_splat(path, random_splat())
    before, broken = path.read_bytes(), random_splat()
    broken.means[0] = np.nan
    with pytest.raises(BadInput, match="means: 3 values are not finite"):
        write_splat(path, broken)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["splat.spz"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "splat.ply"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the kernel stops the write, as a full disk would
    try:
        with pytest.raises(BadFile, match=r"splat.ply: cannot be written: File too large; .*free space"):
            write_splat(path, random_splat(1_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["splat.ply"]


def test_a_place_that_cannot_be_written_is_one_bad_file(tmp_path):
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder.ply", "file/a.ply", "nowhere/a.ply"):
        with pytest.raises(BadFile, match=f"{name}: cannot be written: "):
            write_splat(tmp_path / name, random_splat())
    assert names_in(tmp_path) == ["file", "folder.ply"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "splat.ply"
    write_splat(path, random_splat(3))
    with replacing(path) as stream:
        stream.write(encode_ply(random_splat(9)))
        assert len(read_splat(path, LIMIT)) == 3
    assert len(read_splat(path, LIMIT)) == 9


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        write_splat(tmp_path / "a.ply", random_splat())
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.ply").stat().st_mode) == 0o640


@pytest.mark.parametrize("target", ["b.ply", "a.ply"])
def test_a_copy_is_the_same_bit_for_bit_even_onto_itself(target, tmp_path):
    content = encode_ply(random_splat(1_000)).replace(b"property", b"comment odd\nproperty", 1)
    (tmp_path / "a.ply").write_bytes(content)
    copy_splat(tmp_path / "a.ply", tmp_path / target)
    assert (tmp_path / target).read_bytes() == content
    assert names_in(tmp_path) == sorted({"a.ply", target})


def test_a_copy_of_a_missing_file_is_one_bad_file_and_writes_nothing(tmp_path):
    with pytest.raises(BadFile, match=r"a.ply: cannot be read: No such file"):
        copy_splat(tmp_path / "a.ply", tmp_path / "b.ply")
    assert names_in(tmp_path) == []

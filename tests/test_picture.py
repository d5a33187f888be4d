"""Pictures that callers bring: what is read, what is refused, and that nothing else can come out."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.config import LimitsConfig
from app.errors import BadFile
from app.stages.picture import FORMATS, encode_png, read_picture

LIMITS = LimitsConfig()
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)


def encoded(form: str, mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_png_jpeg_and_webp_are_read(form):
    picture = read_picture(encoded(form), LIMITS)
    assert (picture.image.mode, picture.image.size, picture.seed, picture.model) == ("RGB", (50, 40), None, "given")


@pytest.mark.parametrize(("mode", "options"), [("RGBA", {}), ("LA", {}), ("P", {"transparency": 3})])
def test_what_is_see_through_stays_so(mode, options):
    assert read_picture(encoded("PNG", mode, **options), LIMITS).image.mode == "RGBA"


def test_a_picture_that_says_it_lies_on_its_side_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(encoded("JPEG", exif=exif), LIMITS).image.size == (40, 50)


def test_a_png_of_a_picture_reads_back_the_same():
    picture = read_picture(encoded("PNG", "RGBA"), LIMITS)
    assert np.array_equal(read_picture(encode_png(picture), LIMITS).image, PIXELS)


def test_another_format_is_refused():
    with pytest.raises(BadFile, match="not a picture that can be read; give a PNG, JPEG or WebP"):
        read_picture(encoded("BMP"), LIMITS)


def test_size_is_checked_before_anything_is_decoded():
    huge = encoded("PNG")
    huge = huge[:16] + (60_000).to_bytes(4, "big") * 2 + huge[24:]
    crc = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    with pytest.raises(BadFile, match="pixels"):
        read_picture(huge[:29] + crc + huge[33:], LIMITS)
    with pytest.raises(BadFile, match=r"50 x 40 pixels, limits.max_picture_pixels is 1,999"):
        read_picture(encoded("PNG"), LimitsConfig(max_picture_pixels=1_999))


def test_a_speck_is_refused():
    stream = io.BytesIO()
    Image.new("RGB", (31, 200)).save(stream, "PNG")
    with pytest.raises(BadFile, match="31 x 200 pixels; 32 a side"):
        read_picture(stream.getvalue(), LIMITS)


def test_a_strip_whose_square_would_fill_the_memory_is_refused():
    stream = io.BytesIO()
    Image.new("RGB", (200_000, 32)).save(stream, "PNG")
    with pytest.raises(BadFile, match=r"200000 x 32 pixels; 5,792 a side are the most.*crop it"):
        read_picture(stream.getvalue(), LIMITS)


def test_a_path_that_is_no_picture_names_itself(tmp_path):
    with pytest.raises(BadFile, match=r"nothing.png: cannot be read: No such file"):
        read_picture(tmp_path / "nothing.png", LIMITS)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(BadFile, match=r"text.png: is not a picture"):
        read_picture(tmp_path / "text.png", LIMITS)


@settings(max_examples=300)
@given(form=st.sampled_from(FORMATS), cut=st.floats(0, 1), place=st.floats(0, 1), value=st.integers(0, 255))
def test_damage_gives_a_picture_or_bad_file_and_nothing_else(form, cut, place, value):
    data = bytearray(encoded(form))
    data[int(place * (len(data) - 1))] = value
    try:
        picture = read_picture(bytes(data[: int(cut * len(data)) + 1]), LIMITS)
    except BadFile:
        return
    assert picture.image.mode in ("RGB", "RGBA")
    picture.image.load()

"""Pictures that callers bring: what is read, what is refused, and that nothing else can come out."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

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
    assert np.array_equal(read_picture(encode_png(picture.image), LIMITS).image, PIXELS)


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


def chunk(kind: bytes, data: bytes, *, intact: bool = True) -> bytes:
    crc = zlib.crc32(kind + data) ^ (not intact)
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", crc)


def with_chunks(png: bytes, *chunks: bytes, end: int = 33) -> bytes:
    """The PNG with more chunks behind its header, or elsewhere."""
    return png[:end] + b"".join(chunks) + png[end:]


def deep_png(values: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits a channel."""
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(read_picture(data, LIMITS).image)


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"eXIf", b"no TIFF at all"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"tEXt", b"key\0text", intact=False),
        chunk(b"tEXt", b"a key that never ends"),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"workflow\0\0" + b"no zlib stream"),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iCCP", b"profile\0\x07" + b"another method"),
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"\0\1"),
        chunk(b"pHYs", b""),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", bytes(26)),
        chunk(b"fdAT", b"\0\0\0\1"),
        chunk(b"tIME", b"", intact=False),
        chunk(b"caNv", bytes(70_000)),
    ],
    ids=lambda data: f"{data[4:8].decode()}-{len(data)}",
)
def test_a_png_whose_metadata_are_broken_is_read(metadata):
    whole = encoded("PNG", "RGBA")
    assert np.array_equal(pixels_of(with_chunks(whole, metadata)), PIXELS)
    assert np.array_equal(pixels_of(with_chunks(whole, metadata, end=len(whole) - 12)), PIXELS)  # behind the pixels


@settings(max_examples=200)
@given(
    kind=st.from_regex(rb"[a-z][A-Za-z]{3}", fullmatch=True).filter(lambda kind: kind not in (b"tRNS", b"eXIf")),
    data=st.binary(max_size=60),
    intact=st.booleans(),
)
def test_no_chunk_that_is_not_critical_changes_the_pixels(kind, data, intact):
    assert np.array_equal(pixels_of(with_chunks(encoded("PNG", "RGBA"), chunk(kind, data, intact=intact))), PIXELS)


SEGMENTS = [b"JFIF", b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Adobe", b"MPF\0", b""]


@settings(max_examples=300)
@given(
    marker=st.sampled_from([*range(0xE0, 0xF0), 0xFE]),
    start=st.sampled_from(SEGMENTS),
    data=st.binary(max_size=20),
)
def test_no_broken_segment_of_an_application_makes_a_jpeg_unreadable(marker, start, data):
    whole, content = encoded("JPEG"), start + data
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    found = pixels_of(whole[:2] + segment + whole[2:])
    if marker not in (0xE1, 0xEE):  # which say orientation and colour space
        assert np.array_equal(found, pixels_of(whole))


def test_a_jpeg_in_the_colours_of_print_stays_as_it_is():
    """Its colour space is in a segment that has to be kept."""
    rgb = Image.new("RGB", (40, 40), (200, 40, 40))
    stream = io.BytesIO()
    rgb.convert("CMYK").save(stream, "JPEG", quality=95, comment=b"drop this")
    assert abs(pixels_of(stream.getvalue()).astype(int) - (200, 40, 40)).max() < 4


@settings(max_examples=200)
@given(data=st.binary(max_size=40), form=st.sampled_from(FORMATS))
def test_garbage_for_exif_turns_the_picture_at_most(data, form):
    """With the first bytes of TIFF, so that something of it is parsed."""
    plain = encoded(form, lossless=True) if form == "WebP" else encoded(form)
    strange = encoded(form, exif=b"Exif\0\0II*\0\x08\0\0\0" + data, **({"lossless": True} if form == "WebP" else {}))
    expected, found = pixels_of(plain), pixels_of(strange)
    turned = [np.asarray(Image.fromarray(expected).transpose(method)) for method in Image.Transpose]
    assert any(np.array_equal(found, one) for one in (expected, *turned))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", FORMATS)
def test_every_orientation_is_turned_as_pillow_turns_it(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(form, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(pixels_of(data), expected)


def test_a_broken_text_does_not_hide_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 8
    data = with_chunks(encoded("PNG", exif=exif), chunk(b"zTXt", b"a\0\0broken"))
    assert read_picture(data, LIMITS).image.size == (40, 50)


SHADES = np.array([0, 255, 256, 20_000, 32_768, 60_000, 65_535], np.uint16)


def shaded(channels: int) -> np.ndarray:
    """(40, 40, channels) of 16 bits."""
    return np.resize(SHADES, (40, 40, channels)).astype(np.uint16)


def test_grey_of_16_bits_keeps_its_shades():
    found = pixels_of(deep_png(shaded(1)[..., 0], 0))
    assert np.array_equal(found[0, :7, 0], [0, 0, 1, 78, 128, 234, 255])
    assert (found[..., :1] == found).all()


def test_a_transparent_shade_of_16_bits_is_transparent():
    shades = shaded(1)[..., 0]
    found = pixels_of(deep_png(shades, 0, chunk(b"tRNS", struct.pack(">H", 60_000))))
    assert np.array_equal(found[..., 3] == 0, shades == 60_000)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_every_other_kind_of_16_bits_keeps_its_upper_8(colour_type, channels):
    values = shaded(channels)
    found, upper = pixels_of(deep_png(values, colour_type)), (values >> 8).astype(np.uint8)
    expected = np.concatenate([upper[..., :1]] * 3 + [upper[..., 1:]], axis=2) if channels == 2 else upper
    assert np.array_equal(found, expected)


def test_a_transparent_colour_of_16_bits_is_transparent():
    values = np.full((40, 40, 3), 20_000, np.uint16)
    values[:20] = 60_000, 50_000, 40_000
    found = pixels_of(deep_png(values, 2, chunk(b"tRNS", struct.pack(">HHH", 60_000, 50_000, 40_000))))
    assert (found[:20, :, 3] == 0).all()
    assert (found[20:, :, 3] == 255).all()


def test_pillow_warns_nobody(recwarn):
    strange = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x02\0\0\0\x06\0"  # ends early
    for form in FORMATS:
        read_picture(encoded(form, exif=strange), LIMITS)
    read_picture(with_chunks(encoded("PNG"), chunk(b"acTL", bytes(8))), LIMITS)
    with pytest.raises(BadFile):
        read_picture(encoded("JPEG")[:200], LIMITS)
    assert not recwarn.list


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF", "AVIF", "JPEG2000"])
def test_a_picture_of_another_format_is_named(form):
    with pytest.raises(BadFile, match=f"is {form.replace('2', ' 2')} data, not a picture that can be read"):
        read_picture(encoded(form), LIMITS)


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

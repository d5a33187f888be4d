"""The value between words and splat: a picture of one object, drawn by a model or given by the caller."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from app.config import LimitsConfig
from app.errors import BadFile
from app.picture_format import format_of
from app.reading import read_bytes
from app.stages.metadata import bits, without_metadata

OnStep = Callable[[int, int], None]
"""Told, while a picture is drawn, how many of how many steps are done."""

FORMATS = ("PNG", "JPEG", "WebP")

PNG_LEVEL = 1
"""zlib's level. Against Pillow's default of 6: half of the time, files a fifth larger (four rendered views)."""
SMALLEST = 32
"""Pixels a side: less holds nothing that a splat could be made of."""
OBLONG = 2
"""The square around a picture has at most so many times limits.max_picture_pixels: a strip of 32 x 500,000 pixels is
small, and its square would take all the memory of the host."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises, by format, for a file that ends early or lies about itself."""
ORIENTATION = 0x0112
"""The EXIF tag."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What to do with a picture of this orientation. Pillow's exif_transpose also rewrites the EXIF data, and fails where
they are damaged."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that took part in making a splat. weights_sha256: of all its files; None where it has none."""

    role: Literal["generator", "text_to_image", "cutout", "image_features", "image_to_splat", "scorer"]
    model: str
    weights_sha256: str | None


@dataclass(frozen=True)
class Picture:
    """image: RGB, or RGBA where it has transparency. seed: it was drawn with; None where the caller gave it.

    model: the id of the model that drew it, or "given".
    """

    image: Image.Image
    seed: int | None
    model: str


def read_picture(source: Path | bytes, limits: LimitsConfig, formats: tuple[str, ...] = FORMATS) -> Picture:
    """A caller's picture: a file of one of the formats or its bytes, upright, as RGB, or RGBA where it is see-through.

    An animation gives its first frame. Metadata that are broken are ignored. Raises BadFile, naming what is wrong:
    another format, broken, too large or too small. The number of pixels is checked before any of them is decoded.
    """
    name = str(source) if isinstance(source, Path) else "the picture"
    if isinstance(source, Path):
        source = read_bytes(source, limits.max_body_mb * 2**20, "make it smaller, or raise limits.max_body_mb")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of a size for which _check_size is stricter
            return Picture(_read(source, formats, name, limits), None, "given")
    except BadFile:
        raise
    except UnidentifiedImageError:
        taken = " or ".join((", ".join(formats[:-1]), formats[-1]))
        format = format_of(source)
        kind = "" if format in (None, *formats) else f"{format} data, "
        raise BadFile(f"{name}: is {kind}not a picture that can be read; give a {taken} file") from None
    except Image.DecompressionBombError:
        raise BadFile(f"{name}: has over {limits.max_picture_pixels:,} pixels; make it smaller") from None
    except BROKEN as error:
        raise BadFile(f"{name}: is broken: {error or type(error).__name__}; save it again") from None


def encode_png(image: Image.Image) -> bytes:
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=PNG_LEVEL)
    return png.getvalue()


def _read(data: bytes, formats: tuple[str, ...], name: str, limits: LimitsConfig) -> Image.Image:
    with Image.open(io.BytesIO(without_metadata(data)), formats=formats) as image:
        _check_size(image, name, limits)
        pixels = _in_8_bits(image, bits(data))
        method = UPRIGHT.get(_orientation(image))
        return pixels if method is None else pixels.transpose(method)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where the EXIF data cannot be read."""
    with suppress(*BROKEN):
        value = image.getexif().get(ORIENTATION)
        return value if isinstance(value, int) else 1
    return 1


def _in_8_bits(image: Image.Image, depth: int) -> Image.Image:
    """RGB, or RGBA where it is see-through. depth: bits of a channel.

    Of 16 bits the upper 8 are taken: Pillow would clip grey to white, and compares a transparent colour of 16 bits with
    pixels of 8.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
        if transparent is not None:
            grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey
    if depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _check_size(image: Image.Image, name: str, limits: LimitsConfig) -> None:
    width, height = image.size
    if width * height > limits.max_picture_pixels:
        most = f"limits.max_picture_pixels is {limits.max_picture_pixels:,}"
        raise BadFile(f"{name}: has {width} x {height} pixels, {most}; make it smaller")
    if max(width, height) ** 2 > OBLONG * limits.max_picture_pixels:
        most = f"{math.isqrt(OBLONG * limits.max_picture_pixels):,} a side are the most (limits.max_picture_pixels)"
        raise BadFile(f"{name}: has {width} x {height} pixels; {most}, for the object is put in a square; crop it")
    if min(width, height) < SMALLEST:
        raise BadFile(f"{name}: has {width} x {height} pixels; {SMALLEST} a side are the least")

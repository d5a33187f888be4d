"""The value between words and splat: a picture of one object, drawn by a model or given by the caller."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from app.config import LimitsConfig
from app.errors import BadFile
from app.reading import read_bytes

OnStep = Callable[[int, int], None]
"""Told, while a picture is drawn, how many of how many steps are done."""

FORMATS = ("PNG", "JPEG", "WebP")
SMALLEST = 32
"""Pixels a side: less holds nothing that a splat could be made of."""
OBLONG = 2
"""The square around a picture has at most so many times limits.max_picture_pixels: a strip of 32 x 500,000 pixels is
small, and its square would take all the memory of the host."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises, by format, for a file that ends early or lies about itself."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that took part in making a splat. weights_sha256: of all its files; None where it has none."""

    role: Literal["generator", "text_to_image", "cutout", "image_features", "image_to_splat", "scorer"]
    model: str
    weights_sha256: str | None


@dataclass(frozen=True)
class Picture:
    """image: RGB, or RGBA where it is already cut out. seed: it was drawn with; None where the caller gave it.

    model: the id of the model that drew it, or "given".
    """

    image: Image.Image
    seed: int | None
    model: str


def read_picture(source: Path | bytes, limits: LimitsConfig, formats: tuple[str, ...] = FORMATS) -> Picture:
    """A caller's picture: a file of one of the formats or its bytes, upright, as RGB, or RGBA where it is see-through.

    An animation gives its first frame. Raises BadFile, naming what is wrong: another format, broken, too large or too
    small. The number of pixels is checked before any of them is decoded.
    """
    name = str(source) if isinstance(source, Path) else "the picture"
    if isinstance(source, Path):
        source = read_bytes(source, limits.max_body_mb * 2**20, "make it smaller, or raise limits.max_body_mb")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(source), formats=formats) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the next line is stricter
            _check_size(image, name, limits)
            ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies what is upright already
            return Picture(image.convert("RGBA" if image.has_transparency_data else "RGB"), None, "given")
    except BadFile:
        raise
    except UnidentifiedImageError:
        taken = " or ".join((", ".join(formats[:-1]), formats[-1]))
        raise BadFile(f"{name}: is not a picture that can be read; give a {taken} file") from None
    except Image.DecompressionBombError:
        raise BadFile(f"{name}: has over {limits.max_picture_pixels:,} pixels; make it smaller") from None
    except BROKEN as error:
        raise BadFile(f"{name}: is broken: {error or type(error).__name__}; save it again") from None


def encode_png(picture: Picture) -> bytes:
    png = io.BytesIO()
    picture.image.save(png, "PNG")
    return png.getvalue()


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

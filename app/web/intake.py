"""What callers bring, checked before it becomes an order: prompts, pictures, splats. What is broken is said at once."""

from __future__ import annotations

import base64
import binascii

import numpy as np

from app.config import Config
from app.errors import BadFile, BadInput
from app.prompt import check_prompt
from app.splat.files import decode_splat
from app.splat.model import NOWHERE
from app.stages.picture import read_picture
from app.stages.scene import parse
from app.web.limits import take_place

PICTURE_STARTS = ("data:image/", "iVBORw0KGgo", "/9j/")
"""How a PNG or JPEG begins in base64: no prompt does."""


def check_words(prompt: str, config: Config) -> None:
    """Raises BadPrompt where the profile could not make this."""
    check_prompt(prompt, config.limits)
    if config.profile.name == "shapes":
        parse(prompt)


def check_splat(data: bytes, config: Config) -> None:
    """Raises BadFile where these bytes are no splat, one over the limits, or one of which nothing has a position;
    TooBusy where too many are looked at."""
    take_place(config.limits)
    means = decode_splat(data, config.limits.max_gaussians, "the splat").means
    if not (np.abs(means) <= NOWHERE).all(axis=1).any():
        raise BadFile(f"the splat: no Gaussian has a position within {NOWHERE:g} units; make it again")


def looks_like_picture(text: str) -> bool:
    """Whether a prompt field carries a picture in base64, as the protocol's image tasks do."""
    return text.lstrip().startswith(PICTURE_STARTS)


def picture_from(text: str, config: Config) -> bytes:
    """The bytes of a PNG or JPEG in base64, a data URL too. Raises BadInput, BadFile, TooBusy."""
    if config.profile.name == "shapes":
        raise BadInput("profile 'shapes' builds from words only: leave the picture out, or serve profile 'full'")
    _, _, encoded = text.rpartition(",")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the picture is not base64: encode the bytes of a PNG or JPEG file") from None
    take_place(config.limits)
    read_picture(data, config.limits, ("PNG", "JPEG"))  # what the engine would refuse is refused now
    return data

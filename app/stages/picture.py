"""The value between words and splat: a picture of one object, drawn by a model or given by the caller."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """image: RGB, or RGBA where it is already cut out. seed: it was drawn with; None where the caller gave it.

    model: the id of the model that drew it, or "given".
    """

    image: Image
    seed: int | None
    model: str

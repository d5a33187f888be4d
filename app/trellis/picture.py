"""Prepares a cut-out picture (RGBA) for the encoder: centred on the object, on black, 518 x 518 pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from app.errors import BadInput

SIZE = 518
OBJECT_ALPHA = 204
"""Pixels with more alpha belong to the object."""
MARGIN = 1.2
"""Side of the crop over the larger side of the object's box."""


def prepare(picture: Image.Image) -> Image.Image:
    """RGBA with transparent pixels -> RGB. Pillow crops and resizes, as in the original, so that the bits agree.

    Raises BadInput if nothing is cut out, or nothing is left.
    """
    alpha = np.asarray(picture)[..., 3] if picture.mode == "RGBA" else None
    if alpha is None or (alpha == 255).all():
        raise BadInput(f"the picture ({picture.mode}) has no transparent background; cut the object out first")
    rows, columns = np.nonzero(alpha > OBJECT_ALPHA)
    if not len(rows):
        raise BadInput("the picture is transparent all over: no pixel has an alpha above 204")
    x0, x1, y0, y1 = (float(v) for v in (columns.min(), columns.max(), rows.min(), rows.max()))
    centre = (x0 + x1) / 2, (y0 + y1) / 2
    half = int(max(x1 - x0, y1 - y0) * MARGIN) // 2
    if half == 0:
        raise BadInput("the object in the picture is less than three pixels wide; give a larger picture of it")
    box = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    cut = picture.crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(cut, dtype=np.float32) / 255
    return Image.fromarray((pixels[..., :3] * pixels[..., 3:] * 255).astype(np.uint8))

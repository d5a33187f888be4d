"""Whether the views of a splat are blank, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from app.reason import Reason
from app.splat.cameras import IDENTITY, Placement, judge_placement
from app.splat.diagnosis import UNIT_FACTOR, core_within
from app.splat.extent import Core, stray_mask
from app.splat.model import Splat, sigmoid
from app.splat.raster import Views, coverage
from app.splat.statistics import nonfinite_mask

if TYPE_CHECKING:
    from app.config import RenderConfig

BLANK = 0.005
"""Views are blank if a smaller fraction of their pixels shows something."""

VISIBLE_OPACITY = 0.04
SMALL = 0.1
"""Fraction of the bounding box: a smaller core is only a dot in the judge's placement."""


def blank_views(splat: Splat, views: Views, settings: RenderConfig) -> Reason | None:
    """The reason if the judging views of this splat are blank; None if they are not."""
    if (share := coverage(views)) >= BLANK:
        return None
    placement = judge_placement(splat, settings.extent) if settings.placement == "judge" else IDENTITY
    return Reason("blank_views", {"coverage": share, "why": why_blank(splat, placement)})


def other_unit(splat: Splat, settings: RenderConfig) -> Reason | None:
    """The reason if the judge's placement changes the opacities a lot, because of strays or of the unit; else None."""
    if settings.placement != "judge":
        return None
    factor = judge_placement(splat, settings.extent).opacity_factor
    if 1 / UNIT_FACTOR <= factor <= UNIT_FACTOR:
        return None
    longest = factor * settings.extent
    core = core_within(splat)
    if core and core.extent and has_strays(splat, core):
        return Reason("stray_position", {"longest": longest, "core": core.extent})
    return Reason("other_unit", {"longest": longest, "opacity_factor": factor, "extent": settings.extent})


def has_strays(splat: Splat, core: Core) -> bool:
    """Whether the finding stray_position applies."""
    usable = np.isfinite(splat.means).all(axis=1)
    return stray_mask(splat.means[usable], splat.log_scales[usable], core) is not None


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def why_blank(splat: Splat, placement: Placement) -> str:
    """The most likely cause, with its figures, as the end of a sentence."""
    core = core_within(splat)
    if core is None or all_lost(splat):
        return "no Gaussian can be drawn: each has a lost value"
    if not core.extent:
        return "nearly all Gaussians lie on one point"
    if core.longest * SMALL > core.extent:
        return (
            f"a few Gaussians far away make the bounding box {core.longest:.4g} units long, the object measures"
            f" {core.extent:.4g}: `splatgate repair` drops them"
        )
    opacities = sigmoid(splat.opacity_logits[np.isfinite(splat.opacity_logits)])
    usual = float(np.quantile(opacities, 0.9))
    if usual * placement.opacity_factor < VISIBLE_OPACITY:
        if usual >= VISIBLE_OPACITY:
            return (
                f"the placement multiplies opacities by {placement.opacity_factor:.4g}, because the object measures"
                f" {core.longest:.4g} units: `splatgate repair --extent 1.5` rescales it"
            )
        return f"nine tenths of its opacities are below {usual:.2g}"
    middle = (core.low + core.high) / 2 * placement.scale + placement.offset
    if float(np.abs(middle).max()) > 0.5 * core.longest * placement.scale:
        place = ", ".join(f"{each:.3g}" for each in middle)
        return f"the object lies off the centre, at {place}: `splatgate repair --extent 1.5` centres it"
    if float(np.exp(np.nanmedian(splat.log_scales))) < 1e-4 * core.extent:
        return "its Gaussians are too small to be seen"
    return "for no known cause: see `splatgate inspect`"


def all_lost(splat: Splat) -> bool:
    """Whether every Gaussian has a value that is not finite, or a zero quaternion."""
    lost = ~splat.quats.any(axis=1)
    for field in (splat.means, splat.quats, splat.log_scales, splat.opacity_logits, splat.sh):
        lost |= nonfinite_mask(field)
    return bool(lost.all())

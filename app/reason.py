"""Why something was refused: a code, the figures behind it, and the sentence made from both.

The database stores code and figures, metrics count by code, and people read the sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Figure = float | int | str


@dataclass(frozen=True)
class Reason:
    """code: a key of SENTENCES. figures: the values that its sentence names, or "text" if only the sentence is known.

    An unknown code, from a newer release, is shown as it is.
    """

    code: str
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def __str__(self) -> str:
        sentence = "{text}" if "text" in self.figures else SENTENCES.get(self.code, self.code)
        return sentence.format(**self.figures) if isinstance(sentence, str) else sentence(self.figures)

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "figures": dict(self.figures)}

    @classmethod
    def from_stored(cls, stored: str | Mapping[str, Any]) -> Reason:
        """The inverse of to_dict. Older releases stored only the sentence, which gets the code "text"."""
        return cls("text", {"text": stored}) if isinstance(stored, str) else cls(stored["code"], stored["figures"])


def _below_threshold(figures: Mapping[str, Any]) -> str:
    shown = _rounded(figures, math.floor)  # rounded down, so that 0.1999 under a threshold of 0.2 does not read 0.200
    return "{label} score {shown} is below the {setting} {threshold:g}".format(**figures, shown=shown)


def _above_threshold(figures: Mapping[str, Any]) -> str:
    return "{label} score {shown} is above the {setting} {threshold:g}".format(
        **figures, shown=_rounded(figures, math.ceil)
    )


def _rounded(figures: Mapping[str, Any], towards: Callable[[float], int]) -> str:
    value = float(figures["value"])
    return f"{towards(value * 1000) / 1000:.3f}" if math.isfinite(value) else f"{value}"


SENTENCES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    # the gate
    "validation_off": "validation is OFF (validate.enabled = false): this splat was not judged",
    "too_few_gaussians": "{gaussians:,} Gaussians are fewer than {min_gaussians:,}",
    "no_score": "no score",
    "below_threshold": _below_threshold,
    "above_threshold": _above_threshold,
    "overdraw": (
        "too costly to draw: {gaussians_per_tile:,.0f} Gaussians lie over each tile, "
        "limits.max_overdraw is {max_overdraw:,.0f}"
    ),
    "uniform_position": "nearly all of {gaussians:,} Gaussians lie on one point: no shape is left, make it again",
    "stray_position": (
        "a few Gaussians far away make the bounding box {longest:.4g} units long, the object measures {core:.4g}: "
        "the placement shrinks it, and `splatgate repair` drops them"
    ),
    "other_unit": (
        "the object measures {longest:.4g} units, and the placement multiplies its opacities by {opacity_factor:.4g}; "
        "`splatgate repair --extent {extent:g}` rescales it"
    ),
    "blank_views": "the views are blank: something is visible in {coverage:.2%} of their pixels; {why}",
    # stages that produced nothing usable
    "picture_not_finite": "text to image: {model} drew values that are not finite: try another seed or image.dtype",
    "no_object": (
        "cutout: no object was found: {share:.1%} of the picture, cutout.min_share is {min_share:.1%}; "
        "try another seed, or a picture with a plain background"
    ),
    "no_background": (
        "cutout: the whole picture was taken for the object: {share:.1%}, cutout.max_share is {max_share:.1%}; "
        "try another seed, or a picture with more background"
    ),
    "not_finite": "{stage}: {count} of {of} values are not finite; try another seed or picture",
    "no_voxel": (
        "structure decoder: sample {sample} has no occupied voxel, its largest logit is {logit:.3g}; "
        "try another seed or picture"
    ),
    "positions_lost": (
        "repair refused: {share:.0%} of {gaussians:,} Gaussians have no usable position (repair.max_lost = "
        "{max_lost:g}): the file is damaged, fetch or generate it again"
    ),
    "fields_lost": (
        "repair refused: {fields} are lost for over {max_lost:.0%} of the Gaussians (repair.max_lost = {max_lost:g}): "
        "the file is damaged, fetch or generate it again"
    ),
    "no_position": "none of {gaussians:,} Gaussians has a usable position: generate it again",
    "not_storable": "{file}: {problem}",
    "score_not_finite": "score: {model} answered {values}: its weights or the views are broken",
}
"""The sentence of each code, with the figures that it needs."""

"""Faults of the opacities: logits that are probabilities, uniform, or the logit of a logit.

This file does not know how opacities are repaired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from app.splat.findings import FieldStats, Finding
from app.splat.model import Float32, sigmoid
from app.splat.statistics import finite_values, share

if TYPE_CHECKING:
    from app.config import DiagnoseConfig

LOADER_FLOORS = (1e-4, 1e-3)
"""Probabilities at which known loaders clamp before they apply a second logit."""

CLAMP_TOLERANCE = 4e-3
"""Tolerance for recognising a clamped logit: float32 is off by 2e-4 at 9.2103, float16 by 4e-3."""

SMALLEST_MASS = 0.005
"""Fraction of the Gaussians at a clamp that is no coincidence: a healthy file has 0.001 within the tolerance."""

STRAY_SHARE = 0.001
"""Up to this fraction, values beyond a clamp are ignored as garbage."""

LARGEST_LOGIT = 40.0
"""In a file without negative values, larger ones are not logits: at 17 the opacity is already 1 in float32."""


def opacity_findings(opacity_logits: Float32, stats: FieldStats, config: DiagnoseConfig) -> Iterator[Finding]:
    """At most one finding about the finite values of the field; lost values are reported elsewhere."""
    logits = finite_values(opacity_logits)
    if logits.size < 2 or stats.mean is None or stats.std is None or stats.min is None or stats.max is None:
        return
    count = len(opacity_logits)
    figures = {"mean": stats.mean, "std": stats.std, "least_std": config.uniform_opacity_std}
    if full := _full_scale(logits, stats):
        message = f"opacity_logits: opacities of 0 to {full:g}, not logits (range {stats.min:.4g} to {stats.max:.4g})"
        yield Finding("opacity_255", "opacity_logits", count, message, figures | {"full": full})
    elif stats.min >= -1e-4 and stats.max <= 1 + 1e-4 and stats.std >= 0.02:
        message = f"opacity_logits: probabilities, not logits (range {stats.min:.4g} to {stats.max:.4g})"
        yield Finding("linear_opacity", "opacity_logits", count, message, figures)
    elif (
        stats.std < config.uniform_opacity_std and stats.mean < 0
    ):  # opaque throughout is no fault: meshes converted to splats are
        message = (
            f"opacity_logits: uniform at {stats.mean:.4g} "
            f"(std {stats.std:.4g}, healthy from {config.uniform_opacity_std:g})"
        )
        yield Finding("uniform_opacity", "opacity_logits", count, message, figures)
    elif stats.std > 0:
        yield from _double_logit(logits, config)


def _full_scale(logits: Float32, stats: FieldStats) -> float:
    """255 or 100 if the values are opacities in 8 bits or in percent; else 0."""
    assert stats.min is not None
    assert stats.max is not None
    if stats.std == 0 or stats.min < -1e-3 or not 12 <= stats.max <= 255.5:
        return 0.0
    if stats.max <= LARGEST_LOGIT and not _are_integers(logits):
        return 0.0
    return 100.0 if stats.max <= 100.5 else 255.0


def _are_integers(values: Float32) -> bool:
    return all(bool((np.abs(part - np.rint(part)) < 1e-3).all()) for part in (values[:1_000], values))


def _double_logit(logits: Float32, config: DiagnoseConfig) -> Iterator[Finding]:
    """Finds the work of a loader that clamps to [p, 1 - p] and takes the logit of what already is a logit.

    Every logit below p becomes one value and every logit above 1 - p its opposite; no healthy distribution has such
    mass there. If the whole file went through the loader, nothing exceeds the clamp, and the few values between the
    clamps are logit(x) of logits x in (0, 1). If only a part did, or was set to the floor, the rest is unchanged.
    """
    for probability in LOADER_FLOORS:
        clamp = math.log((1 - probability) / probability)
        floor = share(np.abs(logits + clamp) < CLAMP_TOLERANCE)
        ceiling = share(np.abs(logits - clamp) < CLAMP_TOLERANCE)
        if floor + ceiling < config.double_logit_fraction:
            continue
        between = logits[np.abs(logits) < clamp - CLAMP_TOLERANCE]
        beyond = share(np.abs(logits) > clamp + CLAMP_TOLERANCE)
        whole = beyond < STRAY_SHARE and between.size < 0.4 * logits.size and _from_unit_interval(between)
        if whole or _is_partial(floor, ceiling, beyond, between, clamp, config):
            yield _double_logit_finding(logits.size, clamp, floor, ceiling, whole)
            return


def _from_unit_interval(values: Float32) -> bool:
    """Whether the values are logit(x) of x in (0, 1) with a smooth density, which is nearly linear over this range.

    For every linear density on (0, 1) the mean of x (1 - x) is 1/6, with a standard deviation of 0.0745 per value.
    Healthy opacities cluster at both ends and have a lower mean.
    """
    if not values.size:
        return True
    x = sigmoid(values)
    moment = float(np.mean(x * (1 - x), dtype=np.float64))
    return abs(moment - 1 / 6) < 0.015 + 3 * 0.0745 / math.sqrt(values.size)


def _is_partial(
    floor: float, ceiling: float, beyond: float, between: Float32, clamp: float, config: DiagnoseConfig
) -> bool:
    """Whether there is mass at the clamp beside values that were never clamped.

    A writer that clamps once, correctly, leaves mass there too. It is recognised by the values within the clamp: the
    tail of the clipped distribution, or, for 8-bit probabilities, only multiples of 1 / 255.
    """
    if beyond >= STRAY_SHARE:
        return True
    if floor < SMALLEST_MASS or not between.size or is_eight_bit(between):
        return False
    tail = share(between < -0.75 * clamp) * (1 - floor - ceiling)
    return floor + ceiling >= config.double_logit_fraction and tail < 0.1 * floor


def is_eight_bit(logits: Float32) -> bool:
    """Whether every opacity is a multiple of 1 / 255."""
    steps = 255 * sigmoid(logits)
    return bool(np.all(np.abs(steps - np.rint(steps)) < 0.02))


def _double_logit_finding(size: int, clamp: float, floor: float, ceiling: float, whole: bool) -> Finding:
    what = "logit taken twice throughout" if whole else "logit taken twice in a part, the rest is plain"
    message = (
        f"opacity_logits: {what}: {floor:.1%} at -{clamp:.3f} and {ceiling:.1%} at +{clamp:.3f}, "
        f"the clamp of a loader that takes logits for probabilities"
    )
    figures = {"clamp": clamp, "floor": floor, "ceiling": ceiling, "whole": float(whole)}
    count = size if whole else round((floor + ceiling) * size)
    return Finding("double_logit", "opacity_logits", count, message, figures)

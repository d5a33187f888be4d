"""What is wrong with a splat: statistics of every field, and one finding per broken field and kind.

This file does not know how a finding is repaired, and never changes a splat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from loguru import logger

from app.splat.model import Float32, Splat, sigmoid
from app.splat.neighbours import Mask, nearest

if TYPE_CHECKING:
    from app.config import DiagnoseConfig

Field = Literal["means", "quats", "log_scales", "opacity_logits", "sh"]
Kind = Literal[
    "nonfinite",
    "out_of_bounds",
    "zero_quaternion",
    "uniform_scale",
    "linear_scale",
    "uniform_opacity",
    "linear_opacity",
    "double_logit",
]

FIELDS: tuple[Field, ...] = ("means", "quats", "log_scales", "opacity_logits", "sh")
LOADER_FLOORS = (1e-4, 1e-3)
"""Probabilities at which the loaders seen in the field clamp before they apply a logit that is not wanted."""

CLAMP_TOLERANCE = 4e-3
"""A clamped logit is recognised within this: float32 is off by 2e-4 at 9.2103, float16 by 4e-3."""

LEAST_LOG_SCALE = -100.0
"""Below, a size is no float32 any more; a disc of no thickness is stored at about -20 to -88."""

SMALLEST_MASS = 0.005
"""Share of the Gaussians at a clamp from which that is no chance: a healthy file has 0.001 within the tolerance."""

PIECE = 32_768
"""Values looked at together where a wider copy of them is needed: 0.25 MB, which stay in a core's cache."""

STRAY_SHARE = 0.001
"""Share of values beyond a clamp up to which they are garbage, and do not speak for the file."""


@dataclass(frozen=True)
class FieldStats:
    """Mean, standard deviation (population) and range over the finite values; None where there is none.

    count: values in the field, all components. nonfinite: of them, NaN or infinite.
    """

    count: int
    nonfinite: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one field.

    count: Gaussians concerned. figures: the numbers that led to it, by name, in the field's own unit.
    """

    kind: Kind
    field: Field
    count: int
    message: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """Statistics by field name, and the findings: first what is lost, then what a whole field suffers from."""

    gaussians: int
    stats: dict[Field, FieldStats]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """No finding."""
        return not self.findings

    def find(self, kind: Kind, field: Field | None = None) -> Finding | None:
        """The finding of this kind (in this field), if there is one."""
        return next((f for f in self.findings if f.kind == kind and field in (None, f.field)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no NaN, no numpy."""
        return {
            "gaussians": self.gaussians,
            "stats": {field: vars(stats) for field, stats in self.stats.items()},
            "findings": [vars(finding) for finding in self.findings],
        }


def diagnose(splat: Splat, config: DiagnoseConfig) -> Diagnosis:
    """Statistics and findings; the splat is only read. Logs what operators look for."""
    stats = {field: field_stats(getattr(splat, field)) for field in FIELDS}
    findings = tuple(_findings(splat, stats, config))
    diagnosis = Diagnosis(len(splat), stats, findings)
    _log(diagnosis)
    return diagnosis


def field_stats(values: Float32) -> FieldStats:
    """Statistics of an array of any shape, summed in float64."""
    finite = values.reshape(-1)
    mean, std, low, high = _moments(finite)
    if not math.isfinite(mean):
        finite = finite_values(values)
        if not finite.size:
            return FieldStats(values.size, values.size, None, None, None, None)
        mean, std, low, high = _moments(finite)
    return FieldStats(values.size, values.size - finite.size, mean, std, low, high)


def _moments(flat: Float32) -> tuple[float, float, float, float]:
    """Mean, standard deviation, least and greatest, in one pass over pieces; a mean that is not finite where a value
    is not, or where there is none.

    Sums are of the distance to the first value: so a constant has exactly no deviation, and what is squared is no
    larger than N deviations, which leaves float64 its first nine digits at a million values.
    """
    if not flat.size:
        return math.nan, math.nan, math.nan, math.nan
    origin, total, squares = np.float64(flat[0]), 0.0, 0.0
    lows, highs = [], []
    room = np.empty(min(PIECE, flat.size))
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            lows.append(float(piece.min()))
            highs.append(float(piece.max()))
            away = np.subtract(piece, origin, out=room[: piece.size])
            total += float(away.sum())
            squares += float(np.square(away, out=away).sum())
    mean = total / flat.size
    return float(origin) + mean, math.sqrt(max(0.0, squares / flat.size - mean**2)), min(lows), max(highs)


def finite_values(values: Float32) -> Float32:
    """The finite values, flat; without a copy where all are."""
    flat = values.reshape(-1)
    mask = np.isfinite(flat)
    return flat if mask.all() else flat[mask]


def nonfinite_mask(values: Float32) -> Mask:
    """(N,) Gaussians with a NaN or an infinity in this field."""
    return _any(~np.isfinite(values.reshape(len(values), -1)))


def bounds(field: Field, max_extent: float) -> tuple[float, float]:
    """What a position, a logarithm of a size or a colour coefficient can be in a world of `max_extent` units."""
    limit = float(np.float32(math.log(max_extent) if field == "log_scales" else max_extent))
    return (LEAST_LOG_SCALE, limit) if field == "log_scales" else (-limit, limit)


def out_of_bounds(values: Float32, low: float, high: float) -> Mask:
    """Finite values outside, in the field's shape; NaN and infinity are findings of their own."""
    return np.asarray(np.isfinite(values) & ((values < low) | (values > high)))


def zero_quaternion_mask(splat: Splat, smallest: float) -> Mask:
    """(N,) finite quaternions that name no rotation."""
    mask = np.zeros(len(splat), bool)
    some = np.flatnonzero(np.abs(splat.quats[:, 0]) <= smallest)  # the norm is no less than any component
    quats = splat.quats[some].astype(np.float64)
    mask[some] = np.sqrt(np.einsum("ij,ij->i", quats, quats)) <= smallest  # not for NaN, a finding of its own
    return mask


def _any(values: Mask) -> Mask:
    return np.asarray(values.any(axis=1))


def _findings(splat: Splat, stats: dict[Field, FieldStats], config: DiagnoseConfig) -> Iterator[Finding]:
    for field in FIELDS:
        yield from _nonfinite(splat, field, stats[field])
    for field in ("means", "log_scales", "sh"):
        yield from _out_of_bounds(splat, field, stats[field], config)
    yield from _zero_quaternions(splat, config)
    yield from _scales(splat, stats["log_scales"], config)
    yield from _opacities(splat, stats["opacity_logits"], config)


def _nonfinite(splat: Splat, field: Field, stats: FieldStats) -> Iterator[Finding]:
    if not stats.nonfinite:
        return
    values = getattr(splat, field)
    count = int(nonfinite_mask(values).sum())
    nans = int(np.isnan(values).sum())
    message = f"{field}: {count:,} of {len(splat):,} Gaussians have NaN or infinite values"
    yield Finding("nonfinite", field, count, message, {"nan": nans, "inf": stats.nonfinite - nans})


def _out_of_bounds(splat: Splat, field: Field, stats: FieldStats, config: DiagnoseConfig) -> Iterator[Finding]:
    low, high = bounds(field, config.max_extent)
    if stats.min is None or stats.max is None or (stats.min >= low and stats.max <= high):
        return
    count = int(_any(out_of_bounds(getattr(splat, field), low, high).reshape(len(splat), -1)).sum())
    message = (
        f"{field}: {count:,} of {len(splat):,} Gaussians lie outside {low:g} to {high:g} "
        f"(range {stats.min:g} to {stats.max:g}; diagnose.max_extent = {config.max_extent:g})"
    )
    figures = {"low": low, "high": high, "min": stats.min, "max": stats.max}
    yield Finding("out_of_bounds", field, count, message, figures)


def _zero_quaternions(splat: Splat, config: DiagnoseConfig) -> Iterator[Finding]:
    count = int(zero_quaternion_mask(splat, config.zero_quaternion_norm).sum())
    if count:
        message = f"quats: {count:,} of {len(splat):,} rotations are zero and name no orientation"
        yield Finding("zero_quaternion", "quats", count, message, {"norm": config.zero_quaternion_norm})


def _scales(splat: Splat, stats: FieldStats, config: DiagnoseConfig) -> Iterator[Finding]:
    if len(splat) < 2 or stats.mean is None or stats.std is None:
        return  # one Gaussian has no spread to judge
    figures = {"mean": stats.mean, "std": stats.std, "least_std": config.uniform_scale_std}
    if holds_plain_sizes(splat, stats):
        message = f"log_scales: plain sizes, not logarithms (all positive, mean {stats.mean:.4g})"
        yield Finding("linear_scale", "log_scales", len(splat), message, figures)
    elif stats.std < config.uniform_scale_std:
        message = f"log_scales: uniform (std {stats.std:.4g}, healthy from {config.uniform_scale_std:g})"
        yield Finding("uniform_scale", "log_scales", len(splat), message, figures)


def holds_plain_sizes(splat: Splat, stats: FieldStats | None = None) -> bool:
    """Positive throughout, varied, and nearer to the Gaussians' spacing as they stand than as exponents.

    stats: of log_scales, where they are known already.
    """
    stats = stats or field_stats(splat.log_scales)
    if stats.min is None or stats.mean is None or stats.std is None:
        return False
    if stats.min <= 0 or stats.std < 0.02 * stats.mean:
        return False
    spacing = _spacing(splat)
    median = float(np.median(finite_values(splat.log_scales).astype(np.float64)))
    return abs(math.log(median) - math.log(spacing)) < abs(median - math.log(spacing))


def _spacing(splat: Splat, sample: int = 2_000) -> float:
    """Median distance of a Gaussian to its four nearest neighbours, world units; positive."""
    means = splat.means[~nonfinite_mask(splat.means)]
    if len(means) < 2:
        return 1.0
    some = np.zeros(len(means), bool)
    some[:: max(1, len(means) // sample)] = True
    distance = float(np.median(nearest(means, np.ones(len(means), bool), some, 4)[1]))
    return distance if distance > 0 else 1.0


def _opacities(splat: Splat, stats: FieldStats, config: DiagnoseConfig) -> Iterator[Finding]:
    logits = finite_values(splat.opacity_logits)
    if logits.size < 2 or stats.mean is None or stats.std is None or stats.min is None or stats.max is None:
        return
    figures = {"mean": stats.mean, "std": stats.std, "least_std": config.uniform_opacity_std}
    if stats.min >= -1e-4 and stats.max <= 1 + 1e-4 and stats.std >= 0.02:
        message = f"opacity_logits: probabilities, not logits (range {stats.min:.4g} to {stats.max:.4g})"
        yield Finding("linear_opacity", "opacity_logits", len(splat), message, figures)
    elif stats.std < config.uniform_opacity_std:
        message = (
            f"opacity_logits: uniform at {stats.mean:.4g} "
            f"(std {stats.std:.4g}, healthy from {config.uniform_opacity_std:g})"
        )
        yield Finding("uniform_opacity", "opacity_logits", len(splat), message, figures)
    else:
        yield from _double_logit(logits, config)


def _double_logit(logits: Float32, config: DiagnoseConfig) -> Iterator[Finding]:
    """The mark of a loader that clamps to [p, 1 - p] and takes a logit of what was a logit already.

    Every logit below p lands on one value, every one above 1 - p on its opposite: no healthy distribution has such mass
    there. Two forms: the whole file went through it, so that nothing exceeds the clamp and the little that lies between
    is logit(x) of logits x in (0, 1); or only some of it did, or was set to the floor, and the rest is as it should be.
    """
    for probability in LOADER_FLOORS:
        clamp = math.log((1 - probability) / probability)
        floor = _share(np.abs(logits + clamp) < CLAMP_TOLERANCE)
        ceiling = _share(np.abs(logits - clamp) < CLAMP_TOLERANCE)
        if floor + ceiling < config.double_logit_fraction:
            continue
        between = logits[np.abs(logits) < clamp - CLAMP_TOLERANCE]
        beyond = _share(np.abs(logits) > clamp + CLAMP_TOLERANCE)
        whole = beyond < STRAY_SHARE and between.size < 0.4 * logits.size and _from_unit_interval(between)
        if whole or _is_partial(floor, ceiling, beyond, between, clamp, config):
            yield _double_logit_finding(logits.size, clamp, floor, ceiling, whole)
            return


def _share(values: Mask) -> float:
    """That are true; np.mean would turn each into a float64 first."""
    return np.count_nonzero(values) / values.size


def _from_unit_interval(values: Float32) -> bool:
    """Whether these are logit(x) of x in (0, 1) with a smooth density: nearly linear over so short a span.

    For every linear density there the mean of x (1 - x) is 1/6, with a standard deviation of 0.0745 a value. Opacities
    that are what they should be gather at both ends and give less.
    """
    if not values.size:
        return True
    x = sigmoid(values)
    moment = float(np.mean(x * (1 - x), dtype=np.float64))
    return abs(moment - 1 / 6) < 0.015 + 3 * 0.0745 / math.sqrt(values.size)


def _is_partial(
    floor: float, ceiling: float, beyond: float, between: Float32, clamp: float, config: DiagnoseConfig
) -> bool:
    """Mass at the clamp beside values that never met it.

    A writer that clamps once, rightly, leaves mass there too, and is told by what lies short of the clamp: the tail of
    what was cut off, or, where probabilities came in 8 bits, nothing but the grid of k / 255.
    """
    if beyond >= STRAY_SHARE:
        return True
    if floor < SMALLEST_MASS or not between.size or is_eight_bit(between):
        return False
    tail = _share(between < -0.75 * clamp) * (1 - floor - ceiling)
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


def _log(diagnosis: Diagnosis) -> None:
    """The words that operators grep for; `corruption` here is any finding about the opacities."""
    if found := diagnosis.find("uniform_opacity"):
        logger.warning("UNIFORM opacity corruption detected: std={:.2f}", found.figures["std"])
    if not any(finding.field == "opacity_logits" for finding in diagnosis.findings):
        logger.info("No opacity corruption detected ({:,} gaussians)", diagnosis.gaussians)
    for finding in diagnosis.findings:
        logger.warning("{}: {}", finding.kind, finding.message)

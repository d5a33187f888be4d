"""What is wrong with a splat: statistics of every field, and one finding per broken field and kind.

This file does not know how a finding is repaired, and never changes a splat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from loguru import logger

from app.splat.cameras import JUDGE_EXTENT
from app.splat.extent import (
    LARGE,
    LEAST_GAUSSIANS,
    Core,
    core_of,
    oversized_mask,
    stray_mask,
)
from app.splat.findings import FIELDS, Diagnosis, Field, FieldStats, Finding
from app.splat.model import MAX_COORDINATE, Float32, Splat
from app.splat.neighbours import nearest
from app.splat.opacity_findings import opacity_findings
from app.splat.statistics import Mask, field_stats, finite_values, nonfinite_mask, outside, zero_quaternion_mask

if TYPE_CHECKING:
    from app.config import DiagnoseConfig

LEAST_LOG_SCALE = -100.0
"""Below this, exp(log_scale) underflows float32; discs without thickness are stored at about -20 to -88."""

LEAST_COINCIDENT = 8
"""Fewer Gaussians on one point may be intended."""

UNIT_FACTOR = 3.0
"""If the judge's placement multiplies or divides opacities by more than this, a hint says so."""


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def diagnose(splat: Splat, config: DiagnoseConfig) -> Diagnosis:
    """Statistics and findings, which are also logged. The splat is not changed."""
    stats = {field: field_stats(getattr(splat, field)) for field in FIELDS}
    core = core_within(splat, stats["means"])
    findings = tuple(_findings(splat, stats, core, config))
    diagnosis = Diagnosis(len(splat), stats, findings, tuple(_hints(splat, stats, core, findings)))
    _log(diagnosis)
    return diagnosis


def core_within(splat: Splat, stats: FieldStats | None = None) -> Core | None:
    """The core of the usable positions: finite, and within MAX_COORDINATE. None if there are none."""
    means = _usable(splat, stats or field_stats(splat.means))[0]
    return core_of(means) if len(means) else None


def _usable(splat: Splat, stats: FieldStats) -> tuple[Float32, Float32]:
    """The usable positions and their log scales; no copy if all are usable."""
    if stats.min is None or stats.max is None:
        return splat.means[:0], splat.log_scales[:0]
    if not stats.nonfinite and max(-stats.min, stats.max) <= MAX_COORDINATE:
        return splat.means, splat.log_scales
    usable = (np.abs(splat.means) <= MAX_COORDINATE).all(axis=1)  # false for NaN too
    return splat.means[usable], splat.log_scales[usable]


def on_one_point(splat: Splat) -> bool:
    """Whether nearly all positions coincide, so that no shape is left."""
    core = core_within(splat)
    return core is not None and not core.extent and len(splat) >= LEAST_COINCIDENT


def position_limit(core: Core | None, max_extent: float) -> float:
    """The distance from the core beyond which a position is out of bounds, world units."""
    return min(max_extent * core.extent if core and core.extent else max_extent, MAX_COORDINATE)


def size_bounds(core: Core | None, max_extent: float) -> tuple[float, float]:
    """The range of log scales for an object with this core."""
    shift = math.log(core.extent) if core and core.extent else 0.0
    return LEAST_LOG_SCALE + min(shift, 0.0), math.log(max_extent) + shift


def far_positions(means: Float32, core: Core | None, limit: float) -> Mask:
    """(N,) which positions are finite and more than `limit` outside the core."""
    finite = np.isfinite(means).all(axis=1)
    if core is None:
        return np.asarray(finite)
    far = np.zeros(len(means), bool)
    far[finite] = core.distance(means[finite]) > limit
    return far


def _findings(
    splat: Splat, stats: dict[Field, FieldStats], core: Core | None, config: DiagnoseConfig
) -> Iterator[Finding]:
    for field in FIELDS:
        yield from _nonfinite(splat, field, stats[field])
    yield from _positions(splat, stats["means"], core, config)
    yield from _sizes_out_of_bounds(splat, stats["log_scales"], core, config)
    yield from _colours_out_of_bounds(splat, stats["sh"], config)
    yield from _zero_quaternions(splat, config)
    yield from _oversized(splat, stats["log_scales"], core, config)
    yield from _scales(splat, stats["log_scales"], config)
    yield from opacity_findings(splat.opacity_logits, stats["opacity_logits"], config)
    yield from _rgb(splat, stats["sh"], certain=True)


def _hints(
    splat: Splat, stats: dict[Field, FieldStats], core: Core | None, findings: tuple[Finding, ...]
) -> Iterator[Finding]:
    if core and not any(finding.field == "means" for finding in findings):
        yield from _other_unit(splat, core)
    if not any(finding.field == "sh" for finding in findings):
        yield from _rgb(splat, stats["sh"], certain=False)


def _nonfinite(splat: Splat, field: Field, stats: FieldStats) -> Iterator[Finding]:
    if not stats.nonfinite:
        return
    values = getattr(splat, field)
    count = int(nonfinite_mask(values).sum())
    nans = int(np.isnan(values).sum())
    message = f"{field}: {count:,} of {len(splat):,} Gaussians have NaN or infinite values"
    yield Finding("nonfinite", field, count, message, {"nan": nans, "inf": stats.nonfinite - nans})


# ------------------------------------------------------------------------------- positions


def _positions(splat: Splat, stats: FieldStats, core: Core | None, config: DiagnoseConfig) -> Iterator[Finding]:
    """Positions out of bounds; among the others, strays, or that nearly all coincide."""
    if core is None:
        if stats.min is not None:
            message = (
                f"means: no Gaussian has a position within {MAX_COORDINATE:g} units: no shape is left, make it again"
            )
            yield Finding("out_of_bounds", "means", len(splat), message, {"limit": MAX_COORDINATE, "extent": 0.0})
        return
    limit = position_limit(core, config.max_extent)
    means, log_scales = _usable(splat, stats)
    if core.longest > limit or len(means) + stats.nonfinite < len(splat):
        far = far_positions(splat.means, core, limit)
        if count := int(far.sum()):
            message = (
                f"means: {count:,} of {len(splat):,} Gaussians lie over {limit:.4g} units from the object "
                f"(diagnose.max_extent = {config.max_extent:g} times its extent of {core.extent:.4g})"
            )
            yield Finding("out_of_bounds", "means", count, message, {"limit": limit, "extent": core.extent})
            near = np.isfinite(splat.means).all(axis=1) & ~far
            means, log_scales = splat.means[near], splat.log_scales[near]
            core = core_of(means)
    if not core.extent and len(splat) >= LEAST_COINCIDENT:
        message = f"means: nearly all of {len(splat):,} Gaussians lie on one point: no shape is left, make it again"
        yield Finding("uniform_position", "means", len(means), message, {"extent": core.longest})
    elif (strays := stray_mask(means, log_scales, core)) is not None:
        count, figures = int(strays.sum()), {"extent": core.extent, "full": core.longest}
        message = (
            f"means: {count:,} of {len(splat):,} Gaussians lie far from the object: its middle 95 % measure "
            f"{core.extent:.4g} units, all of it {core.longest:.4g}; the judge's placement shrinks the object by that"
        )
        yield Finding("stray_position", "means", count, message, figures)


def _other_unit(splat: Splat, core: Core) -> Iterator[Finding]:
    """The judge's placement divides lengths by a factor and multiplies opacities by it."""
    factor = core.longest / JUDGE_EXTENT
    if core.extent and not 1 / UNIT_FACTOR <= factor <= UNIT_FACTOR:
        message = (
            f"means: the longest side measures {core.longest:.4g} units; the judge's placement makes it "
            f"{JUDGE_EXTENT:g} and multiplies opacities by {factor:.4g}; `repair --extent {JUDGE_EXTENT:g}` rescales it"
        )
        yield Finding("other_unit", "means", len(splat), message, {"longest": core.longest, "opacity_factor": factor})


# ------------------------------------------------------------------------------- sizes and rotations


def _sizes_out_of_bounds(
    splat: Splat, stats: FieldStats, core: Core | None, config: DiagnoseConfig
) -> Iterator[Finding]:
    low, high = size_bounds(core, config.max_extent)
    yield from _out_of_bounds(splat, "log_scales", stats, low, high, config)


def _colours_out_of_bounds(splat: Splat, stats: FieldStats, config: DiagnoseConfig) -> Iterator[Finding]:
    yield from _out_of_bounds(splat, "sh", stats, -config.max_extent, config.max_extent, config)


def _out_of_bounds(
    splat: Splat, field: Field, stats: FieldStats, low: float, high: float, config: DiagnoseConfig
) -> Iterator[Finding]:
    low, high = float(np.float32(low)), float(np.float32(high))
    if stats.min is None or stats.max is None or (stats.min >= low and stats.max <= high):
        return
    count = int(outside(getattr(splat, field), low, high).reshape(len(splat), -1).any(axis=1).sum())
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


def _oversized(splat: Splat, stats: FieldStats, core: Core | None, config: DiagnoseConfig) -> Iterator[Finding]:
    """Oversized Gaussians that are within bounds."""
    if core is None or not core.extent or stats.max is None or stats.max <= math.log(LARGE * core.extent):
        return
    giants = oversized_mask(splat.log_scales, core)
    _, high = size_bounds(core, config.max_extent)
    if count := int((giants & (splat.log_scales.max(axis=1) <= np.float32(high))).sum()):
        largest = math.exp(min(stats.max, high))
        message = (
            f"log_scales: {count:,} of {len(splat):,} Gaussians are giants: standard deviations up to {largest:.4g} "
            f"units in an object of {core.extent:.4g}"
        )
        yield Finding("oversized", "log_scales", count, message, {"largest": largest, "extent": core.extent})


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
    """Whether log_scales holds sizes: positive, varied, and closer to the spacing as they are than as exponents.

    stats: of log_scales, if already known.
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


# ------------------------------------------------------------------------------- colours


def _rgb(splat: Splat, stats: FieldStats, certain: bool) -> Iterator[Finding]:
    """Colours of 0 to 255 or 0 to 1 in place of SH coefficients; 0 to 1 may also be a pale object."""
    some = splat.sh[:1_000, 0]
    if stats.max is None or stats.min is None or (splat.sh_degree == 0 and stats.min < -0.5) or (some < -0.5).any():
        return
    dc = finite_values(splat.sh[:, 0])
    if dc.size < 3 * LEAST_GAUSSIANS or not -0.5 <= (low := float(dc.min())) <= (high := float(dc.max())) <= 255.5:
        return
    figures = {"min": low, "max": high, "full": 255.0 if high > 1.001 else 1.0}
    what = f"sh: colours of 0 to {figures['full']:g}, not coefficients (range {low:.4g} to {high:.4g})"
    if high > 8 and (_on_grid(dc, 1.0) or float(dc.mean()) > 4):
        if certain:
            yield Finding("rgb_255", "sh", len(splat), what, figures)
    elif low >= -1e-4 and high <= 1.001 and float(dc.std()) > 0.02:
        spread = float(dc.std())  # pale objects vary less; coefficients that vary as much reach below 0 or above 1
        sure = _on_grid(dc, 255.0) or spread > 0.2 or (low < 0.02 and (high > 0.98 or spread > 0.15))
        if certain and sure:
            yield Finding("rgb_unit", "sh", len(splat), what, figures)
        if not certain and not sure:
            what += ", unless the object is pale; `repair --rgb` converts them"
            yield Finding("rgb_unit", "sh", len(splat), what, figures)


def _on_grid(values: Float32, steps: float) -> bool:
    """Whether every value is a multiple of 1 / steps."""
    scaled = (np.float32(steps) * part for part in (values[:1_000], values))
    return all(bool((np.abs(part - np.rint(part)) < 1e-3).all()) for part in scaled)


# ------------------------------------------------------------------------------- log


def _log(diagnosis: Diagnosis) -> None:
    """Logs the phrases that operators search for; "corruption" is any finding about the opacities."""
    if found := diagnosis.find("uniform_opacity"):
        logger.warning("UNIFORM opacity corruption detected: std={:.2f}", found.figures["std"])
    if not any(finding.field == "opacity_logits" for finding in diagnosis.findings):
        logger.info("No opacity corruption detected ({:,} gaussians)", diagnosis.gaussians)
    for finding in diagnosis.findings:
        logger.warning("{}: {}", finding.kind, finding.message)
    for hint in diagnosis.hints:
        logger.info("hint: {}: {}", hint.kind, hint.message)

"""Repairs what a diagnosis found, and reports what was done.

Positions come first, because everything else is estimated from neighbours; then sizes, rotations, colours, opacities,
each from fields that are already repaired. This file does not know how a fault is recognised (app.splat.diagnosis),
nor how a lost value is estimated (app.splat.neighbours, app.splat.opacity).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from app.errors import StageFailed
from app.reason import Reason
from app.splat import neighbours
from app.splat.diagnosis import core_within, far_positions, holds_plain_sizes
from app.splat.extent import core_of, oversized_mask, stray_mask
from app.splat.findings import BEYOND_REPAIR, Diagnosis, Field, FieldStats, Kind
from app.splat.model import MAX_COORDINATE, SH_C0, Float32, Splat
from app.splat.repair_opacities import restored
from app.splat.statistics import Mask, field_stats, nonfinite_mask, outside, zero_quaternion_mask

if TYPE_CHECKING:
    from app.config import RepairConfig

FEW = 0.05
"""Below this fraction of healthy Gaussians, sizes and rotations are estimated from the positions alone."""


@dataclass(frozen=True)
class Repair:
    """What was done about one finding. count: Gaussians changed or dropped. before, after: the field's statistics."""

    kind: Kind
    field: Field
    count: int
    strategy: str
    before: FieldStats
    after: FieldStats


@dataclass(frozen=True)
class RepairReport:
    """Every repair, in order; none for a healthy splat."""

    gaussians_before: int
    gaussians_after: int
    repairs: tuple[Repair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no NaN, no numpy."""
        repairs = [{**vars(item), "before": vars(item.before), "after": vars(item.after)} for item in self.repairs]
        return {**vars(self), "repairs": repairs}


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def repair(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, RepairReport]:
    """The repaired splat and the report. Returns the same object if the splat is healthy or repair is off.

    Raises StageFailed if more is lost than repair.max_lost allows, or if no Gaussian has a position left.
    """
    if all(finding.kind in BEYOND_REPAIR for finding in diagnosis.findings) or not config.enabled:
        return splat, RepairReport(len(splat), len(splat), ())
    _check_lost_fields(splat, diagnosis, config)
    repaired = splat
    repairs: list[Repair] = []
    for step in (_positions, _sizes, _rotations, _implausible_sizes, _colours, _opacities):
        repaired, strategies = step(repaired, diagnosis, config)
        repairs += [_entry(diagnosis, repaired, done) for done in strategies.items()]
    for entry in repairs:
        logger.info("repaired {} of {}: {:,} gaussians: {}", entry.kind, entry.field, entry.count, entry.strategy)
    return repaired, RepairReport(len(splat), len(repaired), tuple(repairs))


_Strategies = dict[tuple[Kind, Field], str]
"""The strategy used for each finding; findings that are missing were not repaired."""


def _entry(diagnosis: Diagnosis, splat: Splat, done: tuple[tuple[Kind, Field], str]) -> Repair:
    (kind, field), strategy = done
    found = diagnosis.find(kind, field)
    before, after = diagnosis.stats[field], field_stats(getattr(splat, field))
    return Repair(kind, field, found.count if found else len(splat), strategy, before, after)


def _check_lost_fields(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> None:
    """Raises StageFailed if most fields are mostly lost: what would be put in for them would be invented."""
    lost: dict[Field, int] = {}
    for finding in diagnosis.findings:
        if finding.kind in ("nonfinite", "out_of_bounds", "zero_quaternion"):
            lost[finding.field] = lost.get(finding.field, 0) + finding.count
    fields = [field for field, count in lost.items() if count > config.max_lost * len(splat)]
    if len(fields) > config.max_lost * len(diagnosis.stats):
        raise StageFailed(Reason("fields_lost", {"fields": ", ".join(fields), "max_lost": config.max_lost}))


# ------------------------------------------------------------------------------- positions


def _positions(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:
    """Drops Gaussians that have no position, are out of bounds, or are strays."""
    done: _Strategies = {}
    kept = ~nonfinite_mask(splat.means)
    if not kept.all():
        done["nonfinite", "means"] = "dropped: without a position there are no neighbours to ask"
    if found := diagnosis.find("out_of_bounds", "means"):
        kept &= ~far_positions(splat.means, core_within(splat), found.figures["limit"])
        done["out_of_bounds", "means"] = "dropped: far from everything else"
    kept &= ~outside(splat.means, -MAX_COORDINATE, MAX_COORDINATE).any(axis=1)
    if diagnosis.find("stray_position"):
        index = np.flatnonzero(kept)
        means, log_scales = splat.means[index], splat.log_scales[index]
        strays = stray_mask(means, log_scales, core_of(means))
        kept[index[strays if strays is not None else []]] = False
        done["stray_position", "means"] = "dropped: far from the object"
    if not kept.any():
        raise StageFailed(Reason("no_position", {"gaussians": len(splat)}))
    if np.mean(~kept) > config.max_lost:
        figures = {"share": float(np.mean(~kept)), "gaussians": len(splat), "max_lost": config.max_lost}
        raise StageFailed(Reason("positions_lost", figures))
    return (splat if kept.all() else splat.take(kept)), done


# ------------------------------------------------------------------------------- sizes


def _sizes(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    done: _Strategies = {}
    if all(finding.field != "log_scales" for finding in diagnosis.findings):
        return splat, done
    usable = replace(splat, quats=_with_usable_quats(splat, diagnosis))
    if diagnosis.find("linear_scale"):
        logs = np.log(np.maximum(splat.log_scales, np.float32(1e-12)))
        usable = replace(usable, log_scales=logs)
        done["linear_scale", "log_scales"] = "logarithm taken"
    opaque = _opacity_known(diagnosis)
    if found := diagnosis.find("uniform_scale"):
        usable = replace(usable, log_scales=_sizes_by_spacing(usable, opaque, found.figures["least_std"]))
        done["uniform_scale", "log_scales"] = "from the distances to the nearest positions along each axis"
    lost = _lost(usable.log_scales, diagnosis, "log_scales", done)
    if diagnosis.find("oversized") and (core := core_within(splat)):
        lost |= oversized_mask(usable.log_scales, core)[:, None]
        done["oversized", "log_scales"] = "from the nearest healthy neighbours"
    if lost.any():
        usable = replace(usable, log_scales=_filled_sizes(usable, lost, opaque))
    return replace(splat, log_scales=_within_bounds(usable.log_scales, diagnosis)), done


def _opacity_known(diagnosis: Diagnosis) -> bool:
    return all(finding.field != "opacity_logits" for finding in diagnosis.findings)


def _sizes_by_spacing(splat: Splat, opacity_known: bool, least_std: float) -> Float32:
    logs = neighbours.log_scales_by_spacing(splat, opacity_known)
    if logs.std(dtype=np.float64) < 2 * least_std:  # coincident points all have the same distances
        logs += 10 * np.float32(least_std) * neighbours.centred_rank(logs[:, 0])[:, None]
    return logs


def _within_bounds(logs: Float32, diagnosis: Diagnosis) -> Float32:
    """Clips log scales to the bounds, which estimates can exceed."""
    found = diagnosis.find("out_of_bounds", "log_scales")
    return logs.clip(found.figures["low"], found.figures["high"]) if found else logs


def _lost(values: Float32, diagnosis: Diagnosis, field: Field, done: _Strategies) -> Mask:
    """(N, ...) components that are not finite or out of bounds; records in `done` that neighbours fill them."""
    lost = ~np.isfinite(values)
    if found := diagnosis.find("out_of_bounds", field):
        lost |= outside(values, found.figures["low"], found.figures["high"])
    for kind in ("nonfinite", "out_of_bounds"):
        if diagnosis.find(kind, field):
            done[kind, field] = "from the nearest healthy neighbours"
    return lost


def _with_usable_quats(splat: Splat, diagnosis: Diagnosis) -> Float32:
    """The rotations, with the identity for unusable ones."""
    unusable = _unusable_quats(splat, diagnosis)[:, None]
    return np.where(unusable, np.array([1, 0, 0, 0], np.float32), splat.quats)


def _filled_sizes(splat: Splat, lost: Mask, opacity_known: bool) -> Float32:
    wanted = np.asarray(lost.any(axis=1))
    if np.mean(~wanted) < FEW:
        guess = neighbours.log_scales_by_spacing(splat, opacity_known)[wanted]
    else:
        guess = neighbours.log_scales(splat, ~wanted, wanted)
    logs = splat.log_scales.copy()
    logs[wanted] = np.where(lost[wanted], guess, logs[wanted])
    return logs


def _implausible_sizes(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    """Replaces sizes whose logarithms the next diagnosis would again take for plain sizes.

    Runs after the rotations, which make sizes rounder if all rotations are lost.
    """
    found = diagnosis.find("linear_scale")
    if not found or not holds_plain_sizes(splat):
        return splat, {}
    logs = _sizes_by_spacing(splat, _opacity_known(diagnosis), found.figures["least_std"])
    strategy = "from the positions: their logarithms too are far from the spacing"
    return replace(splat, log_scales=_within_bounds(logs, diagnosis)), {("linear_scale", "log_scales"): strategy}


# ------------------------------------------------------------------------------- rotations


def _rotations(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    wanted = _unusable_quats(splat, diagnosis)
    if not wanted.any():
        return splat, {}
    quats = splat.quats.copy()
    if np.mean(~wanted) < FEW:
        strategy = "along the nearest positions, sizes evened to 30 %"
        quats[wanted] = neighbours.quats_by_spacing(splat)[wanted]
        splat = replace(splat, log_scales=_rounder(splat.log_scales, wanted))
    else:
        strategy = "along the nearest healthy neighbours' axes"
        quats[wanted] = neighbours.quats(splat, ~wanted, wanted)
    found = [finding for finding in diagnosis.findings if finding.field == "quats"]
    return replace(splat, quats=quats), {(finding.kind, finding.field): strategy for finding in found}


def _unusable_quats(splat: Splat, diagnosis: Diagnosis) -> Mask:
    unusable = nonfinite_mask(splat.quats)
    if found := diagnosis.find("zero_quaternion"):
        unusable |= zero_quaternion_mask(splat, found.figures["norm"])
    return unusable


def _rounder(log_scales: Float32, wanted: Mask) -> Float32:
    """Log scales pulled towards their mean: a wrongly oriented ellipsoid does less harm if it is rounder."""
    mean = log_scales.mean(axis=1, keepdims=True)
    return np.where(wanted[:, None], mean + np.float32(0.3) * (log_scales - mean), log_scales)


# ------------------------------------------------------------------------------- colours


def _colours(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    done: _Strategies = {}
    for kind in ("rgb_255", "rgb_unit"):
        if found := diagnosis.find(kind):
            sh = splat.sh.copy()
            sh[:, 0] = (sh[:, 0] / np.float32(found.figures["full"]) - np.float32(0.5)) / np.float32(SH_C0)
            splat = replace(splat, sh=sh)
            done[kind, "sh"] = "colours turned into coefficients"
    lost = _lost(splat.sh, diagnosis, "sh", done)
    wanted = np.asarray(lost.any(axis=(1, 2)))
    if not wanted.any():
        return splat, done
    sh = splat.sh.copy()
    guess = np.float32(0) if wanted.all() else neighbours.colours(splat, ~wanted, wanted)  # zero is mid-grey
    sh[wanted] = np.where(lost[wanted], guess, sh[wanted])
    return replace(splat, sh=sh), done


# ------------------------------------------------------------------------------- opacities


def _opacities(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:
    findings = [finding for finding in diagnosis.findings if finding.field == "opacity_logits"]
    if not findings:
        return splat, {}
    logits, done = restored(splat, findings, config)
    return replace(splat, opacity_logits=logits), {(found.kind, found.field): strategy for found, strategy in done}

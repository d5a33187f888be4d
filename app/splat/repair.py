"""Findings in, a splat that can be seen and a report of what was done to it out.

Positions come first, for everything else is taken from the neighbours; then sizes, rotations, colours, opacities, each
from fields that are already sound. This file does not know how a fault is recognised (app.splat.diagnosis), nor how a
lost value is guessed (app.splat.neighbours, app.splat.opacity).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from app.errors import StageFailed
from app.reason import Reason
from app.splat import neighbours, opacity
from app.splat.diagnosis import (
    CLAMP_TOLERANCE,
    SMALLEST_MASS,
    Diagnosis,
    Field,
    FieldStats,
    Finding,
    Kind,
    field_stats,
    holds_plain_sizes,
    is_eight_bit,
    nonfinite_mask,
    out_of_bounds,
    zero_quaternion_mask,
)
from app.splat.model import NOWHERE, Float32, Splat, sigmoid
from app.splat.neighbours import Mask

if TYPE_CHECKING:
    from app.config import RepairConfig

FEW = 0.05
"""Share of healthy Gaussians below which positions tell more about sizes and rotations than far neighbours do."""

LEAST_STD = 1.05
"""Restored logits spread at least so much, for the next diagnosis not to find them uniform."""

CERTAIN = 1e-6
"""Probabilities are turned into logits within this of 0 and 1: not at a clamp that is the mark of a fault."""

SATURATED = 5.55
"""logit(254.01 / 255): where no finite logit is beyond, the infinite ones are 8-bit opacities of 0 and 255."""

EIGHT_BIT_END = 6.23
"""logit(254.5 / 255), half a step from 255."""


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
    """Every repair in the order in which it was made; none for a healthy splat."""

    gaussians_before: int
    gaussians_after: int
    repairs: tuple[Repair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no NaN, no numpy."""
        repairs = [{**vars(item), "before": vars(item.before), "after": vars(item.after)} for item in self.repairs]
        return {**vars(self), "repairs": repairs}


def repair(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, RepairReport]:
    """The splat without its findings. A healthy one, or any where repair is off, comes back as the very same object.

    Raises StageFailed where no Gaussian has a position left.
    """
    if diagnosis.healthy or not config.enabled:
        return splat, RepairReport(len(splat), len(splat), ())
    repaired = splat
    repairs: list[Repair] = []
    for step in (_positions, _sizes, _rotations, _misfits, _colours, _opacities):
        repaired, strategies = step(repaired, diagnosis, config)
        repairs += [_entry(diagnosis, repaired, done) for done in strategies.items()]
    for entry in repairs:
        logger.info("repaired {} of {}: {:,} gaussians: {}", entry.kind, entry.field, entry.count, entry.strategy)
    return repaired, RepairReport(len(splat), len(repaired), tuple(repairs))


_Strategies = dict[tuple[Kind, Field], str]
"""What was done about each finding; a finding of which nothing is said was not repaired."""


def _entry(diagnosis: Diagnosis, splat: Splat, done: tuple[tuple[Kind, Field], str]) -> Repair:
    (kind, field), strategy = done
    found = diagnosis.find(kind, field)
    before, after = diagnosis.stats[field], field_stats(getattr(splat, field))
    return Repair(kind, field, found.count if found else len(splat), strategy, before, after)


# ------------------------------------------------------------------------------- positions


def _positions(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    """Drops Gaussians whose position is lost, and strays; an object that is large as a whole stays as it is."""
    done: _Strategies = {}
    kept = ~nonfinite_mask(splat.means)
    if not kept.all():
        done["nonfinite", "means"] = "dropped: without a position there are no neighbours to ask"
    if found := diagnosis.find("out_of_bounds", "means"):
        inside = kept & ~_beyond(splat, found.figures["high"])
        many = inside.sum() > kept.sum() / 2
        if many and float(np.ptp(splat.means[inside], axis=0).max()) < found.figures["high"] / 2:
            kept = inside
            done["out_of_bounds", "means"] = "dropped: far from everything else"
    kept &= ~_beyond(splat, NOWHERE)
    if not kept.any():
        raise StageFailed(Reason("no_position", {"gaussians": len(splat)}))
    return (splat if kept.all() else splat.take(kept)), done


def _beyond(splat: Splat, limit: float) -> Mask:
    return np.asarray(out_of_bounds(splat.means, -limit, limit).any(axis=1))


# ------------------------------------------------------------------------------- sizes


def _sizes(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    done: _Strategies = {}
    if all(finding.field != "log_scales" for finding in diagnosis.findings):
        return splat, done
    upright = replace(splat, quats=_with_usable_quats(splat, diagnosis))
    if diagnosis.find("linear_scale"):
        logs = np.log(np.maximum(splat.log_scales, np.float32(1e-12)))
        upright = replace(upright, log_scales=logs)
        done["linear_scale", "log_scales"] = "logarithm taken"
    opaque = _opacity_known(diagnosis)
    if found := diagnosis.find("uniform_scale"):
        upright = replace(upright, log_scales=_sizes_by_spacing(upright, opaque, found.figures["least_std"]))
        done["uniform_scale", "log_scales"] = "from the distances to the nearest positions along each axis"
    lost = _lost(upright.log_scales, diagnosis, "log_scales", done)
    if lost.any():
        upright = replace(upright, log_scales=_filled_sizes(upright, lost, opaque))
    return replace(splat, log_scales=_within_bounds(upright.log_scales, diagnosis)), done


def _opacity_known(diagnosis: Diagnosis) -> bool:
    return all(finding.field != "opacity_logits" for finding in diagnosis.findings)


def _sizes_by_spacing(splat: Splat, opacity_known: bool, least_std: float) -> Float32:
    logs = neighbours.log_scales_by_spacing(splat, opacity_known)
    if logs.std(dtype=np.float64) < 2 * least_std:  # of coincident points all distances are one
        logs += 10 * np.float32(least_std) * neighbours.centred_rank(logs[:, 0])[:, None]
    return logs


def _within_bounds(logs: Float32, diagnosis: Diagnosis) -> Float32:
    """In an object that is large as a whole a guess can lie outside."""
    found = diagnosis.find("out_of_bounds", "log_scales")
    return logs.clip(found.figures["low"], found.figures["high"]) if found else logs


def _lost(values: Float32, diagnosis: Diagnosis, field: Field, done: _Strategies) -> Mask:
    """(N, ...) components that are not finite or out of bounds; says of both that the neighbours fill them."""
    lost = ~np.isfinite(values)
    if found := diagnosis.find("out_of_bounds", field):
        lost |= out_of_bounds(values, found.figures["low"], found.figures["high"])
    for kind in ("nonfinite", "out_of_bounds"):
        if diagnosis.find(kind, field):
            done[kind, field] = "from the nearest healthy neighbours"
    return lost


def _with_usable_quats(splat: Splat, diagnosis: Diagnosis) -> Float32:
    """Rotations with the broken ones upright, for as long as sizes are looked at."""
    broken = _broken_quats(splat, diagnosis)
    return np.where(broken[:, None], np.array([1, 0, 0, 0], np.float32), splat.quats) if broken.any() else splat.quats


def _filled_sizes(splat: Splat, lost: Mask, opacity_known: bool) -> Float32:
    wanted = np.asarray(lost.any(axis=1))
    if np.mean(~wanted) < FEW:
        guess = neighbours.log_scales_by_spacing(splat, opacity_known)[wanted]
    else:
        guess = neighbours.log_scales(splat, ~wanted, wanted)
    logs = splat.log_scales.copy()
    logs[wanted] = np.where(lost[wanted], guess, logs[wanted])
    return logs


def _misfits(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    """Plain sizes so far from the spacing that the next diagnosis would take their logarithms for plain sizes again.

    Asked after the rotations, since where those are all lost the sizes are evened.
    """
    found = diagnosis.find("linear_scale")
    if not found or not holds_plain_sizes(splat):
        return splat, {}
    logs = _sizes_by_spacing(splat, _opacity_known(diagnosis), found.figures["least_std"])
    strategy = "from the positions: as logarithms too they are far from the spacing"
    return replace(splat, log_scales=_within_bounds(logs, diagnosis)), {("linear_scale", "log_scales"): strategy}


# ------------------------------------------------------------------------------- rotations


def _rotations(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    wanted = _broken_quats(splat, diagnosis)
    if not wanted.any():
        return splat, {}
    quats = splat.quats.copy()
    if np.mean(~wanted) < FEW:
        strategy = "along the nearest positions, sizes evened to 30 %"
        quats[wanted] = neighbours.quats_by_spacing(splat)[wanted]
        splat = replace(splat, log_scales=_evened(splat.log_scales, wanted))
    else:
        strategy = "along the nearest healthy neighbours' axes"
        quats[wanted] = neighbours.quats(splat, ~wanted, wanted)
    found = [finding for finding in diagnosis.findings if finding.field == "quats"]
    return replace(splat, quats=quats), {(finding.kind, finding.field): strategy for finding in found}


def _broken_quats(splat: Splat, diagnosis: Diagnosis) -> Mask:
    broken = nonfinite_mask(splat.quats)
    if found := diagnosis.find("zero_quaternion"):
        broken |= zero_quaternion_mask(splat, found.figures["norm"])
    return broken


def _evened(log_scales: Float32, wanted: Mask) -> Float32:
    """Sizes drawn to their mean: an ellipsoid that may lie wrong does less harm when it is rounder."""
    mean = log_scales.mean(axis=1, keepdims=True)
    return np.where(wanted[:, None], mean + np.float32(0.3) * (log_scales - mean), log_scales)


# ------------------------------------------------------------------------------- colours


def _colours(splat: Splat, diagnosis: Diagnosis, config: RepairConfig) -> tuple[Splat, _Strategies]:  # noqa: ARG001
    done: _Strategies = {}
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
    done: _Strategies = {}
    read = _Read(splat.opacity_logits, np.isfinite(splat.opacity_logits), np.isfinite(splat.opacity_logits))
    for finding in (finding for finding in diagnosis.findings if finding.field == "opacity_logits"):
        read, strategy = _read(splat, read, finding, config)
        done[finding.kind, finding.field] = strategy
    if not done:
        return splat, done
    found = diagnosis.find("uniform_opacity")
    least = max(LEAST_STD, 1.05 * found.figures["least_std"]) if found else LEAST_STD
    logits = _varied(splat, _guessed(splat, read), ~read.firm, least)
    if found:
        after = float(logits.std(dtype=np.float64))
        logger.info("UNIFORM opacity FIXED: std {:.2f} → {:.2f}", found.figures["std"], after)
    return replace(splat, opacity_logits=logits), done


@dataclass(frozen=True, eq=False)
class _Read:
    """What the stored values (N,) tell: logits; known: those to keep; firm: of them, the exact ones."""

    logits: Float32
    known: Mask
    firm: Mask


def _read(splat: Splat, read: _Read, finding: Finding, config: RepairConfig) -> tuple[_Read, str]:
    """Reads the values again in the light of a finding; what is not known after the last will be guessed."""
    if finding.kind == "nonfinite":
        return _read_infinite(read)
    if finding.kind == "linear_opacity":
        share = read.logits.clip(CERTAIN, 1 - CERTAIN).astype(np.float64)
        return replace(read, logits=np.log(share / (1 - share)).astype(np.float32)), "logit taken"
    if finding.kind == "double_logit":
        return _read_clamped(splat, read, finding)
    if config.strategy == "noise":
        return _read_noisy(read, config)
    far = read.known & (np.abs(read.logits - np.float32(finding.figures["mean"])) > 3)
    with_rest = f" and the {int(far.sum()):,} that differ" if far.any() else ""
    return _Read(read.logits, far, far), f"restore: from geometry{with_rest}"


def _read_infinite(read: _Read) -> tuple[_Read, str]:
    finite = read.logits[read.known]
    infinite = np.isinf(read.logits)
    if infinite.any() and finite.size and np.abs(finite).max() < SATURATED and is_eight_bit(finite):
        saturated = np.clip(read.logits, -EIGHT_BIT_END, EIGHT_BIT_END)
        known = read.known | infinite
        return _Read(saturated, known, known), "infinite ones are 8-bit opacities of 0 and 255; NaN guessed"
    return read, "from geometry and the healthy ones"


def _read_noisy(read: _Read, config: RepairConfig) -> tuple[_Read, str]:
    """The older recipe, kept for those who ask for it: it varies what is stored and brings nothing back."""
    noise = np.random.default_rng(config.seed).normal(0, config.noise_std, len(read.logits)).astype(np.float32)
    strategy = f"noise: zero mean, std {config.noise_std:g}, seed {config.seed}: what was invisible stays so"
    return replace(read, logits=read.logits + noise, firm=read.known), strategy


def _read_clamped(splat: Splat, read: _Read, finding: Finding) -> tuple[_Read, str]:
    """Between the clamps stands logit(x): x is back exactly. At them, all that is left is that x <= 0 or x >= 1.

    Where only the floor has mass, and the rest is plain, it is not even that: those are guessed.
    """
    clamp, whole = finding.figures["clamp"], bool(finding.figures["whole"])
    floor = read.known & (np.abs(read.logits + clamp) < CLAMP_TOLERANCE)
    ceiling = read.known & (np.abs(read.logits - clamp) < CLAMP_TOLERANCE)
    firm = read.known & ~floor & ~ceiling
    if not whole and finding.figures["ceiling"] < SMALLEST_MASS:
        return _Read(read.logits, firm, firm), "floor restored from geometry and the healthy ones"
    logits = np.where(firm, sigmoid(read.logits), read.logits) if whole else read.logits.copy()
    logits[floor] = -1.45 - 0.5 * float(floor.sum()) / len(logits)  # the more lie below, the farther
    logits[ceiling] = np.maximum(1, 3 + opacity.vary(splat, 0.5)[ceiling])
    what = "second logit undone; what had met the clamp set to typical values"
    if not whole:
        what = "what had met the clamp set to typical values, the rest is plain"
    return _Read(logits, read.known, firm), what


def _guessed(splat: Splat, read: _Read) -> Float32:
    if read.known.all():
        return read.logits
    # what is not known may be anything, infinity too: the guess must not look at it
    logits = np.where(read.known, read.logits, 0).astype(np.float32)
    guess = opacity.guess_logits(replace(splat, opacity_logits=logits), read.known)
    return np.where(read.known, logits, guess)


def _varied(splat: Splat, logits: Float32, loose: Mask, least: float) -> Float32:
    """Where what was put in has left the whole without spread, as much of geometry's pattern as gives it one."""
    varied = logits
    for strength in (1, 2, 4, 8):
        if not loose.any() or float(varied.std(dtype=np.float64)) >= least:
            break
        varied = np.where(loose, logits + opacity.vary(splat, strength), logits)
    return varied

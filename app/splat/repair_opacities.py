"""Repairs opacities: reinterprets the stored values as the findings suggest, and estimates what is lost.

This file does not know how a fault is recognised (app.splat.opacity_findings), nor how a lost opacity is estimated
(app.splat.opacity).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from loguru import logger

from app.splat import opacity
from app.splat.findings import Finding
from app.splat.model import Float32, Splat, sigmoid
from app.splat.opacity_findings import CLAMP_TOLERANCE, SMALLEST_MASS, is_eight_bit
from app.splat.statistics import Mask

if TYPE_CHECKING:
    from app.config import RepairConfig

LEAST_STD = 1.05
"""The least standard deviation of restored logits, so that the next diagnosis does not find them uniform."""

CERTAIN = 1e-6
"""Probabilities are clipped this close to 0 and 1 before the logit; a known loader's clamp would look like a fault."""

SATURATED = 5.55
"""logit(254.01 / 255): if no finite logit exceeds it, infinite logits stand for 8-bit opacities of 0 and 255."""

EIGHT_BIT_END = 6.23
"""logit(254.5 / 255), half a step from 255."""


def restored(
    splat: Splat, findings: Iterable[Finding], config: RepairConfig
) -> tuple[Float32, list[tuple[Finding, str]]]:
    """(N,) repaired logits, and the strategy used for each finding."""
    done: list[tuple[Finding, str]] = []
    finite = np.isfinite(splat.opacity_logits)
    reading = _Reading(splat.opacity_logits, finite, finite)
    for finding in findings:
        reading, strategy = _read(splat, reading, finding, config)
        done.append((finding, strategy))
    uniform = next((finding for finding, _ in done if finding.kind == "uniform_opacity"), None)
    least = max(LEAST_STD, 1.05 * uniform.figures["least_std"]) if uniform else LEAST_STD
    logits = _spread_out(splat, _estimated(splat, reading), ~reading.exact, least)
    if uniform:
        after = float(logits.std(dtype=np.float64))
        logger.info("UNIFORM opacity FIXED: std {:.2f} → {:.2f}", uniform.figures["std"], after)
    return logits, done


@dataclass(frozen=True, eq=False)
class _Reading:
    """How the stored values (N,) are interpreted. known: which logits to keep; exact: which of them are certain."""

    logits: Float32
    known: Mask
    exact: Mask


def _read(splat: Splat, reading: _Reading, finding: Finding, config: RepairConfig) -> tuple[_Reading, str]:
    """Reinterprets the values for one finding; what is still unknown after the last finding is estimated."""
    if finding.kind == "nonfinite":
        return _read_infinite(reading)
    if finding.kind in ("linear_opacity", "opacity_255"):
        full = finding.figures.get("full", 1.0)
        opacities = (reading.logits.astype(np.float64) / full).clip(CERTAIN, 1 - CERTAIN)
        logits = np.log(opacities / (1 - opacities)).astype(np.float32)
        return replace(reading, logits=logits), "logit taken" if full == 1 else f"divided by {full:g}, logit taken"
    if finding.kind == "double_logit":
        return _read_clamped(splat, reading, finding)
    if config.strategy == "noise":
        return _read_noisy(reading, config)
    far = reading.known & (np.abs(reading.logits - np.float32(finding.figures["mean"])) > 3)
    with_rest = f" and the {int(far.sum()):,} that differ" if far.any() else ""
    return _Reading(reading.logits, far, far), f"restore: from geometry{with_rest}"


def _read_infinite(reading: _Reading) -> tuple[_Reading, str]:
    finite = reading.logits[reading.known]
    infinite = np.isinf(reading.logits)
    if infinite.any() and finite.size and np.abs(finite).max() < SATURATED and is_eight_bit(finite):
        saturated = np.clip(reading.logits, -EIGHT_BIT_END, EIGHT_BIT_END)
        known = reading.known | infinite
        return _Reading(saturated, known, known), "infinite ones are 8-bit opacities of 0 and 255; NaN estimated"
    return reading, "from geometry and the healthy ones"


def _read_noisy(reading: _Reading, config: RepairConfig) -> tuple[_Reading, str]:
    """repair.strategy = "noise": adds noise to what is stored and recovers nothing."""
    noise = np.random.default_rng(config.seed).normal(0, config.noise_std, len(reading.logits)).astype(np.float32)
    strategy = f"noise: zero mean, std {config.noise_std:g}, seed {config.seed}: invisible Gaussians stay invisible"
    return replace(reading, logits=reading.logits + noise, exact=reading.known), strategy


def _read_clamped(splat: Splat, reading: _Reading, finding: Finding) -> tuple[_Reading, str]:
    """Values between the clamps are logit(x), and give x back exactly. At the clamps only x <= 0 or x >= 1 is known.

    If only the floor has mass and the other values are plain logits, the values at the floor are estimated.
    """
    clamp, whole = finding.figures["clamp"], bool(finding.figures["whole"])
    floor = reading.known & (np.abs(reading.logits + clamp) < CLAMP_TOLERANCE)
    ceiling = reading.known & (np.abs(reading.logits - clamp) < CLAMP_TOLERANCE)
    exact = reading.known & ~floor & ~ceiling
    if not whole and finding.figures["ceiling"] < SMALLEST_MASS:
        return _Reading(reading.logits, exact, exact), "floor restored from geometry and the healthy ones"
    logits = np.where(exact, sigmoid(reading.logits), reading.logits) if whole else reading.logits.copy()
    logits[floor] = -1.45 - 0.5 * float(floor.sum()) / len(logits)  # the more values are clamped, the lower their mean
    logits[ceiling] = np.maximum(1, 3 + opacity.relative_logits(splat, 0.5)[ceiling])
    what = "second logit undone; clamped ones set to typical values"
    if not whole:
        what = "clamped ones set to typical values, the rest is plain"
    return _Reading(logits, reading.known, exact), what


def _estimated(splat: Splat, reading: _Reading) -> Float32:
    if reading.known.all():
        return reading.logits
    # unknown values may be infinite: the estimate must not use them
    logits = np.where(reading.known, reading.logits, 0).astype(np.float32)
    guess = opacity.estimate_logits(replace(splat, opacity_logits=logits), reading.known)
    return np.where(reading.known, logits, guess)


def _spread_out(splat: Splat, logits: Float32, uncertain: Mask, least: float) -> Float32:
    """The logits, with as much of the geometric pattern added as it takes to reach the least standard deviation."""
    spread = logits
    for strength in (1, 2, 4, 8):
        if not uncertain.any() or float(spread.std(dtype=np.float64)) >= least:
            break
        spread = np.where(uncertain, logits + opacity.relative_logits(splat, strength), logits)
    return spread

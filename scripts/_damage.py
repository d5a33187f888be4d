"""Faults reported in the field, reproduced for tests and benchmarks.

Every damage is deterministic for a generator of a given seed. This file does not know how faults are found or repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.splat.model import Float32, Splat, sigmoid

Damage = Callable[[Splat, np.random.Generator], Splat]

FLOOR = -9.2103
"""As operators recorded it; logit(1e-4), where a clamping loader puts every logit below zero, is -9.2102."""


def _chosen(splat: Splat, share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of a share of the Gaussians, at least one."""
    return rng.choice(len(splat), size=max(1, round(share * len(splat))), replace=False)


def _with(array: Float32, index: NDArray[np.intp] | slice, value: float) -> Float32:
    damaged = array.copy()
    damaged[index] = value
    return damaged


def opacity_at(splat: Splat, rng: np.random.Generator, *, logit: float = FLOOR, share: float = 1.0) -> Splat:
    """A share of the opacities becomes one value: the floor, NaN, infinity."""
    return replace(splat, opacity_logits=_with(splat.opacity_logits, _chosen(splat, share, rng), logit))


def double_logit(splat: Splat, rng: np.random.Generator, *, clamp: float = 1e-4, share: float = 1.0) -> Splat:
    """A loader that takes logits for probabilities: clips to [clamp, 1 - clamp] and applies logit, in float32."""
    index = _chosen(splat, share, rng)
    damaged = splat.opacity_logits.copy()
    clipped = damaged[index].clip(np.float32(clamp), np.float32(1 - clamp))
    damaged[index] = np.log(clipped / (1 - clipped))
    return replace(splat, opacity_logits=damaged)


def linear_opacity(splat: Splat, rng: np.random.Generator) -> Splat:  # noqa: ARG001
    """Probabilities where logits belong."""
    return replace(splat, opacity_logits=sigmoid(splat.opacity_logits))


def uniform_scale(splat: Splat, rng: np.random.Generator, *, log_scale: float = -5.5) -> Splat:  # noqa: ARG001
    """Every Gaussian a ball of one size; the default, in log world units, fits neither of the assets we measure on."""
    return replace(splat, log_scales=np.full_like(splat.log_scales, log_scale))


def mean_scale(splat: Splat, rng: np.random.Generator) -> Splat:
    """Every Gaussian a ball of the file's mean logarithmic size."""
    return uniform_scale(splat, rng, log_scale=float(splat.log_scales.mean(dtype=np.float64)))


def linear_scale(splat: Splat, rng: np.random.Generator) -> Splat:  # noqa: ARG001
    """Plain sizes where logarithms belong."""
    return replace(splat, log_scales=np.exp(splat.log_scales))


def lost(splat: Splat, rng: np.random.Generator, *, field: str, value: float = np.nan, share: float = 0.1) -> Splat:
    """A share of the Gaussians gets `value` (NaN, infinity, zero) in every component of a field."""
    damaged = _with(getattr(splat, field), _chosen(splat, share, rng), value)
    return replace(splat, **{field: damaged})


def flung(splat: Splat, rng: np.random.Generator, *, share: float = 0.01, distance: float = 1e6) -> Splat:
    """A share of the Gaussians lies far outside any scene."""
    return lost(splat, rng, field="means", value=distance, share=share)


DAMAGES: dict[str, Damage] = {
    "uniform opacity -9.2103": opacity_at,
    "99 % at the floor": partial(opacity_at, share=0.99),
    "90 % at the floor": partial(opacity_at, share=0.9),
    "double logit": double_logit,
    "double logit, clamp 1e-3": partial(double_logit, clamp=1e-3),
    "double logit, one half": partial(double_logit, share=0.5),
    "opacity NaN 15 %": partial(opacity_at, logit=np.nan, share=0.15),
    "opacity inf 1 %": partial(opacity_at, logit=np.inf, share=0.01),
    "opacity inf 10 %": partial(opacity_at, logit=np.inf, share=0.1),
    "linear opacity": linear_opacity,
    "uniform scale -5.5": uniform_scale,
    "uniform scale, mean": mean_scale,
    "linear scale": linear_scale,
    "scale NaN 10 %": partial(lost, field="log_scales"),
    "zero quaternions 10 %": partial(lost, field="quats", value=0.0),
    "zero quaternions, all": partial(lost, field="quats", value=0.0, share=1.0),
    "colour NaN 10 %": partial(lost, field="sh"),
    "position NaN 2 %": partial(lost, field="means", share=0.02),
    "position flung 1 %": flung,
}
"""Faults by name, for tests and `scripts/bench_repair`."""

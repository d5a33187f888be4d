"""Faults reported in the field, reproduced for tests and benchmarks.

Every damage is deterministic for a given seed. This file does not know how faults are found or repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.splat.model import SH_C0, Float32, Splat, sigmoid

Damage = Callable[[Splat, np.random.Generator], Splat]

FLOOR = -9.2103
"""The value that operators recorded; logit(1e-4), to which a clamping loader maps negative logits, is -9.2102."""


def _chosen(splat: Splat, share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of a share of the Gaussians, at least one."""
    return rng.choice(len(splat), size=max(1, round(share * len(splat))), replace=False)


def _some(splat: Splat, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of `count` Gaussians, at most a fiftieth of all."""
    return rng.choice(len(splat), size=min(count, -(-len(splat) // 50)), replace=False)


def _extent(splat: Splat) -> float:
    return float(np.ptp(splat.means, axis=0).max()) or 1.0


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
    """Probabilities in place of logits."""
    return replace(splat, opacity_logits=sigmoid(splat.opacity_logits))


def uniform_scale(splat: Splat, rng: np.random.Generator, *, log_scale: float = -5.5) -> Splat:  # noqa: ARG001
    """Every Gaussian a ball of the same size; the default, in log world units, suits neither of the measured assets."""
    return replace(splat, log_scales=np.full_like(splat.log_scales, log_scale))


def mean_scale(splat: Splat, rng: np.random.Generator) -> Splat:
    """Every Gaussian a ball of the file's mean logarithmic size."""
    return uniform_scale(splat, rng, log_scale=float(splat.log_scales.mean(dtype=np.float64)))


def linear_scale(splat: Splat, rng: np.random.Generator) -> Splat:  # noqa: ARG001
    """Plain sizes in place of logarithms."""
    return replace(splat, log_scales=np.exp(splat.log_scales))


def lost(splat: Splat, rng: np.random.Generator, *, field: str, value: float = np.nan, share: float = 0.1) -> Splat:
    """A share of the Gaussians gets `value` (NaN, infinity, zero) in every component of a field."""
    damaged = _with(getattr(splat, field), _chosen(splat, share, rng), value)
    return replace(splat, **{field: damaged})


def flung(splat: Splat, rng: np.random.Generator, *, share: float = 0.01, distance: float = 1e6) -> Splat:
    """Moves a share of the Gaussians far outside any scene."""
    return lost(splat, rng, field="means", value=distance, share=share)


def strays(splat: Splat, rng: np.random.Generator, *, count: int = 1, distance: float = 5.0) -> Splat:
    """Moves `count` Gaussians up to `distance` object sizes away, in different directions."""
    index = _some(splat, count, rng)
    means = splat.means.copy()
    away = rng.normal(size=(len(index), 3))
    away *= distance * _extent(splat) / np.linalg.norm(away, axis=1, keepdims=True)
    means[index] = means.mean(axis=0) + away * rng.uniform(0.6, 1, (len(index), 1))
    return replace(splat, means=means)


def giants(splat: Splat, rng: np.random.Generator, *, count: int = 1, size: float = 50.0, logit: float = 5.0) -> Splat:
    """Turns `count` Gaussians into opaque balls of `size` object sizes."""
    index = _some(splat, count, rng)
    log_size = float(np.log(size * _extent(splat)))
    logits = _with(splat.opacity_logits, index, logit)
    return replace(splat, log_scales=_with(splat.log_scales, index, log_size), opacity_logits=logits)


def rgb(splat: Splat, rng: np.random.Generator, *, full: float = 255.0, digits: int = 0) -> Splat:  # noqa: ARG001
    """Colours of 0 to `full` in place of coefficients."""
    sh = splat.sh.copy()
    sh[:, 0] = np.round(full * (0.5 + SH_C0 * sh[:, 0]).clip(0, 1), digits)
    return replace(splat, sh=sh)


def opacity_of(splat: Splat, rng: np.random.Generator, *, full: float = 255.0) -> Splat:  # noqa: ARG001
    """Opacities of 0 to `full`, rounded, in place of logits."""
    return replace(splat, opacity_logits=np.round(full * sigmoid(splat.opacity_logits)))


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
    "one stray at 5": strays,
    "one stray at 60": partial(strays, distance=60.0),
    "30 strays at 300": partial(strays, count=30, distance=300.0),
    "one giant of 50": giants,
    "20 giants of 0.5": partial(giants, count=20, size=0.5, logit=3.0),
    "colours 0 to 255": rgb,
    "colours 0 to 1": partial(rgb, full=1.0, digits=6),
    "opacities 0 to 255": opacity_of,
    "opacities 0 to 100": partial(opacity_of, full=100.0),
}
"""Faults by name, for tests and `scripts/bench_repair`."""

"""Euler integration of a flow from noise (time 1) to data (time 0), with guidance inside an interval of time.

A run is planned first: each step carries the conditions to evaluate and their weights, so that one loop serves plain
and guided sampling and several images. This file does not know what is being sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch import Tensor

from app.errors import BadWeights

Velocity = Callable[[Tensor, int, tuple[int, ...]], Tensor]
"""(state, number of the step, indices of conditions) -> velocities, one for each condition, stacked on a first axis."""
MultiImage = Literal["stochastic", "multidiffusion"]


@dataclass(frozen=True)
class SamplerParams:
    """steps: Euler steps. cfg_strength s: v = (1+s) v_cond - s v_neg, 0 is unguided, inside `cfg_interval` (times, both
    ends included). rescale_t: > 1 spends more steps near the noise."""

    steps: int = 25
    cfg_strength: float = 5.0
    cfg_interval: tuple[float, float] = (0.5, 1.0)
    rescale_t: float = 3.0

    def but(self, **changes: Any) -> SamplerParams:
        """These, overridden key by key."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Step:
    """From `time` to `until`, along the weighted sum of the velocities under (condition, weight)."""

    time: float
    until: float
    weights: tuple[tuple[int, float], ...]


def read_sampler(config: Mapping[str, Any]) -> SamplerParams:
    """{"name", "args", "params"} of pipeline.json. Raises BadWeights for a sampler or a parameter that is not known."""
    params = dict(config.get("params", {}))
    match config.get("name"):
        case "FlowEulerSampler":
            params |= {"cfg_strength": 0.0}
        case "FlowEulerCfgSampler":
            params |= {"cfg_interval": (0.0, 1.0)}
        case "FlowEulerGuidanceIntervalSampler":
            pass
        case name:
            raise BadWeights(f"sampler {name!r} is not known")
    signature = SamplerParams(steps=50, cfg_strength=3.0, cfg_interval=(0.0, 1.0), rescale_t=1.0)
    try:
        return signature.but(**{k: tuple(v) if isinstance(v, list) else v for k, v in params.items()})
    except TypeError as error:
        raise BadWeights(f"sampler: {error}") from None


def times(steps: int, rescale_t: float) -> list[float]:
    """steps + 1 times from 1 to 0, float64: with rescale 3 one falls on 0.5 exactly, where an interval may begin."""
    u = np.linspace(1, 0, steps + 1)
    return [float(t) for t in rescale_t * u / (1 + (rescale_t - 1) * u)]


def plan(params: SamplerParams, images: int = 1, mode: MultiImage = "stochastic") -> list[Step]:
    """The steps of a run. Conditions 0 .. images-1 are the images, condition `images` is the negative one.

    Several images: "stochastic" takes them in turn, one a step; "multidiffusion" averages over all of them.
    """
    ends = times(params.steps, params.rescale_t)
    low, high = params.cfg_interval
    planned = []
    for number, (time, until) in enumerate(pairwise(ends)):
        strength = params.cfg_strength if low <= time <= high else 0.0
        chosen = range(images) if mode == "multidiffusion" else (number % images,)
        weights = [(index, (1 + strength) / len(chosen)) for index in chosen]
        if strength:
            weights.append((images, -strength))
        planned.append(Step(time, until, tuple(weights)))
    return planned


def model_times(steps: Sequence[Step]) -> list[float]:
    """The time of each step as the models take it."""
    return [1000 * step.time for step in steps]


def trajectory(velocity: Velocity, noise: Tensor, steps: Sequence[Step]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (state after the step, velocity used) for each step; the state keeps the noise's float32."""
    state = noise
    for number, step in enumerate(steps):
        each = velocity(state, number, tuple(index for index, _ in step.weights))
        combined = each[0] * step.weights[0][1]
        for v, (_, weight) in zip(each[1:], step.weights[1:], strict=True):
            combined = combined + weight * v
        state = state - (step.time - step.until) * combined
        yield state, combined


def sample(velocity: Velocity, noise: Tensor, steps: Sequence[Step]) -> Tensor:
    """The state at time 0."""
    state = noise
    for state, _ in trajectory(velocity, noise, steps):  # noqa: B007
        pass
    return state

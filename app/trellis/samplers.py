"""Euler integration of a flow from noise (time 1) to data (time 0), with classifier-free guidance in an interval.

`schedule` decides before the run which conditions each step evaluates and with which weights, so that one loop serves
guided and unguided steps. Nothing here depends on what is being sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from app.errors import BadWeights
from app.samplers import BOUNDS

Velocity = Callable[[Tensor, int, tuple[int, ...]], Tensor]
"""(state, step number, indices of conditions) -> one velocity for each of these conditions, stacked on a first axis."""

DEFAULTS: dict[str, Any] = {"steps": 50, "cfg_strength": 3.0, "cfg_interval": (0.0, 1.0), "rescale_t": 1.0}
"""The default of the original for a parameter that pipeline.json omits."""

CONDITION, NEGATIVE = 0, 1
"""Indices of the two conditions of a run."""


@dataclass(frozen=True)
class SamplerParams:
    """steps: number of Euler steps. cfg_strength s: the velocity is (1 + s) v_condition - s v_negative at times inside
    `cfg_interval`, ends included, and v_condition elsewhere. rescale_t: above 1, more of the steps are near the noise.
    """

    steps: int = 25
    cfg_strength: float = 5.0
    cfg_interval: tuple[float, float] = (0.5, 1.0)
    rescale_t: float = 3.0

    def __str__(self) -> str:
        low, high = self.cfg_interval
        guidance = f"guidance {self.cfg_strength:g} in [{low:g}, {high:g}]"
        return f"{self.steps} steps, {guidance}, rescale_t {self.rescale_t:g}"


SETTINGS = {"steps": "steps", "guidance": "cfg_strength", "interval": "cfg_interval", "rescale": "rescale_t"}
"""The name of a setting in app/samplers.py -> the parameter."""


@dataclass(frozen=True)
class Sampling:
    """How one splat is sampled. oversample: structures to sample; the one with the fewest voxels goes on."""

    structure: SamplerParams
    latent: SamplerParams
    oversample: int = 1

    def changed(self, values: Mapping[str, Any], oversample: int) -> Sampling:
        """With these values instead, by setting: "structure_steps" and so on, as `SamplerSettings.values` has them."""

        def params(stage: str) -> dict[str, Any]:
            names = ((f"{stage}_{setting}", name) for setting, name in SETTINGS.items())
            return {name: values[key] for key, name in names if key in values}

        structure, latent = replace(self.structure, **params("structure")), replace(self.latent, **params("latent"))
        return Sampling(structure, latent, oversample)

    def __str__(self) -> str:
        drawn = f", the smallest of {self.oversample} structures" if self.oversample > 1 else ""
        return f"structure {self.structure}, latents {self.latent}{drawn}"


@dataclass(frozen=True)
class Step:
    """From `time` to `next_time`, along the sum of weight * velocity over the pairs (condition, weight)."""

    time: float
    next_time: float
    weights: tuple[tuple[int, float], ...]


def read_sampler(config: Mapping[str, Any]) -> SamplerParams:
    """A sampler of pipeline.json: {"name", "args", "params"}.

    Raises BadWeights for an unknown sampler or parameter, and for a value out of its bounds (app/bounds.py).
    """
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
    try:
        found = SamplerParams(**DEFAULTS | {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()})
    except TypeError as error:
        raise BadWeights(f"sampler: {error}") from None
    _check_bounds(found)
    return found


def _check_bounds(params: SamplerParams) -> None:
    for setting, name in SETTINGS.items():
        value, bounds = getattr(params, name), BOUNDS[f"structure_{setting}"]
        if not all(number in bounds for number in (value if isinstance(value, tuple) else (value,))):
            raise BadWeights(f"sampler: {name} = {value!r}: must be {bounds}")


def times(steps: int, rescale_t: float) -> list[float]:
    """steps + 1 times from 1 to 0, float64: with rescale_t = 3 one is exactly 0.5, a possible end of the interval."""
    u = np.linspace(1, 0, steps + 1)
    return [float(t) for t in rescale_t * u / (1 + (rescale_t - 1) * u)]


def schedule(params: SamplerParams) -> list[Step]:
    """The steps of a run."""
    low, high = params.cfg_interval
    steps = []
    for time, next_time in pairwise(times(params.steps, params.rescale_t)):
        strength = params.cfg_strength if low <= time <= high else 0.0
        weights = [(CONDITION, 1 + strength)] + ([(NEGATIVE, -strength)] if strength else [])
        steps.append(Step(time, next_time, tuple(weights)))
    return steps


def model_times(steps: Sequence[Step]) -> list[float]:
    """The time of each step in the unit of the models: 0 to 1000."""
    return [1000 * step.time for step in steps]


def trajectory(velocity: Velocity, noise: Tensor, steps: Sequence[Step]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (state after the step, velocity used) for each step. The state stays float32, like the noise."""
    state = noise
    for number, step in enumerate(steps):
        velocities = velocity(state, number, tuple(index for index, _ in step.weights))
        combined = velocities[0] * step.weights[0][1]
        for v, (_, weight) in zip(velocities[1:], step.weights[1:], strict=True):
            combined = combined + weight * v
        state = state - (step.time - step.next_time) * combined
        yield state, combined


def sample(velocity: Velocity, noise: Tensor, steps: Sequence[Step]) -> Tensor:
    """The state at time 0."""
    state = noise
    for state, _ in trajectory(velocity, noise, steps):  # noqa: B007
        pass
    return state

"""A splat ready to be drawn. This file does not know who draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Backend = Literal["gsplat", "cpu"]


@dataclass(frozen=True, eq=False)
class Scene:
    """The Gaussians that can be drawn, placed, without logarithms; drawn any number of times.

    Shapes as in Splat. Fields are numpy arrays for the CPU kernel and CUDA tensors for gsplat.
    """

    means: Any
    quats: Any
    scales: Any
    opacities: Any
    sh: Any
    backend: Backend

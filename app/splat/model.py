"""The splat itself. The space of each array is in its name, so that nothing is transformed twice.

This file does not know how a splat is stored, judged or drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SH_C0 = 0.28209479177387814
"""Value of the degree-0 real spherical harmonic, 1 / (2 sqrt(pi)): colour = 0.5 + SH_C0 * sh[:, 0]."""

MAX_COORDINATE = 1e9
"""Positions with a larger coordinate are treated as lost, whatever the unit."""


@dataclass(frozen=True, eq=False)
class Splat:
    """N 3D Gaussians in world units, +Y up. All arrays float32, C-contiguous.

    means: (N, 3) centres.
    quats: (N, 4) rotations, (w, x, y, z), as stored: consumers normalise them; diagnosis reports zero quaternions.
    log_scales: (N, 3) natural logarithm of the standard deviations.
    opacity_logits: (N,) log(p / (1 - p)) of the opacity p.
    sh: (N, K, 3) spherical-harmonic coefficients per colour channel, K = (degree + 1)^2, degree 0 to 3.
    notes: what the reader dropped or changed, a sentence each.

    Raises ValueError if an array has another shape.
    """

    means: Float32
    quats: Float32
    log_scales: Float32
    opacity_logits: Float32
    sh: Float32
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.means)
        basis = self.sh.shape[1] if np.ndim(self.sh) == 3 else -1
        if basis not in (1, 4, 9, 16):
            raise ValueError(f"sh has shape {np.shape(self.sh)}, expected (N, K, 3) with K one of 1, 4, 9, 16")
        shapes = {
            "means": (n, 3),
            "quats": (n, 4),
            "log_scales": (n, 3),
            "opacity_logits": (n,),
            "sh": (n, basis, 3),
        }
        for name, shape in shapes.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return int(self.sh.shape[1] ** 0.5) - 1

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Splat:
        """The Gaussians chosen by a boolean mask (N,) or by indices."""
        return Splat(
            self.means[index],
            self.quats[index],
            self.log_scales[index],
            self.opacity_logits[index],
            self.sh[index],
            self.notes,
        )


def sigmoid(logits: Any, numbers: Any = np) -> Any:
    """1 / (1 + exp(-x)), float32, without overflow warnings at either end. numbers: torch if x is a tensor."""
    return 0.5 * numbers.tanh(0.5 * logits) + 0.5

"""How large an object is, whatever unit its file has: its core, its strays, its giants.

All bounds here are relative to the core, so that a file in centimetres and one in kilometres are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.splat.model import Float32
from app.splat.statistics import Mask

SAMPLE = 20_000
"""Positions from which the core is estimated."""

TRIMMED = 0.025
"""Share of the positions left out of the core at each end of each axis."""

WIDE = 1_024
"""Positions reduced side by side."""

LEAST_GAUSSIANS = 50
"""Fewer are too few to tell a stray from the object."""

SPREAD = 2.0
"""Bounding boxes up to so many cores long hold no stray; that of a normal cloud of a million has 2.5, and no gap."""

GAP = 0.75
"""Beyond an empty shell of so many core extents around the core lie strays, or another object."""

FAR = 2.5
"""So many core extents outside the core lie strays, or another object, without a gap too."""

MOST_STRAYS = 0.05
"""A larger share of the Gaussians is part of what the file shows."""

SMALLEST_OBJECT = 0.005
"""Share of the Gaussians from which neighbours that touch, far from the core, are an object of their own."""

LARGE = 0.13
"""A standard deviation of so many core extents is suspicious. The largest of the real assets has 0.106."""

LARGE_AMONG_OTHERS = 10.0
"""And is a fault if it is so many times as large as nine tenths of the others: in a file of few Gaussians all are
large. The largest of the real assets has 6.5 times that."""


@dataclass(frozen=True, eq=False)
class Core:
    """The box of the middle 95 % of the positions along each axis.

    low, high: (3,) world units. longest: the longest side of the bounding box of all positions.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    longest: float

    @property
    def extent(self) -> float:
        """The longest side of the core, world units; 0 where all positions are one point, up to rounding."""
        longest = float((self.high - self.low).max())
        return longest if longest > 1e-6 * float(np.abs(self.high).max()) else 0.0

    def distance(self, means: Float32) -> NDArray[np.float64]:
        """(N,) how far outside the box each position lies, along the axis where it is farthest; 0 inside."""
        away = np.zeros(len(means))
        for axis in range(3):
            column = means[:, axis].astype(np.float64)
            np.maximum(away, np.maximum(self.low[axis] - column, column - self.high[axis]), out=away)
        return away


def core_of(means: Float32) -> Core:
    """The core of finite positions (N, 3), N > 0."""
    columns = np.sort(means[:: -(-len(means) // SAMPLE)].astype(np.float64), axis=0)
    trimmed = int(np.ceil(TRIMMED * len(columns))) if len(columns) >= LEAST_GAUSSIANS else 0
    low, high = bounding_box(means)
    return Core(columns[trimmed], columns[len(columns) - 1 - trimmed], float((high - low).max()))


def bounding_box(means: Float32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) least and greatest coordinates of positions (N, 3), N > 0.

    Most rows are reduced side by side: a reduction over rows of three takes twenty times as long.
    """
    wide = len(means) // WIDE * WIDE
    parts = [means[wide:]] if wide < len(means) else []
    if wide:
        rows = means[:wide].reshape(-1, 3 * WIDE)
        parts += [rows.min(axis=0).reshape(WIDE, 3), rows.max(axis=0).reshape(WIDE, 3)]
    ends = np.concatenate(parts).astype(np.float64)
    return ends.min(axis=0), ends.max(axis=0)


def stray_mask(means: Float32, log_scales: Float32, core: Core) -> Mask | None:
    """(N,) positions far from the object, of finite positions (N, 3) with this core; None where there is none.

    Where strays were found the rest is looked at again, so that what is left has none. Over MOST_STRAYS there are none.
    """
    kept = np.arange(len(means))
    while len(kept) >= LEAST_GAUSSIANS and core.extent and core.longest > SPREAD * core.extent:
        found = _strays(means[kept], log_scales[kept], core, len(means))
        if not found.any():
            break
        kept = kept[~found]
        core = core_of(means[kept])
    if not (1 - MOST_STRAYS) * len(means) <= len(kept) < len(means):
        return None
    strays = np.ones(len(means), bool)
    strays[kept] = False
    return strays


def _strays(means: Float32, log_scales: Float32, core: Core, count: int) -> Mask:
    strays = np.zeros(len(means), bool)
    distance = core.distance(means)
    ordered = np.sort(distance[distance > 0])
    gaps = np.flatnonzero(np.diff(ordered, prepend=0.0) > GAP * core.extent)
    limit = min(FAR * core.extent, float(ordered[gaps[0]]) if len(gaps) else np.inf)
    candidates = np.flatnonzero(distance >= limit)
    from scipy.spatial import cKDTree  # here, because it takes longer to import than most files to read

    touching = _touching(means[candidates], log_scales[candidates], core.extent)
    if touching.sum() >= max(LEAST_GAUSSIANS, SMALLEST_OBJECT * count):  # another object, and what surrounds it
        away, _ = cKDTree(means[candidates][touching]).query(means[candidates], workers=-1)
        candidates = candidates[away > GAP * core.extent]
    strays[candidates] = True
    return strays


def _touching(means: Float32, log_scales: Float32, extent: float) -> Mask:
    """(N,) Gaussians whose four nearest of these lie apart from them, and within three of their standard deviations."""
    if len(means) < LEAST_GAUSSIANS:
        return np.zeros(len(means), bool)
    reach = 3 * np.exp(np.minimum(log_scales.max(axis=1).astype(np.float64), np.log(LARGE * extent)))
    if len(np.unique(means[:1_000], axis=0)) < LEAST_GAUSSIANS:
        return np.zeros(len(means), bool)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(means).query(means, k=5, workers=-1)
    return np.asarray((distance[:, 4] > 0) & (distance[:, 4] <= reach))


def oversized_mask(log_scales: Float32, core: Core) -> Mask:
    """(N,) Gaussians that are giants against the object and against the others.

    Where giants were found the rest is looked at again, so that what is left has none.
    """
    largest = np.maximum(np.maximum(log_scales[:, 0], log_scales[:, 1]), log_scales[:, 2])
    finite = np.isfinite(largest)
    giants = np.zeros(len(largest), bool)
    while core.extent and (rest := largest[finite & ~giants]).size >= LEAST_GAUSSIANS:
        usual = np.sort(rest[:: -(-rest.size // SAMPLE)])
        limit = float(usual[int(0.9 * (usual.size - 1))]) + np.log(LARGE_AMONG_OTHERS)
        found = finite & ~giants & (largest > max(limit, np.log(LARGE * core.extent)))
        if not found.any():
            break
        giants |= found
    return giants

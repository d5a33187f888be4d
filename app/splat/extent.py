"""The size of the object in a file of any unit: its core, its strays, its oversized Gaussians.

All bounds here are relative to the core, so that files in centimetres and in kilometres are treated alike.
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
"""Fraction of the positions left out of the core at each end of each axis."""

WIDE = 1_024
"""Rows reduced side by side by bounding_box."""

LEAST_GAUSSIANS = 50
"""Fewer are too few to tell a stray from the object."""

SPREAD = 2.0
"""A bounding box up to this many core extents long has no strays. A million normally distributed points have 2.5."""

GAP = 0.75
"""What lies beyond an empty gap of this many core extents is strays, or another object."""

FAR = 2.5
"""What lies this many core extents outside the core is strays, or another object, even without a gap."""

MOST_STRAYS = 0.05
"""If a larger fraction of the Gaussians lies far away, they are part of the scene and not strays."""

SMALLEST_OBJECT = 0.005
"""Touching Gaussians far from the core are an object of their own from this fraction of all Gaussians on."""

LARGE = 0.13
"""A standard deviation of this many core extents is suspicious. The largest in the real assets is 0.106."""

LARGE_AMONG_OTHERS = 10.0
"""It is a fault if it also exceeds this multiple of the others' 90th percentile: in a file of few Gaussians all are
large. The largest multiple in the real assets is 6.5."""


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
        """(N,) distance of each position from the box, along the axis where it is greatest; 0 inside."""
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

    WIDE rows are reduced side by side: a reduction over rows of three numbers takes twenty times as long.
    """
    wide = len(means) // WIDE * WIDE
    parts = [means[wide:]] if wide < len(means) else []
    if wide:
        rows = means[:wide].reshape(-1, 3 * WIDE)
        parts += [rows.min(axis=0).reshape(WIDE, 3), rows.max(axis=0).reshape(WIDE, 3)]
    ends = np.concatenate(parts).astype(np.float64)
    return ends.min(axis=0), ends.max(axis=0)


def stray_mask(means: Float32, log_scales: Float32, core: Core) -> Mask | None:
    """(N,) which of the finite positions (N, 3) lie far from the object; None if none do.

    Repeats without the strays found, so that what is left has none. More than MOST_STRAYS do not count as strays.
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
    from scipy.spatial import cKDTree  # a slow import, and most files do not need it

    touching = _touching(means[candidates], log_scales[candidates], core.extent)
    if touching.sum() >= max(LEAST_GAUSSIANS, SMALLEST_OBJECT * count):  # keep another object and what surrounds it
        away, _ = cKDTree(means[candidates][touching]).query(means[candidates], workers=-1)
        candidates = candidates[away > GAP * core.extent]
    strays[candidates] = True
    return strays


def _touching(means: Float32, log_scales: Float32, extent: float) -> Mask:
    """(N,) Gaussians whose four nearest neighbours lie within three standard deviations, but not on the same point."""
    if len(means) < LEAST_GAUSSIANS:
        return np.zeros(len(means), bool)
    reach = 3 * np.exp(np.minimum(log_scales.max(axis=1).astype(np.float64), np.log(LARGE * extent)))
    if len(np.unique(means[:1_000], axis=0)) < LEAST_GAUSSIANS:
        return np.zeros(len(means), bool)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(means).query(means, k=5, workers=-1)
    return np.asarray((distance[:, 4] > 0) & (distance[:, 4] <= reach))


def oversized_mask(log_scales: Float32, core: Core) -> Mask:
    """(N,) Gaussians that are oversized relative to the object and to the other Gaussians.

    Repeats without those found, so that what is left has none.
    """
    largest = np.maximum(np.maximum(log_scales[:, 0], log_scales[:, 1]), log_scales[:, 2])
    finite = np.isfinite(largest)
    oversized = np.zeros(len(largest), bool)
    while core.extent and (rest := largest[finite & ~oversized]).size >= LEAST_GAUSSIANS:
        usual = np.sort(rest[:: -(-rest.size // SAMPLE)])
        limit = float(usual[int(0.9 * (usual.size - 1))]) + np.log(LARGE_AMONG_OTHERS)
        found = finite & ~oversized & (largest > max(limit, np.log(LARGE * core.extent)))
        if not found.any():
            break
        oversized |= found
    return oversized

"""Estimates lost opacities from the geometry and from the known opacities.

Every rule here was chosen by measurement on real assets: docs/repair.md has the experiments. This file does not know
what a finding is: the caller passes which opacities are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import cho_factor, cho_solve

from app.splat.model import Float32, Splat, sigmoid
from app.splat.neighbours import centred_rank, rotation_matrices
from app.splat.statistics import Mask

TARGET_OPTICAL_DEPTH = 1.5
"""Opacity times area, summed over the Gaussians of an occupied cell and divided by the area of a cell's face.

It sets the overall level when all opacities are lost. The real assets have 1.69 and 1.67, at mean opacities of 0.88 and
0.55. A slightly lower value renders both best: a Gaussian that is wrongly opaque does more harm than one that is
wrongly transparent."""

LOGIT_LIMIT = 6.0
"""Estimates are clipped to this range: opacities below 0.0025 or above 0.9975 look like 0 or 1."""


def estimate_logits(splat: Splat, known: Mask, spread: float = 1.1) -> Float32:
    """(N,) an estimated logit for every Gaussian; the caller keeps the known ones.

    Three layers, each correcting the one before: a fixed rule; a regression of the known logits on geometric features;
    the mean residual of the known Gaussians nearby.
    spread: standard deviation of the first layer, in logits. All other fields of the splat must be finite.
    """
    features = _features_of(splat)
    pattern = _pattern(features, spread)
    guess = pattern + np.float32(_level(pattern, features))
    if known.any():
        truth = splat.opacity_logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        guess = guess + _regression(features.regressors(), truth - guess, known)
        guess = guess + _deviation_nearby(features.grid, truth - guess, known)
    return guess.clip(-LOGIT_LIMIT, LOGIT_LIMIT)


def relative_logits(splat: Splat, spread: float) -> Float32:
    """(N,) logits that the geometry suggests, relative to each other: mean 0 and standard deviation `spread`."""
    return _pattern(_features_of(splat), spread)


# ------------------------------------------------------------------------------- geometric features


@dataclass(frozen=True, eq=False)
class _Grid:
    """The Gaussians binned into cubic cells.

    cell: (N,) flat index. coords: (N, 3) positions in units of a cell. side: length of a cell's side, world units.
    """

    cell: NDArray[np.intp]
    coords: Float32
    shape: tuple[int, ...]
    side: float

    @classmethod
    def from_means(cls, means: NDArray[np.floating]) -> _Grid:
        """62 cells along the longest side, as in the generators' own grids; fewer for small splats."""
        means = means.astype(np.float64)
        some = means[:: max(1, len(means) // 50_000)]
        low, high = np.quantile(some, [0.001, 0.999], axis=0)  # a stray Gaussian must not set the size of the cells
        longest = float((high - low).max()) or 1.0
        side = longest / float(np.clip(np.sqrt(len(means) / 13), 8, 62))
        shape = ((high - low) / side).astype(int) + 5
        coords = ((means - low) / side + 2).astype(np.float32).clip(1, (shape - 1.01).astype(np.float32))
        return cls._of(coords, shape, side)

    @classmethod
    def _of(cls, coords: Float32, shape: NDArray[np.int_], side: float) -> _Grid:
        x, y, z = coords.astype(np.int32).T
        return cls((x * shape[1] + y) * shape[2] + z, coords, tuple(shape.tolist()), side)

    def halved(self) -> _Grid:
        """The same grid with cells half as wide."""
        return self._of(2 * self.coords, 2 * np.array(self.shape), self.side / 2)

    def sums(self, weights: Float32 | Mask | None = None) -> NDArray[np.float64]:
        """The sum of the weights in each cell, or the count without weights; in the grid's shape."""
        sums = np.bincount(self.cell, weights, int(np.prod(self.shape)))
        return sums.reshape(self.shape).astype(np.float64)

    def at(self, field: NDArray[np.float64]) -> Float32:
        """(N,) the field's value in each Gaussian's cell."""
        return field.reshape(-1)[self.cell].astype(np.float32)

    def around(self, field: NDArray[np.float64]) -> Float32:
        """(N,) the field's sum over the 27 cells around each Gaussian."""
        return self.at(27 * ndimage.uniform_filter(field, 3, mode="constant"))


@dataclass(frozen=True, eq=False)
class _Features:
    """Geometric features of each Gaussian: (N,) each unless noted, lengths in units of a cell.

    sizes: (N, 3) logarithms, ascending. area: projected area, averaged over directions. offset: (N, 3) from the mean
    position of its neighbourhood. radius: of that neighbourhood. protrusion: length of the offset / radius.
    difference: of its colour from its cell's.
    """

    splat: Splat
    grid: _Grid
    in_cell: NDArray[np.float64]
    sizes: Float32
    area: Float32
    offset: Float32
    radius: Float32
    protrusion: Float32
    difference: Float32

    def regressors(self) -> Float32:
        """(17, N) regressors, centred on the median, scaled by the standard deviation and clipped to three of them."""
        grid, count = self.grid, self.grid.around(self.in_cell)
        exterior = grid.around(_exterior_cells(self.in_cell > 0).astype(np.float64))
        size_around = [grid.around(grid.sums(size)) / count for size in self.sizes.T]
        lightness = self.splat.sh[:, 0].mean(axis=1)
        crowd = np.log(grid.at(self.in_cell)), np.log(count)
        shape = self.radius, self.protrusion, self.difference
        regressors = np.stack(
            [*self.sizes.T, *size_around, *crowd, *shape, exterior, lightness, *self._across_surface()]
        )
        some = regressors[:, :: max(1, regressors.shape[1] // 50_000)]
        regressors -= np.median(some, axis=1, keepdims=True)
        regressors /= some.std(axis=1, keepdims=True) + np.float32(1e-6)
        return regressors.clip(-3, 3, out=regressors)

    def _across_surface(self) -> tuple[Float32, ...]:
        """Occupancy smoothed, its gradient's length, and the offset and log size of each Gaussian along the normal."""
        solid = ndimage.gaussian_filter((self.in_cell > 0).astype(np.float64), 1.5)
        slope = np.column_stack([self.grid.at(part) for part in np.gradient(solid)])
        steepness = np.linalg.norm(slope, axis=1)
        normal = -slope / (steepness[:, None] + 1e-6)
        axes = rotation_matrices(self.splat.quats)
        widths = np.exp((self.splat.log_scales - np.log(self.grid.side)).clip(-20, 5))
        reach = np.linalg.norm((normal[:, None] @ axes)[:, 0] * widths, axis=1)
        return self.grid.at(solid), steepness, (normal * self.offset).sum(axis=1), np.log(reach + 1e-6)


def _features_of(splat: Splat) -> _Features:
    grid = _Grid.from_means(splat.means)
    sizes = (np.sort(splat.log_scales, axis=1) - np.log(grid.side)).astype(np.float32)
    in_cell = grid.sums()
    count = grid.around(in_cell)
    middle = np.column_stack([grid.around(grid.sums(part)) / count for part in grid.coords.T])
    square = grid.around(grid.sums((grid.coords**2).sum(axis=1))) / count
    radius = np.sqrt(np.maximum(square - (middle**2).sum(axis=1), 1e-2))
    offset = grid.coords - middle
    a, b, c = np.exp(sizes.clip(-20, 5)).T
    return _Features(
        splat=splat,
        grid=grid,
        in_cell=in_cell,
        sizes=sizes,
        area=2 * np.pi / 3 * (a * b + b * c + a * c),
        offset=offset,
        radius=radius,
        protrusion=np.linalg.norm(offset, axis=1) / radius,
        difference=_colour_difference(splat.sh[:, 0], grid, in_cell),
    )


def _exterior_cells(occupied: Mask) -> Mask:
    """The empty cells connected to the border of the grid; enclosed cavities do not count."""
    label, _ = ndimage.label(~occupied)
    return np.asarray(label == label[0, 0, 0])


def _colour_difference(colour: Float32, grid: _Grid, in_cell: NDArray[np.float64]) -> Float32:
    """(N,) distance of a Gaussian's colour from the mean of the others in its cell, summed over channels."""
    own = grid.at(in_cell)
    others = np.maximum(own - 1, 1)
    apart = np.zeros(len(colour), np.float32)
    for channel in colour.T:
        apart += np.abs(channel - (grid.at(grid.sums(channel)) - channel) / others)
    return np.where(own > 1, apart, 0).astype(np.float32)


# ------------------------------------------------------------------------------- three layers


def _pattern(features: _Features, spread: float) -> Float32:
    """Large, protruding and oddly coloured Gaussians are taken to be the more transparent ones; mean 0."""
    traits = features.sizes[:, 2], features.protrusion, features.difference
    ranks = [centred_rank(trait) for trait in traits]
    pattern = -np.sum(ranks, axis=0)
    if pattern.std() < 1e-3:  # the ranks of a handful of Gaussians can cancel out
        pattern = -ranks[0]
    return pattern * np.float32(spread / max(float(pattern.std()), 1e-6))


def _level(pattern: Float32, features: _Features) -> float:
    """The offset of the pattern that gives TARGET_OPTICAL_DEPTH, by bisection."""
    step = max(1, len(pattern) // 50_000)
    some, area = pattern[::step], features.area[::step] * (step / float((features.in_cell > 0).sum()))
    low, high = -1.5, 3.0  # keeps the splat visible, and short of fully opaque
    for _ in range(16):
        level = (low + high) / 2
        too_opaque = float((sigmoid(some + np.float32(level)) * area).sum()) > TARGET_OPTICAL_DEPTH
        low, high = (low, level) if too_opaque else (level, high)
    return low


def _regression(regressors: Float32, target: Float32, known: Mask, ridge: float = 30.0) -> Float32:
    """(N,) the target fitted by the regressors (D, N) and their products; the ridge dominates where little is known."""
    regressors = np.concatenate([np.ones((1, regressors.shape[1]), np.float32), regressors])
    column = np.flatnonzero(known)
    column = column[:: max(1, len(column) // 6_000)]
    first, second = np.triu_indices(len(regressors))
    some = regressors[:, column]
    terms = some[first] * some[second]
    # einsum, because on a busy machine the threads of a BLAS product wait for each other ten times as long
    gram = np.einsum("ik,jk->ij", terms, terms).astype(np.float64) + ridge * np.eye(len(first))
    form = np.zeros((len(regressors),) * 2, np.float32)
    form[second, first] = cho_solve(cho_factor(gram), terms @ target[column])
    return np.einsum("dn,dn->n", form @ regressors, regressors)


def _deviation_nearby(grid: _Grid, deviation: Float32, known: Mask, shrink: float = 2.0) -> Float32:
    """(N,) mean deviation of the known Gaussians nearby, from wide neighbourhoods down to half a cell.

    The mean of each width enters the next as `shrink` observations, so that distant values fill in for missing ones.
    """
    mean = np.zeros(grid.shape)
    total, count = grid.sums(np.where(known, deviation, 0)), grid.sums(known)
    for cells in (9, 5, 3, 1):
        volume = cells**3
        wide = [volume * ndimage.uniform_filter(field, cells, mode="constant") for field in (total, count)]
        mean = (wide[0] + shrink * mean) / (wide[1] + shrink)
    half = grid.halved()
    close, number = half.at(half.sums(np.where(known, deviation, 0))), half.at(half.sums(known))
    return (close + np.float32(shrink) * grid.at(mean)) / (number + np.float32(shrink))

"""Opacities, estimated from the geometry and from those that are known.

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

VISIBLE_DEPTH = 1.5
"""Opacity times area, summed over the Gaussians of an occupied cell, in cell faces: the level where all are lost.

It is 1.69 and 1.67 on the real assets, whose mean opacities are 0.88 and 0.55. A little less gives the best pictures of
both: a Gaussian that is wrongly opaque hides more than one that is wrongly transparent lets through."""

LOGIT_LIMIT = 6.0
"""Guesses stay within this: an opacity of 0.0025 or 0.9975 is 0 or 1 to any picture."""


def guess_logits(splat: Splat, known: Mask, spread: float = 1.1) -> Float32:
    """(N,) an estimate of every opacity as a logit; the caller keeps the known ones.

    Three layers, each correcting the one before: a rule for every file; a regression of the known logits on geometric
    features of their Gaussians; the deviation of the known ones nearby.
    spread: standard deviation of the first layer, in logits. Positions, sizes, rotations, colours: finite.
    """
    standing = _stand(splat)
    pattern = _pattern(standing, spread)
    guess = pattern + np.float32(_level(pattern, standing))
    if known.any():
        truth = splat.opacity_logits.clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        guess = guess + _regression(standing.table(), truth - guess, known)
        guess = guess + _deviation_nearby(standing.grid, truth - guess, known)
    return guess.clip(-LOGIT_LIMIT, LOGIT_LIMIT)


def vary(splat: Splat, spread: float) -> Float32:
    """(N,) what geometry says of the opacities relative to each other: logits of mean 0 and that standard deviation."""
    return _pattern(_stand(splat), spread)


# ------------------------------------------------------------------------------- how a Gaussian stands


@dataclass(frozen=True, eq=False)
class _Grid:
    """The Gaussians in cubic cells.

    cell: (N,) flat index. units: (N, 3) position in cells. side: of a cell, world units.
    """

    cell: NDArray[np.intp]
    units: Float32
    shape: tuple[int, ...]
    side: float

    @classmethod
    def over(cls, means: NDArray[np.floating]) -> _Grid:
        """62 cells along the longest side, as in the generators' own grids; fewer where most would stay empty."""
        means = means.astype(np.float64)
        some = means[:: max(1, len(means) // 50_000)]
        low, high = np.quantile(some, [0.001, 0.999], axis=0)  # a stray Gaussian must not set the size of the cells
        longest = float((high - low).max()) or 1.0
        side = longest / float(np.clip(np.sqrt(len(means) / 13), 8, 62))
        shape = ((high - low) / side).astype(int) + 5
        units = ((means - low) / side + 2).astype(np.float32).clip(1, (shape - 1.01).astype(np.float32))
        return cls._of(units, shape, side)

    @classmethod
    def _of(cls, units: Float32, shape: NDArray[np.int_], side: float) -> _Grid:
        x, y, z = units.astype(np.int32).T
        return cls((x * shape[1] + y) * shape[2] + z, units, tuple(shape.tolist()), side)

    def halved(self) -> _Grid:
        """The same with cells half as wide."""
        return self._of(2 * self.units, 2 * np.array(self.shape), self.side / 2)

    def sums(self, weights: Float32 | Mask | None = None) -> NDArray[np.float64]:
        """Over each cell, in the grid's shape."""
        sums = np.bincount(self.cell, weights, int(np.prod(self.shape)))
        return sums.reshape(self.shape).astype(np.float64)

    def at(self, field: NDArray[np.float64]) -> Float32:
        """(N,) the field's value in each Gaussian's cell."""
        return field.reshape(-1)[self.cell].astype(np.float32)

    def around(self, field: NDArray[np.float64]) -> Float32:
        """(N,) the field's sum over the 27 cells about each Gaussian's."""
        return self.at(27 * ndimage.uniform_filter(field, 3, mode="constant"))


@dataclass(frozen=True, eq=False)
class _Standing:
    """How each Gaussian stands: (N,) each, lengths in cells.

    sizes: (N, 3) logarithms, ascending. area: of its shadow, mean over directions. offset: (N, 3) from the mean
    position around it. radius: of that neighbourhood. sticking_out: distance over radius. difference: of its colour.
    """

    splat: Splat
    grid: _Grid
    in_cell: NDArray[np.float64]
    sizes: Float32
    area: Float32
    offset: Float32
    radius: Float32
    sticking_out: Float32
    difference: Float32

    def table(self) -> Float32:
        """(17, N) all there is to regress on, standardised by median and deviation, cut at three deviations."""
        grid, count = self.grid, self.grid.around(self.in_cell)
        air = grid.around(_air(self.in_cell > 0).astype(np.float64))
        size_around = [grid.around(grid.sums(size)) / count for size in self.sizes.T]
        lightness = self.splat.sh[:, 0].mean(axis=1)
        crowd = np.log(grid.at(self.in_cell)), np.log(count)
        shape = self.radius, self.sticking_out, self.difference
        table = np.stack([*self.sizes.T, *size_around, *crowd, *shape, air, lightness, *self._across()])
        some = table[:, :: max(1, table.shape[1] // 50_000)]
        table -= np.median(some, axis=1, keepdims=True)
        table /= some.std(axis=1, keepdims=True) + np.float32(1e-6)
        return table.clip(-3, 3, out=table)

    def _across(self) -> tuple[Float32, ...]:
        """Along the surface's normal, the slope of the occupied cells: steepness, offset and reach outwards."""
        solid = ndimage.gaussian_filter((self.in_cell > 0).astype(np.float64), 1.5)
        slope = np.column_stack([self.grid.at(part) for part in np.gradient(solid)])
        steepness = np.linalg.norm(slope, axis=1)
        normal = -slope / (steepness[:, None] + 1e-6)
        axes = rotation_matrices(self.splat.quats)
        widths = np.exp((self.splat.log_scales - np.log(self.grid.side)).clip(-20, 5))
        reach = np.linalg.norm((normal[:, None] @ axes)[:, 0] * widths, axis=1)
        return self.grid.at(solid), steepness, (normal * self.offset).sum(axis=1), np.log(reach + 1e-6)


def _stand(splat: Splat) -> _Standing:
    grid = _Grid.over(splat.means)
    sizes = (np.sort(splat.log_scales, axis=1) - np.log(grid.side)).astype(np.float32)
    in_cell = grid.sums()
    count = grid.around(in_cell)
    middle = np.column_stack([grid.around(grid.sums(part)) / count for part in grid.units.T])
    square = grid.around(grid.sums((grid.units**2).sum(axis=1))) / count
    radius = np.sqrt(np.maximum(square - (middle**2).sum(axis=1), 1e-2))
    offset = grid.units - middle
    a, b, c = np.exp(sizes.clip(-20, 5)).T
    return _Standing(
        splat=splat,
        grid=grid,
        in_cell=in_cell,
        sizes=sizes,
        area=2 * np.pi / 3 * (a * b + b * c + a * c),
        offset=offset,
        radius=radius,
        sticking_out=np.linalg.norm(offset, axis=1) / radius,
        difference=_colour_difference(splat.sh[:, 0], grid, in_cell),
    )


def _air(occupied: Mask) -> Mask:
    """The empty cells that are reached from the border: air, and not hollows."""
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


def _pattern(standing: _Standing, spread: float) -> Float32:
    """Large Gaussians, those that stick out, and those unlike their surroundings are the transparent ones; mean 0."""
    traits = standing.sizes[:, 2], standing.sticking_out, standing.difference
    ranks = [centred_rank(trait) for trait in traits]
    pattern = -np.sum(ranks, axis=0)
    if pattern.std() < 1e-3:  # of a handful of Gaussians the ranks can cancel out
        pattern = -ranks[0]
    return pattern * np.float32(spread / max(float(pattern.std()), 1e-6))


def _level(pattern: Float32, standing: _Standing) -> float:
    """The offset of the pattern, by bisection, at which an occupied cell is as deep as on the real assets."""
    step = max(1, len(pattern) // 50_000)
    some, area = pattern[::step], standing.area[::step] * (step / float((standing.in_cell > 0).sum()))
    low, high = -1.5, 3.0  # whatever the areas say, the file is to be seen, and not to be a wall
    for _ in range(16):
        level = (low + high) / 2
        deep = float((sigmoid(some + np.float32(level)) * area).sum()) > VISIBLE_DEPTH
        low, high = (low, level) if deep else (level, high)
    return low


def _regression(table: Float32, target: Float32, known: Mask, ridge: float = 30.0) -> Float32:
    """(N,) the target from the rows of a table (D, N) and their products; the ridge wins where little is known."""
    table = np.concatenate([np.ones((1, table.shape[1]), np.float32), table])
    column = np.flatnonzero(known)
    column = column[:: max(1, len(column) // 6_000)]
    first, second = np.triu_indices(len(table))
    some = table[:, column]
    terms = some[first] * some[second]
    # not a matrix product: on a busy machine its threads wait for each other ten times as long as this takes
    gram = np.einsum("ik,jk->ij", terms, terms).astype(np.float64) + ridge * np.eye(len(first))
    form = np.zeros((len(table),) * 2, np.float32)
    form[second, first] = cho_solve(cho_factor(gram), terms @ target[column])
    return np.einsum("dn,dn->n", form @ table, table)


def _deviation_nearby(grid: _Grid, deviation: Float32, known: Mask, shrink: float = 2.0) -> Float32:
    """(N,) mean deviation of the known ones nearby, from wide surroundings down to half a cell.

    Each width counts as `shrink` observations more for the next: what is not known close by is taken from farther away.
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

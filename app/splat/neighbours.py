"""Estimates lost colours, sizes and orientations from the Gaussians nearby.

Every rule here was chosen by measurement on real assets: docs/repair.md has the experiments. This file does not know
what a finding is: callers pass which Gaussians are known and which are wanted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from app.splat.model import Float32, Splat
from app.splat.statistics import Mask

NEIGHBOURS = 8


def nearest(
    means: Float32, known: Mask, wanted: Mask, k: int = NEIGHBOURS
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices (M, k) of the known Gaussians nearest to each wanted one, and distances (M, k) in world units.

    A Gaussian is no neighbour of itself, unless it is the only one. k shrinks to the number of candidates.
    means: finite. Raises ValueError if no Gaussian is known.
    """
    if not known.any():
        raise ValueError("no known Gaussian to take a neighbour from")
    order = _cell_order(means)  # spatial order makes the query three times as fast
    points = _jittered(means)[order]
    index, asking = order[known[order]], order[wanted[order]]
    itself = known[asking]
    count = min(k + bool(itself.any()), len(index))
    # balancing costs more than it saves for points on a surface
    tree = cKDTree(points[known[order]], balanced_tree=False)
    distance, found = tree.query(points[wanted[order]], k=range(1, count + 1), workers=-1)
    if count > 1 and itself.any():
        others = np.arange(count - 1) + itself[:, None]
        distance, found = np.take_along_axis(distance, others, 1), np.take_along_axis(found, others, 1)
    back = np.argsort(asking)
    return index[found[back]], distance[back]


def _cell_order(means: Float32) -> NDArray[np.intp]:
    """Indices of the Gaussians, sorted by cell of a 64 x 64 x 64 grid."""
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0).astype(np.float64)
    cells = ((means - low) * (63 / np.maximum(high - low, 1e-30))).astype(np.int32)
    return np.argsort((cells[:, 0] * 64 + cells[:, 1]) * 64 + cells[:, 2], kind="stable")


def _jittered(means: Float32) -> NDArray[np.float64]:
    """The positions with a tiny jitter: a k-d tree takes quadratic time over coincident points."""
    jitter = 1e-6 * (float(np.ptp(means.astype(np.float64), axis=0).max()) or 1.0)
    return means + jitter * np.random.default_rng(0).random(means.shape)


def rotation_matrices(quats: Float32) -> Float32:
    """(N, 3, 3) rotations of (N, 4) wxyz quaternions of any positive norm; columns are the Gaussian's axes."""
    wide = quats.astype(np.float64)
    w, x, y, z = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def colours(splat: Splat, known: Mask, wanted: Mask) -> Float32:
    """(M, K, 3) mean coefficients of the known neighbours."""
    index, _ = nearest(splat.means, known, wanted, NEIGHBOURS // 2)
    return splat.sh[index].mean(axis=1, dtype=np.float32)


def log_scales(splat: Splat, known: Mask, wanted: Mask) -> Float32:
    """(M, 3) logarithms of the sizes along each wanted Gaussian's own axes, from the known neighbours.

    The mean of their log-covariances (log-Euclidean, Arsigny et al. 2006), read along those axes.
    """
    index, _ = nearest(splat.means, known, wanted)
    return _along_axes(splat.quats[wanted], _mean_log_ellipsoid(splat, index))


def log_scales_by_spacing(splat: Splat, opacity_known: bool) -> Float32:
    """(N, 3) logarithms of sizes along each Gaussian's own axes, from positions alone; a lone Gaussian gets 0.01.

    The rms distance to the neighbours along each axis, times 0.69 (in the two real assets the true sizes are exp(-0.36)
    and exp(-0.38) of it), pulled slightly towards the median and made flatter than the spread of the positions. With
    opacity_known, more transparent Gaussians get larger sizes.
    """
    if len(splat) < 2:
        return np.full((len(splat), 3), np.log(0.01), np.float32)
    picked, of = _sample(splat.means, 120_000)
    squares = _along_axes(splat.quats, _spread(splat.means, picked, NEIGHBOURS)[of])
    median = float(np.median(squares))  # zero for points on a line, or even less by rounding
    logs = 0.5 * np.log(np.maximum(squares, 1e-4 * median if median > 0 else 1e-12))
    size = logs.mean(axis=1, keepdims=True)
    estimate = size + 0.1 * (np.median(size) - size) - 0.37
    if opacity_known:
        estimate -= 0.3 * centred_rank(splat.opacity_logits)[:, None]
    return (estimate + 1.5 * (logs - size)).astype(np.float32)


def centred_rank(values: Float32) -> Float32:
    """(N,) ranks, evenly spaced from -1/2 to 1/2; ties are ranked in index order, so that there is always a spread."""
    low, high = np.quantile(values[:: max(1, len(values) // 50_000)], [0.001, 0.999])
    steps = ((values - low) * (65_535 / max(high - low, 1e-12))).clip(0, 65_535).astype(np.uint16)
    rank = np.empty(len(values), np.float32)
    rank[np.argsort(steps, kind="stable")] = np.linspace(-0.5, 0.5, len(values), dtype=np.float32)  # a radix sort
    return rank


def quats(splat: Splat, known: Mask, wanted: Mask) -> Float32:
    """(M, 4) wxyz rotations that align each wanted Gaussian's sizes with the known neighbours' mean ellipsoid."""
    index, _ = nearest(splat.means, known, wanted)
    return _aligned(_axes(_mean_log_ellipsoid(splat, index)), splat.log_scales[wanted])


def quats_by_spacing(splat: Splat) -> Float32:
    """(N, 4) wxyz rotations that align each Gaussian's sizes with the spread of the nearest positions."""
    picked, of = _sample(splat.means, 40_000)
    return _aligned(_axes(_spread(splat.means, picked, 2 * NEIGHBOURS))[of], splat.log_scales)


def _sample(means: Float32, most: int) -> tuple[Mask, NDArray[np.intp]]:
    """A sample of at most `most` Gaussians as a mask (N,), and for every Gaussian (N,) the nearby one in the sample."""
    order = _cell_order(means)
    step = -(-len(order) // most)
    picked = np.zeros(len(order), bool)
    picked[order[::step]] = True
    rank = np.cumsum(picked) - 1
    of = np.empty(len(order), np.intp)
    of[order] = rank[np.repeat(order[::step], step)[: len(order)]]
    return picked, of


def _mean_log_ellipsoid(splat: Splat, index: NDArray[np.intp]) -> Float32:
    """(M, 3, 3) mean over the neighbours (M, k) of R diag(log sizes) R^T."""
    used, place = np.unique(index, return_inverse=True)
    axes = rotation_matrices(splat.quats[used])
    logs = np.einsum("nij,nj,nkj->nik", axes, splat.log_scales[used], axes, optimize=True)
    return logs[place.reshape(index.shape)].mean(axis=1)


def _spread(means: Float32, wanted: Mask, k: int) -> Float32:
    """(M, 3, 3) second moments of the k nearest positions about each wanted Gaussian, squared world units."""
    index, _ = nearest(means, np.ones(len(means), bool), wanted, k)
    away = [
        axis[index] - axis[wanted][:, None] for axis in means.T
    ]  # by component, because stacks of small matrices are slow
    moments = [[np.einsum("nk,nk->n", a, b) for b in away] for a in away]
    return np.asarray(np.array(moments).transpose(2, 0, 1) / index.shape[1], np.float32)


def _along_axes(orientations: Float32, shapes: Float32) -> Float32:
    """(M, 3) diagonal of R^T S R."""
    axes = rotation_matrices(orientations)
    return np.asarray(np.einsum("nij,nik,nkj->nj", axes, shapes, axes, optimize=True))


def _axes(shapes: Float32) -> Float32:
    """(M, 3, 3) eigenvectors of the shapes as columns, shortest axis first."""
    return np.asarray(np.linalg.eigh(shapes)[1])


def _aligned(axes: Float32, sizes: Float32) -> Float32:
    """(M, 4) wxyz rotations that put the sizes (M, 3) along the axes (M, 3, 3), the longest along the last."""
    rank = np.argsort(np.argsort(sizes, axis=1), axis=1)
    own = np.take_along_axis(axes, rank[:, None, :].repeat(3, axis=1), axis=2)
    left_handed = (np.cross(own[:, :, 0], own[:, :, 1]) * own[:, :, 2]).sum(axis=1) < 0
    own[left_handed, :, 0] *= -1
    return _quaternions(own)


def _quaternions(axes: Float32) -> Float32:
    """(M, 4) wxyz of rotation matrices (M, 3, 3): the longest row of 4 q q^T, which is linear in the matrix."""
    ((xx, xy, xz), (yx, yy, yz), (zx, zy, zz)) = axes.transpose(1, 2, 0)
    one = np.float32(1)
    outer = (
        (one + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, one + xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, one - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, one - xx - yy + zz),
    )
    rows = np.array(outer).transpose(2, 0, 1)
    longest = np.argmax(np.diagonal(rows, axis1=1, axis2=2), axis=1)
    quats = rows[np.arange(len(rows)), longest]
    return np.asarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), np.float32)

"""Rotating a splat to other axes, and resizing it. Rotations permute and negate axes, so positions stay exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.splat.harmonics import basis_functions
from app.splat.model import Float32, Splat

Matrix = NDArray[np.float64]

UP: dict[str, Matrix] = {
    "y": np.eye(3),
    "-y": np.diag([1.0, -1.0, -1.0]),
    "z": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "-z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "x": np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    "-x": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
}
"""(3, 3) rotations that take the named axis of a file to +Y."""

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "U": (1, 1), "D": (1, -1), "B": (2, 1), "F": (2, -1)}
"""Letter -> our axis (x right, y up, z back) and sign."""

OFF_CENTRE = 0.5
"""Fraction of its longest side by which the middle of an object may lie off the origin."""


def from_letters(letters: str) -> Matrix:
    """(3, 3) to our frame, RUB, from the frame whose x, y and z point to these letters: RDF is right, down, forward."""
    matrix = np.zeros((3, 3))
    for column, letter in enumerate(letters):
        row, sign = _DIRECTIONS[letter]
        matrix[row, column] = sign
    return matrix


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def turned(splat: Splat, matrix: Matrix) -> Splat:
    """The splat in new axes: position' = matrix @ position. matrix: (3, 3) orthogonal; mirrors are allowed."""
    if np.array_equal(matrix, np.eye(3)):
        return splat
    rotation = matrix * np.sign(np.linalg.det(matrix))  # a Gaussian is symmetric under point reflection
    return replace(
        splat,
        means=(splat.means.astype(np.float64) @ matrix.T).astype(np.float32),
        quats=_product(_quaternion(rotation), splat.quats),
        sh=_turned_harmonics(splat.sh, matrix),
    )


def _quaternion(rotation: Matrix) -> NDArray[np.float64]:
    """(4,) wxyz of a rotation: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix (2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    return np.asarray(np.linalg.eigh(symmetric)[1][:, -1])


def _product(left: NDArray[np.float64], quats: Float32) -> Float32:
    """(N, 4) Hamilton product of one quaternion with each of many, wxyz."""
    a, b, c, d = left
    matrix = np.array([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]])
    product: Float32 = (quats.astype(np.float64) @ matrix.T).astype(np.float32)
    return product


def _turned_harmonics(sh: Float32, matrix: Matrix) -> Float32:
    """Coefficients of the same colours in new axes: the old basis of each degree is fitted by the new one."""
    if sh.shape[1] == 1:
        return sh
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    new = np.stack(list(basis_functions(*directions.T)))
    old = np.stack(list(basis_functions(*(directions @ matrix).T)))  # the transpose of the matrix is its inverse
    result = sh.copy()
    for first, end in ((1, 4), (4, 9), (9, 16)):
        if end <= sh.shape[1]:
            change = np.linalg.lstsq(new[first - 1 : end - 1].T, old[first - 1 : end - 1].T, rcond=None)[0]
            result[:, first:end] = np.einsum("ij,njc->nic", change, sh[:, first:end])
    return result


def resized(splat: Splat, longest: float, extent: float, middle: NDArray[np.float64]) -> Splat:
    """The splat scaled about the origin so that its longest side of `longest` units measures `extent`.

    middle: (3,) centre of its bounding box. It is moved to the origin if it is OFF_CENTRE; any other shift would change
    what the judge sees, whose placement centres by one scalar. Returns the same object if nothing changes.
    """
    factor, off = extent / longest, float(np.abs(middle).max()) > OFF_CENTRE * longest
    if abs(factor - 1) < 1e-5 and not off:
        return splat
    means = ((splat.means.astype(np.float64) - middle * off) * factor).astype(np.float32)
    return replace(splat, means=means, log_scales=splat.log_scales + np.float32(np.log(factor)))

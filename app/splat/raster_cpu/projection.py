"""Projects 3D Gaussians to the screen of a camera.

EWA projection (Zwicker et al. 2001) as in 3D Gaussian Splatting and in the classic mode of gsplat 1.5: 0.3 px^2 are
added to the 2D covariance, and the centre at which the Jacobian is taken is clamped to the view plus a margin of 0.3 of
its half-width. This file does not know how pixels are filled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from app.splat.model import Float32

Integers = NDArray[Any]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# numba caches kernels by their own file: after a change here, touch tiles.py too, or its kernels stay as they were
TILE = 16  # pixels
# float32, because in numba a plain 1 or 0.5 would promote float32 to float64
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
MARGIN = np.float32(0.15)  # 0.3 of half the view
DILATION = np.float32(0.3)
ALPHA_CUT = np.float32(1 / 255)

# Columns of a projected Gaussian: centre (px), conic, opacity, colour, sigma and half-sizes (px) at the alpha cut
X, Y, A, B, C, OPACITY, RED, GREEN, BLUE, SIGMA_CUT, HALF_WIDTH, HALF_HEIGHT, COLUMNS = range(13)


def kernel(parallel: bool = False) -> Callable[[Kernel], Kernel]:
    """numba.njit, cached on disk: beside this file, else in NUMBA_CACHE_DIR or the user's cache, else in memory."""

    def compiled(function: Kernel) -> Kernel:
        # "contract" allows fused multiply-add and nothing else, as in gsplat's kernels
        jit = partial(njit, parallel=parallel, forceinline=not parallel, error_model="numpy", fastmath={"contract"})
        try:
            return cast(Kernel, jit(cache=True)(function))
        except RuntimeError:  # no folder to cache it in
            return cast(Kernel, jit()(function))

    return compiled


def camera_parameters(K: Float32, size: tuple[int, int], clip: tuple[float, float]) -> Float32:
    """(12,): fx, fy, cx, cy, width, height, near, far, then the limits of x / z and of y / z for the Jacobian."""
    focal, centre, end = K[[0, 1], [0, 1]], K[:2, 2], np.array(size, np.float32)
    low, high = -(centre + MARGIN * end) / focal, (end - centre + MARGIN * end) / focal
    return np.array([*focal, *centre, *end, *clip, low[0], high[0], low[1], high[1]], np.float32)


@kernel()
def _screen_covariance(
    i: int, quats: Float32, s: Float32, R: Float32, fx: np.float32, fy: np.float32, u: np.float32, v: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """(xx, xy, yy) in px^2: the Jacobian projects the Gaussian's three axes; their outer products are summed."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    norm = ONE / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * norm, x * norm, y * norm, z * norm
    axes = (
        (ONE - TWO * (y * y + z * z), TWO * (x * y + w * z), TWO * (x * z - w * y)),
        (TWO * (x * y - w * z), ONE - TWO * (x * x + z * z), TWO * (y * z + w * x)),
        (TWO * (x * z + w * y), TWO * (y * z - w * x), ONE - TWO * (x * x + y * y)),
    )
    xx = xy = yy = ZERO
    for k in range(3):
        a = axes[k]
        depth = R[2, 0] * a[0] + R[2, 1] * a[1] + R[2, 2] * a[2]
        along_x = fx * s[i, k] * (R[0, 0] * a[0] + R[0, 1] * a[1] + R[0, 2] * a[2] - u * depth)
        along_y = fy * s[i, k] * (R[1, 0] * a[0] + R[1, 1] * a[1] + R[1, 2] * a[2] - v * depth)
        xx += along_x * along_x
        xy += along_x * along_y
        yy += along_y * along_y
    return xx, xy, yy


@kernel()
def _project_one(
    i: int,
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacity: np.float32,
    view: Float32,
    R: Float32,
    projected: Float32,
    depths: Float32,
    boxes: Integers,
) -> None:
    """Writes row i of the three outputs, except for the colour; leaves it unchanged if nothing can be seen."""
    x, y, z = means[i, 0], means[i, 1], means[i, 2]
    fx, fy, cx, cy, wide, high = view[0], view[1], view[2], view[3], view[4], view[5]
    depth = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + R[2, 3]
    if not (view[6] <= depth <= view[7]) or opacity < ALPHA_CUT:
        return
    u = (R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + R[0, 3]) / depth
    v = (R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + R[1, 3]) / depth
    u_clamped, v_clamped = min(view[9], max(view[8], u)), min(view[11], max(view[10], v))
    xx, xy, yy = _screen_covariance(i, quats, scales, R, fx / depth, fy / depth, u_clamped, v_clamped)
    xx += DILATION
    yy += DILATION
    det = np.float64(xx) * yy - np.float64(xy) * xy  # float64: for a thin ellipse the two terms cancel
    if not (0 < det < np.inf):
        return
    sigma_cut = math.log(opacity / ALPHA_CUT)
    x, half_width = fx * u + cx, math.sqrt(TWO * sigma_cut * xx) + HALF
    y, half_height = fy * v + cy, math.sqrt(TWO * sigma_cut * yy) + HALF
    if not (x + half_width > 0 and x - half_width < wide and y + half_height > 0 and y - half_height < high):
        return
    projected[i, X], projected[i, Y], projected[i, A], projected[i, B], projected[i, C] = (
        x,
        y,
        yy / det,
        -xy / det,
        xx / det,
    )
    projected[i, OPACITY], projected[i, SIGMA_CUT], projected[i, HALF_WIDTH], projected[i, HALF_HEIGHT] = (
        opacity,
        sigma_cut,
        half_width,
        half_height,
    )
    depths[i] = depth
    boxes[i, 0], boxes[i, 1] = int(max(x - half_width, ZERO)) // TILE, int(max(y - half_height, ZERO)) // TILE
    boxes[i, 2] = int(min(x + half_width, wide - ONE)) // TILE + 1
    boxes[i, 3] = int(min(y + half_height, high - ONE)) // TILE + 1


@kernel(parallel=True)
def project(
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacities: Float32,
    colors: Float32,
    view: Float32,
    world_to_camera: Float32,
) -> tuple[Float32, Float32, Integers]:
    """(N, COLUMNS) projected Gaussians, (N,) depths, (N, 4) boxes x0, y0, x1, y1 in tiles; boxes are 0 if unseen."""
    projected = np.empty((len(means), COLUMNS), np.float32)
    depths = np.empty(len(means), np.float32)
    boxes = np.zeros((len(means), 4), np.int32)
    for i in prange(len(means)):
        _project_one(i, means, quats, scales, opacities[i], view, world_to_camera, projected, depths, boxes)
        projected[i, RED], projected[i, GREEN], projected[i, BLUE] = colors[i, 0], colors[i, 1], colors[i, 2]
    return projected, depths, boxes

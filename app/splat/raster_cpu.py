"""The CPU rasteriser: numba kernels that draw what gsplat 1.5 draws in its classic mode.

EWA projection of 3D Gaussians (Zwicker et al. 2001, as 3DGS uses it), 16 x 16 pixel tiles, depth-sorted lists, and
front-to-back compositing. Facts shared with gsplat: 0.3 px^2 dilation of the 2D covariance, Jacobian taken at the
centre clamped to the view plus 0.3 of its half-width, alpha = min(0.999, opacity exp(-sigma)), cut under 1/255,
a pixel closed before the Gaussian that would bring its transmittance to 1e-4 or less, pixel centres at + 0.5.

This file knows arrays only: no Splat, no placement, no files. Parallel over Gaussians and over tiles; no two threads
write the same place, so a picture is the same bit for bit whatever the number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from app.splat.model import Float32

TILE = 16
DILATION = np.float32(0.3)
ALPHA_CUT = np.float32(1 / 255)
ALPHA_MAX = np.float32(0.999)
CLOSED = np.float32(1e-4)
RADIX_BITS = 11
MARGIN = np.float32(0.15)  # 0.3 of half the field of view
HALF, ONE, TWO = np.float32(0.5), np.float32(1), np.float32(2)  # a plain 1 would lift numba's float32 to float64

# Columns of a projected Gaussian: centre, conic (a, b, c), opacity, colour, and what bounds it on the screen.
X, Y, A, B, C, OPACITY, RED, GREEN, BLUE, REACH, DET, HEIGHT = range(12)

Int32 = NDArray[np.int32]


def rasterize(
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacities: Float32,
    colors: Float32,
    world_to_camera: Float32,
    K: Float32,
    size: tuple[int, int],
    clip: tuple[float, float],
) -> tuple[Float32, Float32]:
    """Draws N Gaussians; all values finite, all arrays float32 and C-contiguous.

    means (N, 3) world; quats (N, 4) wxyz, any length but zero; scales (N, 3) standard deviations, world units;
    opacities (N,) in [0, 1]; colors (N, 3); world_to_camera (4, 4); K (3, 3); size (width, height) pixels;
    clip (near, far) depths. Returns premultiplied colour (H, W, 3) and alpha (H, W), float32.
    """
    width, height = size
    columns, rows = -(-width // TILE), -(-height // TILE)
    drawn, depths, boxes = _project(
        means, quats, scales, opacities, colors, world_to_camera, K, width, height, np.float32(clip[0]), np.float32(clip[1])
    )
    order = _front_to_back(depths, boxes)
    offsets, lists = _bin(order, boxes, columns, rows)
    return _composite(drawn, offsets, lists, width, height, columns)


@njit(parallel=True, cache=True, error_model="numpy")
def _project(means, quats, scales, opacities, colors, world_to_camera, K, width, height, near, far):  # type: ignore[no-untyped-def]
    n = len(means)
    drawn = np.empty((n, 12), np.float32)
    depths = np.empty(n, np.float32)
    boxes = np.zeros((n, 4), np.int32)
    R, t = world_to_camera[:3, :3], world_to_camera[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    wide, high = np.float32(width), np.float32(height)
    margin_x, margin_y = MARGIN * wide / fx, MARGIN * high / fy
    left, right = -(cx / fx + margin_x), (wide - cx) / fx + margin_x
    top, bottom = -(cy / fy + margin_y), (high - cy) / fy + margin_y
    for i in prange(n):
        p = means[i]
        z = R[2, 0] * p[0] + R[2, 1] * p[1] + R[2, 2] * p[2] + t[2]
        opacity = opacities[i]
        if not (near <= z <= far) or opacity < ALPHA_CUT:
            continue
        x = R[0, 0] * p[0] + R[0, 1] * p[1] + R[0, 2] * p[2] + t[0]
        y = R[1, 0] * p[0] + R[1, 1] * p[1] + R[1, 2] * p[2] + t[1]
        inverse_z = ONE / z
        u, v = x * inverse_z, y * inverse_z
        xx, xy, yy = _screen_covariance(
            quats[i], scales[i], R, fx * inverse_z, fy * inverse_z, min(right, max(left, u)), min(bottom, max(top, v))
        )
        xx += DILATION
        yy += DILATION
        det = xx * yy - xy * xy
        if not (det > 0):
            continue
        row = drawn[i]
        row[X], row[Y] = fx * u + cx, fy * v + cy
        row[DET] = ONE / det
        row[A], row[B], row[C] = yy * row[DET], -xy * row[DET], xx * row[DET]
        row[OPACITY] = opacity
        row[RED], row[GREEN], row[BLUE] = colors[i, 0], colors[i, 1], colors[i, 2]
        # the ellipse outside which alpha is under the cut: sigma = ln(255 opacity)
        row[REACH] = math.log(opacity / ALPHA_CUT) + np.float32(1e-4)
        reach_x = math.sqrt(TWO * row[REACH] * xx) + HALF
        row[HEIGHT] = math.sqrt(TWO * row[REACH] * yy) + HALF
        x0, x1 = row[X] - reach_x, row[X] + reach_x
        y0, y1 = row[Y] - row[HEIGHT], row[Y] + row[HEIGHT]
        if x1 <= 0 or x0 >= width or y1 <= 0 or y0 >= height:
            continue
        depths[i] = z
        boxes[i, 0], boxes[i, 1] = int(max(x0, 0)) // TILE, int(max(y0, 0)) // TILE
        boxes[i, 2], boxes[i, 3] = int(min(x1, width - 1)) // TILE + 1, int(min(y1, height - 1)) // TILE + 1
    return drawn, depths, boxes


@njit(cache=True, error_model="numpy")
def _screen_covariance(q, s, R, fx, fy, u, v):  # type: ignore[no-untyped-def]
    """Covariance J R M M^T R^T J^T in px^2, M = rotation times standard deviations, J the projection's Jacobian."""
    norm = ONE / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] * norm, q[1] * norm, q[2] * norm, q[3] * norm
    axes = (
        (ONE - TWO * (y * y + z * z), TWO * (x * y + w * z), TWO * (x * z - w * y)),
        (TWO * (x * y - w * z), ONE - TWO * (x * x + z * z), TWO * (y * z + w * x)),
        (TWO * (x * z + w * y), TWO * (y * z - w * x), ONE - TWO * (x * x + y * y)),
    )
    xx = xy = yy = np.float32(0)
    for k in range(3):
        a = axes[k]
        depth = R[2, 0] * a[0] + R[2, 1] * a[1] + R[2, 2] * a[2]
        along_x = fx * s[k] * (R[0, 0] * a[0] + R[0, 1] * a[1] + R[0, 2] * a[2] - u * depth)
        along_y = fy * s[k] * (R[1, 0] * a[0] + R[1, 1] * a[1] + R[1, 2] * a[2] - v * depth)
        xx += along_x * along_x
        xy += along_x * along_y
        yy += along_y * along_y
    return xx, xy, yy


@njit(cache=True)
def _front_to_back(depths, boxes):  # type: ignore[no-untyped-def]
    """Indices of what is on the screen, by depth: a stable radix sort (positive floats order as their bits do)."""
    visible = np.flatnonzero(boxes[:, 2] > boxes[:, 0]).astype(np.int32)
    keys = depths[visible].view(np.uint32)
    other_visible, other_keys = np.empty_like(visible), np.empty_like(keys)
    mask = np.uint32((1 << RADIX_BITS) - 1)
    for shift in range(0, 32, RADIX_BITS):
        starts = np.zeros((1 << RADIX_BITS) + 1, np.int64)
        for key in keys:
            starts[((key >> np.uint32(shift)) & mask) + 1] += 1
        starts = np.cumsum(starts)
        for i in range(len(keys)):
            digit = (keys[i] >> np.uint32(shift)) & mask
            at = starts[digit]
            starts[digit] = at + 1
            other_keys[at], other_visible[at] = keys[i], visible[i]
        keys, other_keys = other_keys, keys
        visible, other_visible = other_visible, visible
    return visible


@njit(cache=True)
def _bin(order, boxes, columns, rows):  # type: ignore[no-untyped-def]
    """Counting sort into tiles: `lists[offsets[t] : offsets[t + 1]]` are the Gaussians of tile t, front to back."""
    counts = np.zeros(columns * rows + 1, np.int64)
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        for row in range(y0, y1):
            for tile in range(row * columns + x0, row * columns + x1):
                counts[tile + 1] += 1
    offsets = np.cumsum(counts)
    lists = np.empty(offsets[-1], np.int32)
    place = offsets[:-1].copy()
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        for row in range(y0, y1):
            for tile in range(row * columns + x0, row * columns + x1):
                lists[place[tile]] = i
                place[tile] += 1
    return offsets, lists


@njit(parallel=True, cache=True, error_model="numpy")
def _composite(drawn, offsets, lists, width, height, columns):  # type: ignore[no-untyped-def]
    color = np.zeros((height, width, 3), np.float32)
    left = np.ones((height, width), np.float32)  # transmittance; negative once the pixel is closed
    for tile in prange(len(offsets) - 1):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        x1, y1 = min(x0 + TILE, width), min(y0 + TILE, height)
        open_pixels = (x1 - x0) * (y1 - y0)
        for k in range(offsets[tile], offsets[tile + 1]):
            open_pixels -= _splat(drawn[lists[k]], color, left, x0, y0, x1, y1)
            if open_pixels == 0:
                break
    return color, ONE - np.abs(left)


@njit(cache=True, error_model="numpy")
def _splat(g, color, left, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Adds one Gaussian to the pixels [x0, x1) x [y0, y1); returns how many pixels it closed."""
    closed = 0
    for row in range(max(y0, int(max(g[Y] - g[HEIGHT], 0))), min(y1, int(g[Y] + g[HEIGHT]) + 1)):
        dy = g[Y] - (np.float32(row) + HALF)
        inside = TWO * g[REACH] * g[A] - g[DET] * dy * dy
        if inside < 0:
            continue
        middle, reach = g[X] + g[B] * dy / g[A], math.sqrt(inside) / g[A] + HALF
        for column in range(max(x0, int(max(middle - reach, 0))), min(x1, int(middle + reach) + 1)):
            transmittance = left[row, column]
            if transmittance < 0:
                continue
            dx = g[X] - (np.float32(column) + HALF)
            sigma = HALF * (g[A] * dx * dx + g[C] * dy * dy) + g[B] * dx * dy
            alpha = min(ALPHA_MAX, g[OPACITY] * math.exp(-sigma))
            if sigma < 0 or alpha < ALPHA_CUT:
                continue
            after = transmittance * (ONE - alpha)
            if after <= CLOSED:
                left[row, column] = -transmittance
                closed += 1
                continue
            weight = alpha * transmittance
            color[row, column, 0] += weight * g[RED]
            color[row, column, 1] += weight * g[GREEN]
            color[row, column, 2] += weight * g[BLUE]
            left[row, column] = after
    return closed

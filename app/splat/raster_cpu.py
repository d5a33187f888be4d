"""The CPU rasteriser: numba kernels that draw what gsplat 1.5 draws in its classic mode.

EWA projection of 3D Gaussians (Zwicker et al. 2001, as 3D Gaussian Splatting uses it), tiles of 16 x 16 pixels with
depth-sorted lists, front-to-back compositing. Facts shared with gsplat: 0.3 px^2 added to the 2D covariance; the
Jacobian taken at the centre clamped to the view widened by 0.3 of its half-width; alpha = min(0.999, opacity
exp(-sigma)), nothing under 1/255; a pixel is closed by the first Gaussian that would bring its transmittance to 1e-4
or less, which is not drawn; pixel centres at + 0.5; equal depths in order of index.

This file knows arrays only: no Splat, no placement. No two threads write to one place, and nothing
depends on how many they are: the same input gives the same picture, bit for bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from app.splat.model import Float32

Integers = NDArray[Any]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])

TILE = 16
# float32 all the way: in numba a plain 1 or 0.5 would lift float32 to float64
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
WIDENING = np.float32(0.15)  # 0.3 of half the view
DILATION = np.float32(0.3)
ALPHA_CUT = np.float32(1 / 255)
ALPHA_MAX = np.float32(0.999)
CLOSED = np.float32(1e-4)
SIGMA_MAX = np.float32(6)  # above ln 255: there alpha is under the cut whatever the opacity
EIGHTH = np.float32(-1 / 8)
TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(7))

# Columns of a projected Gaussian: centre (px), conic, opacity, colour; sigma and half-sizes (px) at the alpha cut
X, Y, A, B, C, OPACITY, RED, GREEN, BLUE, REACH, WIDTH, HEIGHT, COLUMNS = range(13)
# A line of a tile: three planes of colour, transmittance of open pixels (0 once closed), transmittance reached
LIVE, LEFT = 3 * TILE, 4 * TILE

_one_at_a_time = threading.Lock()  # numba's built-in thread pool aborts the process when entered twice


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
    background: Float32,
) -> tuple[Float32, Float32]:
    """Draws N Gaussians; all values finite, all arrays float32 and C-contiguous.

    means (N, 3) world; quats (N, 4) wxyz, any length but zero; scales (N, 3) standard deviations, world units;
    opacities (N,) in [0, 1]; colors (N, 3); world_to_camera (4, 4); K (3, 3); size (width, height) pixels;
    clip (near, far) depths; background (3,). Returns colour (H, W, 3), not clamped, and alpha (H, W), float32.
    """
    width, height = size
    columns, rows = -(-width // TILE), -(-height // TILE)
    near, far = np.float32(clip[0]), np.float32(clip[1])
    with _one_at_a_time:
        drawn, depths, boxes = _project(
            means, quats, scales, opacities, colors, world_to_camera, K, width, height, near, far
        )
        offsets, entries = _bin(drawn, depths, boxes, columns, rows, get_num_threads())
        longest_first = np.argsort(offsets[:-1] - offsets[1:], kind="stable")
        return _composite(drawn, offsets, entries, longest_first, width, height, background, get_num_threads())


def kernel(parallel: bool = False) -> Callable[[Kernel], Kernel]:
    """numba.njit, kept on disk: beside this file, else in NUMBA_CACHE_DIR or the user's cache, else only in memory."""

    def compiled(function: Kernel) -> Kernel:
        # "contract" allows fused multiply-add and nothing else; gsplat's kernels have it too
        jit = partial(njit, parallel=parallel, error_model="numpy", fastmath={"contract"})
        try:
            return cast(Kernel, jit(cache=True)(function))
        except RuntimeError:  # no place to keep it
            return cast(Kernel, jit()(function))

    return compiled


@kernel()
def _screen_covariance(
    q: Float32, s: Float32, R: Float32, fx: np.float32, fy: np.float32, u: np.float32, v: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """(xx, xy, yy) in px^2: sum over the three axes of the Gaussian of what the projection's Jacobian makes of each."""
    norm = ONE / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] * norm, q[1] * norm, q[2] * norm, q[3] * norm
    axes = (
        (ONE - TWO * (y * y + z * z), TWO * (x * y + w * z), TWO * (x * z - w * y)),
        (TWO * (x * y - w * z), ONE - TWO * (x * x + z * z), TWO * (y * z + w * x)),
        (TWO * (x * z + w * y), TWO * (y * z - w * x), ONE - TWO * (x * x + y * y)),
    )
    xx = xy = yy = ZERO
    for k in range(3):
        a = axes[k]
        depth = R[2, 0] * a[0] + R[2, 1] * a[1] + R[2, 2] * a[2]
        along_x = fx * s[k] * (R[0, 0] * a[0] + R[0, 1] * a[1] + R[0, 2] * a[2] - u * depth)
        along_y = fy * s[k] * (R[1, 0] * a[0] + R[1, 1] * a[1] + R[1, 2] * a[2] - v * depth)
        xx += along_x * along_x
        xy += along_x * along_y
        yy += along_y * along_y
    return xx, xy, yy


@kernel(parallel=True)
def _project(
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacities: Float32,
    colors: Float32,
    world_to_camera: Float32,
    K: Float32,
    width: int,
    height: int,
    near: np.float32,
    far: np.float32,
) -> tuple[Float32, Float32, Integers]:
    """(N, COLUMNS) projected Gaussians, (N,) depths, (N, 4) boxes of tiles x0, y0, x1, y1; 0 where nothing is seen."""
    n = len(means)
    drawn = np.empty((n, COLUMNS), np.float32)
    depths = np.empty(n, np.float32)
    boxes = np.zeros((n, 4), np.int32)
    R, t = world_to_camera[:3, :3], world_to_camera[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    wide, high = np.float32(width), np.float32(height)
    left, right = -(cx + WIDENING * wide) / fx, (wide - cx + WIDENING * wide) / fx
    top, bottom = -(cy + WIDENING * high) / fy, (high - cy + WIDENING * high) / fy
    for i in prange(n):
        p, opacity, row = means[i], opacities[i], drawn[i]
        z = R[2, 0] * p[0] + R[2, 1] * p[1] + R[2, 2] * p[2] + t[2]
        if not (near <= z <= far) or opacity < ALPHA_CUT:
            continue
        u = (R[0, 0] * p[0] + R[0, 1] * p[1] + R[0, 2] * p[2] + t[0]) / z
        v = (R[1, 0] * p[0] + R[1, 1] * p[1] + R[1, 2] * p[2] + t[1]) / z
        xx, xy, yy = _screen_covariance(
            quats[i], scales[i], R, fx / z, fy / z, min(right, max(left, u)), min(bottom, max(top, v))
        )
        xx += DILATION
        yy += DILATION
        det = np.float64(xx) * yy - np.float64(xy) * xy  # a needle cancels all of float32
        if not (0 < det < np.inf):
            continue
        row[X], row[Y] = fx * u + cx, fy * v + cy
        row[A], row[B], row[C] = yy / det, -xy / det, xx / det
        row[OPACITY] = opacity
        row[RED], row[GREEN], row[BLUE] = colors[i, 0], colors[i, 1], colors[i, 2]
        row[REACH] = math.log(opacity / ALPHA_CUT)
        row[WIDTH] = math.sqrt(TWO * row[REACH] * xx) + HALF
        row[HEIGHT] = math.sqrt(TWO * row[REACH] * yy) + HALF
        x0, x1 = row[X] - row[WIDTH], row[X] + row[WIDTH]
        y0, y1 = row[Y] - row[HEIGHT], row[Y] + row[HEIGHT]
        if not (x1 > 0 and x0 < wide and y1 > 0 and y0 < high):
            continue
        depths[i] = z
        boxes[i, 0], boxes[i, 1] = int(max(x0, ZERO)) // TILE, int(max(y0, ZERO)) // TILE
        boxes[i, 2], boxes[i, 3] = int(min(x1, wide - ONE)) // TILE + 1, int(min(y1, high - ONE)) // TILE + 1
    return drawn, depths, boxes


@kernel()
def _columns(g: Float32, box: Integers, row: int) -> tuple[int, int]:
    """Tiles [x0, x1) of one row of tiles that the ellipse meets: a slanted needle meets few of those in its box."""
    x0, x1 = box[0], box[2]
    if x1 - x0 <= 2:
        return x0, x1
    half_width, half_height = g[WIDTH], g[HEIGHT]
    top = np.float32(row * TILE) - g[Y]
    bottom = top + np.float32(TILE)
    tip = -g[B] / g[C] * half_width  # height over the centre at which the ellipse reaches farthest to the right
    right, left = min(bottom, max(top, tip)), min(bottom, max(top, -tip))
    slope, middle = -g[B] / g[A], math.sqrt(TWO * g[REACH] / g[A])
    x_right = g[X] + slope * right + middle * math.sqrt(max(ZERO, ONE - (right / half_height) ** 2)) + HALF
    x_left = g[X] + slope * left - middle * math.sqrt(max(ZERO, ONE - (left / half_height) ** 2)) - HALF
    return max(x0, int(max(x_left, ZERO)) // TILE), min(x1, int(max(x_right, ZERO)) // TILE + 1)


@kernel(parallel=True)
def _bin(
    drawn: Float32, depths: Float32, boxes: Integers, columns: int, rows: int, chunks: int
) -> tuple[Integers, Integers]:
    """Counting sort into tiles: entries[offsets[t] : offsets[t + 1]] are tile t's Gaussians.

    An entry is the depth's bits (positive floats order as their bits do) << 32 | index: by entry is by depth.
    Each chunk of Gaussians counts first, and then knows where to write.
    """
    size = -(-len(depths) // chunks)
    place = np.zeros((chunks, columns * rows), np.int64)
    for chunk in prange(chunks):
        for i in range(chunk * size, min((chunk + 1) * size, len(depths))):
            for row in range(boxes[i, 1], boxes[i, 3]):
                first, last = _columns(drawn[i], boxes[i], row)
                for column in range(first, last):
                    place[chunk, row * columns + column] += 1
    offsets = np.zeros(columns * rows + 1, np.int64)
    total = 0
    for tile in range(columns * rows):
        for chunk in range(chunks):
            count = place[chunk, tile]
            place[chunk, tile] = total
            total += count
        offsets[tile + 1] = total
    entries = np.empty(total, np.uint64)
    bits = depths.view(np.uint32)
    for chunk in prange(chunks):
        for i in range(chunk * size, min((chunk + 1) * size, len(depths))):
            entry = (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(i)
            for row in range(boxes[i, 1], boxes[i, 3]):
                first, last = _columns(drawn[i], boxes[i], row)
                for column in range(first, last):
                    at = place[chunk, row * columns + column]
                    entries[at] = entry
                    place[chunk, row * columns + column] = at + 1
    return offsets, entries


@kernel()
def _sort(entries: Integers, spare: Integers) -> Integers:
    """The entries by depth, in one of the two arrays (of one length): a radix sort over the bytes that differ."""
    byte = np.uint64(255)
    differ = np.uint64(0)
    for entry in entries:
        differ |= entry ^ entries[0]
    starts = np.empty(257, np.int64)
    for shift in range(32, 64, 8):
        down = np.uint64(shift)
        if (differ >> down) & byte == 0:
            continue
        starts[:] = 0
        for entry in entries:
            starts[((entry >> down) & byte) + np.uint64(1)] += 1
        for digit in range(256):
            starts[digit + 1] += starts[digit]
        for entry in entries:
            digit = (entry >> down) & byte
            spare[starts[digit]] = entry
            starts[digit] += 1
        entries, spare = spare, entries
    return entries


@kernel()
def _splat(drawn: Float32, i: np.intp, lines: Float32, x0: int, y0: int) -> None:
    """Adds Gaussian i to a tile; all sixteen pixels of a line at once and without a branch, so that it vectorises."""
    x, y = drawn[i, X] - np.float32(x0), drawn[i, Y] - np.float32(y0)
    a, b, c, opacity = HALF * drawn[i, A], drawn[i, B], HALF * drawn[i, C], drawn[i, OPACITY]
    red, green, blue, high = drawn[i, RED], drawn[i, GREEN], drawn[i, BLUE], drawn[i, HEIGHT]
    for row in range(int(max(y - high, ZERO)), int(min(y + high, np.float32(TILE - 1))) + 1):
        dy = y - (np.float32(row) + HALF)
        constant, linear = c * dy * dy, b * dy
        line = lines[row]
        for k in range(TILE):
            dx = x - (np.float32(k) + HALF)
            sigma = constant + (a * dx + linear) * dx
            # exp(-sigma) = exp(-sigma / 8)^8: relative error 5e-7 for sigma in [0, 6]
            t = (sigma if sigma < SIGMA_MAX else SIGMA_MAX) * EIGHTH
            e = TAYLOR[5] + t * TAYLOR[6]
            e = TAYLOR[0] + t * (TAYLOR[1] + t * (TAYLOR[2] + t * (TAYLOR[3] + t * (TAYLOR[4] + t * e))))
            e = e * e
            e = e * e
            alpha = opacity * (e * e)
            alpha = alpha if alpha < ALPHA_MAX else ALPHA_MAX
            alpha = alpha if (sigma >= ZERO) & (alpha >= ALPHA_CUT) else ZERO
            after = line[LIVE + k] * (ONE - alpha)
            stays_open = after > CLOSED
            weight = alpha * line[LIVE + k] if stays_open else ZERO
            line[k] += weight * red
            line[TILE + k] += weight * green
            line[2 * TILE + k] += weight * blue
            line[LIVE + k] = after if stays_open else ZERO
            line[LEFT + k] = after if stays_open else line[LEFT + k]


@kernel()
def _all_closed(lines: Float32) -> bool:
    for row in range(TILE):
        for k in range(TILE):
            if lines[row, LIVE + k] > ZERO:
                return False
    return True


@kernel(parallel=True)
def _composite(
    drawn: Float32,
    offsets: Integers,
    entries: Integers,
    order: Integers,
    width: int,
    height: int,
    background: Float32,
    threads: int,
) -> tuple[Float32, Float32]:
    """Colour (H, W, 3) and alpha (H, W). Tiles are dealt to the threads like cards, the longest lists first."""
    columns = -(-width // TILE)
    color = np.empty((height, width, 3), np.float32)
    alpha = np.empty((height, width), np.float32)
    for thread in prange(threads):
        lines = np.empty((TILE, 5 * TILE), np.float32)
        spare = np.empty(offsets[order[0] + 1] - offsets[order[0]], np.uint64)
        for k in range(thread, len(order), threads):
            tile = order[k]
            x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
            length = offsets[tile + 1] - offsets[tile]
            listed = _sort(entries[offsets[tile] : offsets[tile + 1]], spare[:length])
            lines[:, :LIVE] = ZERO
            lines[:, LIVE:] = ONE
            for n in range(length):
                _splat(drawn, np.intp(listed[n] & np.uint64(0xFFFFFFFF)), lines, x0, y0)
                if n % 64 == 63 and _all_closed(lines):
                    break
            for row in range(min(TILE, height - y0)):
                for column in range(min(TILE, width - x0)):
                    left = lines[row, LEFT + column]
                    alpha[y0 + row, x0 + column] = ONE - left
                    for channel in range(3):
                        premultiplied = lines[row, channel * TILE + column]
                        color[y0 + row, x0 + column, channel] = premultiplied + left * background[channel]
    return color, alpha

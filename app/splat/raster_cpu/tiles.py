"""Tile-based compositing: tiles of 16 x 16 pixels, each with a depth-sorted list of Gaussians, front to back.

Conventions of gsplat 1.5: alpha = min(0.999, opacity exp(-sigma)), and 0 below 1/255; pixel centres at + 0.5; equal
depths in index order. The first Gaussian that would bring a pixel's transmittance to 1e-4 or less is not drawn, and
the pixel is saturated. This file does not know cameras, and of the third dimension only the depth to sort by.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import numpy as np
from numba import get_num_threads, prange

from app.splat.model import Float32
from app.splat.raster_cpu.projection import (
    ALPHA_CUT,
    BLUE,
    GREEN,
    HALF,
    HALF_HEIGHT,
    HALF_WIDTH,
    ONE,
    OPACITY,
    RED,
    SIGMA_CUT,
    TILE,
    TWO,
    ZERO,
    A,
    B,
    C,
    Integers,
    X,
    Y,
    camera_parameters,
    kernel,
    project,
)

MAX_ENTRIES = 2**25  # (tile, Gaussian) pairs held at once, 8 bytes each
MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)
MAX_SIGMA = np.float32(6)  # above ln 255, where alpha is below the cut whatever the opacity
EIGHTH = np.float32(-1 / 8)
TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(7))
# Columns of a tile's row: red, green, blue; transmittance, 0 once the pixel is saturated; final transmittance
OPEN, TRANSMITTANCE = 3 * TILE, 4 * TILE

_lock = threading.Lock()  # numba's built-in thread pool aborts the process when two threads enter it


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
    clip (near, far) depths, near > 0; background (3,).
    Returns colour (H, W, 3), not clamped to [0, 1], and alpha (H, W), float32.
    """
    width, height = size
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles = np.ones((columns * rows, TILE, 5 * TILE), np.float32)
    tiles[:, :, :OPEN] = 0
    saturated = np.zeros(columns * rows, np.bool_)
    with _lock:
        projected, depths, boxes = project(
            means, quats, scales, opacities, colors, camera_parameters(K, size, clip), world_to_camera
        )
        for slab in _slabs(depths, boxes):
            if saturated.all():
                break
            offsets, entries = _bin(projected, depths, slab, columns, saturated, get_num_threads())
            longest_first = np.argsort(offsets[:-1] - offsets[1:], kind="stable")
            _composite(projected, offsets, entries, longest_first, columns, tiles, saturated, get_num_threads())
        return _assemble(tiles, width, height, background)


def overdraw(
    means: Float32,
    quats: Float32,
    scales: Float32,
    opacities: Float32,
    world_to_camera: Float32,
    K: Float32,
    size: tuple[int, int],
    clip: tuple[float, float],
) -> float:
    """Mean number of Gaussians per tile, which the cost of drawing grows with. Arguments as for `rasterize`."""
    tiles = -(-size[0] // TILE) * -(-size[1] // TILE)
    with _lock:  # the colours are not used here: any (N, 3) array will do
        _, _, boxes = project(means, quats, scales, opacities, means, camera_parameters(K, size, clip), world_to_camera)
    return float(_tile_counts(boxes).sum() / tiles)


def _tile_counts(boxes: Integers) -> Integers:
    """(N,) number of tiles in the box of each Gaussian."""
    return (boxes[:, 2] - boxes[:, 0]).astype(np.int64) * (boxes[:, 3] - boxes[:, 1])


def _slabs(depths: Float32, boxes: Integers) -> Iterator[Integers]:
    """The boxes, split front to back so that no part has over MAX_ENTRIES entries; usually a single part."""
    tile_counts = _tile_counts(boxes)
    if tile_counts.sum() <= MAX_ENTRIES:
        yield boxes
        return
    seen = np.flatnonzero(tile_counts)
    order = seen[np.argsort(depths[seen], kind="stable")]
    part = np.cumsum(tile_counts[order]) // MAX_ENTRIES
    for k in np.unique(part):
        slab = np.zeros_like(boxes)
        slab[order[part == k]] = boxes[order[part == k]]
        yield slab


@kernel()
def _tile_span(i: int, projected: Float32, boxes: Integers, row: int) -> tuple[int, int]:
    """Tiles [x0, x1) of a row of tiles that the ellipse meets: a slanted thin ellipse meets few of its box."""
    x0, x1 = boxes[i, 0], boxes[i, 2]
    if x1 - x0 <= 2:
        return x0, x1
    half_width, half_height = projected[i, HALF_WIDTH], projected[i, HALF_HEIGHT]
    top = np.float32(row * TILE) - projected[i, Y]
    bottom = top + np.float32(TILE)
    tip = -projected[i, B] / projected[i, C] * half_width  # offset of the ellipse's rightmost point below the centre
    right, left = min(bottom, max(top, tip)), min(bottom, max(top, -tip))
    slope, middle = -projected[i, B] / projected[i, A], math.sqrt(TWO * projected[i, SIGMA_CUT] / projected[i, A])
    x_right = projected[i, X] + slope * right + middle * math.sqrt(max(ZERO, ONE - (right / half_height) ** 2)) + HALF
    x_left = projected[i, X] + slope * left - middle * math.sqrt(max(ZERO, ONE - (left / half_height) ** 2)) - HALF
    return max(x0, int(max(x_left, ZERO)) // TILE), min(x1, int(max(x_right, ZERO)) // TILE + 1)


@kernel()
def _count_entries(
    first: int, last: int, projected: Float32, boxes: Integers, columns: int, saturated: Integers, counts: Integers
) -> None:
    """Counts the entries of the Gaussians [first, last) in each tile that is not saturated."""
    for i in range(first, last):
        for row in range(boxes[i, 1], boxes[i, 3]):
            x0, x1 = _tile_span(i, projected, boxes, row)
            for tile in range(row * columns + x0, row * columns + x1):
                if not saturated[tile]:
                    counts[tile] += 1


@kernel()
def _fill_entries(
    first: int,
    last: int,
    projected: Float32,
    bits: Integers,
    boxes: Integers,
    columns: int,
    saturated: Integers,
    cursor: Integers,
    entries: Integers,
) -> None:
    """Writes the entries of the Gaussians [first, last); those of a tile start at cursor[tile]."""
    for i in range(first, last):
        entry = (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(i)
        for row in range(boxes[i, 1], boxes[i, 3]):
            x0, x1 = _tile_span(i, projected, boxes, row)
            for tile in range(row * columns + x0, row * columns + x1):
                if not saturated[tile]:
                    entries[cursor[tile]] = entry
                    cursor[tile] += 1


@kernel(parallel=True)
def _bin(
    projected: Float32, depths: Float32, boxes: Integers, columns: int, saturated: Integers, chunks: int
) -> tuple[Integers, Integers]:
    """Counting sort into tiles: entries[offsets[t] : offsets[t + 1]] are the Gaussians of tile t, in index order.

    An entry is (bits of the depth << 32) | index. The bits of positive floats sort as the floats do, so sorting
    entries sorts by depth. Each chunk of Gaussians is counted first, which tells where its entries start.
    """
    n, size = len(depths), -(-len(depths) // chunks)
    cursor = np.zeros((chunks, len(saturated)), np.int64)
    for chunk in prange(chunks):
        _count_entries(chunk * size, min((chunk + 1) * size, n), projected, boxes, columns, saturated, cursor[chunk])
    offsets = np.zeros(len(saturated) + 1, np.int64)
    total = 0
    for tile in range(len(saturated)):
        for chunk in range(chunks):
            count = cursor[chunk, tile]
            cursor[chunk, tile] = total
            total += count
        offsets[tile + 1] = total
    entries, bits = np.empty(total, np.uint64), depths.view(np.uint32)
    for chunk in prange(chunks):
        _fill_entries(
            chunk * size, min((chunk + 1) * size, n), projected, bits, boxes, columns, saturated, cursor[chunk], entries
        )
    return offsets, entries


@kernel()
def _sort(entries: Integers, scratch: Integers) -> Integers:
    """Radix sort by depth over the bytes that differ. Returns one of the two arrays, which have the same length."""
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
            scratch[starts[digit]] = entry
            starts[digit] += 1
        entries, scratch = scratch, entries
    return entries


@kernel()
def _blend(projected: Float32, i: np.intp, pixels: Float32, x0: int, y0: int) -> None:
    """Blends Gaussian i into a tile. The loop over the pixels of a row has no branch, so that it vectorises."""
    x, y = projected[i, X] - np.float32(x0), projected[i, Y] - np.float32(y0)
    a, b, c, opacity = HALF * projected[i, A], projected[i, B], HALF * projected[i, C], projected[i, OPACITY]
    red, green, blue, high = projected[i, RED], projected[i, GREEN], projected[i, BLUE], projected[i, HALF_HEIGHT]
    for row in range(int(max(y - high, ZERO)), int(min(y + high, np.float32(TILE - 1))) + 1):
        dy = y - (np.float32(row) + HALF)
        constant, linear = c * dy * dy, b * dy
        line = pixels[row]
        for k in range(TILE):
            dx = x - (np.float32(k) + HALF)
            sigma = constant + (a * dx + linear) * dx
            # exp(-sigma) = exp(-sigma / 8)^8: relative error 5e-7 for sigma in [0, 6]
            t = (sigma if sigma < MAX_SIGMA else MAX_SIGMA) * EIGHTH
            e = TAYLOR[5] + t * TAYLOR[6]
            e = TAYLOR[0] + t * (TAYLOR[1] + t * (TAYLOR[2] + t * (TAYLOR[3] + t * (TAYLOR[4] + t * e))))
            e = e * e
            e = e * e
            alpha = opacity * (e * e)
            alpha = alpha if alpha < MAX_ALPHA else MAX_ALPHA
            alpha = alpha if (sigma >= ZERO) & (alpha >= ALPHA_CUT) else ZERO
            after = line[OPEN + k] * (ONE - alpha)
            open_after = after > MIN_TRANSMITTANCE
            weight = alpha * line[OPEN + k] if open_after else ZERO
            line[k] += weight * red
            line[TILE + k] += weight * green
            line[2 * TILE + k] += weight * blue
            line[OPEN + k] = after if open_after else ZERO
            line[TRANSMITTANCE + k] = after if open_after else line[TRANSMITTANCE + k]


@kernel()
def _all_saturated(pixels: Float32) -> bool:
    for row in range(TILE):
        for k in range(TILE):
            if pixels[row, OPEN + k] > ZERO:
                return False
    return True


@kernel()
def _blend_tile(projected: Float32, entries: Integers, scratch: Integers, pixels: Float32, x0: int, y0: int) -> bool:
    """Blends the Gaussians of a tile, front to back; True once every pixel is saturated."""
    entries = _sort(entries, scratch)
    for n in range(len(entries)):
        _blend(projected, np.intp(entries[n] & np.uint64(0xFFFFFFFF)), pixels, x0, y0)
        if n % 64 == 63 and _all_saturated(pixels):
            return True
    return False


@kernel(parallel=True)
def _composite(
    projected: Float32,
    offsets: Integers,
    entries: Integers,
    order: Integers,
    columns: int,
    tiles: Float32,
    saturated: Integers,
    threads: int,
) -> None:
    """Blends the entries into (T, TILE, 5 * TILE) tiles; tiles go to threads round-robin, the longest lists first."""
    longest = offsets[order[0] + 1] - offsets[order[0]]
    for thread in prange(threads):
        scratch = np.empty(longest, np.uint64)
        for k in range(thread, len(order), threads):
            tile = order[k]
            first, last = offsets[tile], offsets[tile + 1]
            x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
            if first < last:
                saturated[tile] = _blend_tile(
                    projected, entries[first:last], scratch[: last - first], tiles[tile], x0, y0
                )


@kernel(parallel=True)
def _assemble(tiles: Float32, width: int, height: int, background: Float32) -> tuple[Float32, Float32]:
    """Colour (H, W, 3) over the background and alpha (H, W)."""
    color = np.empty((height, width, 3), np.float32)
    alpha = np.empty((height, width), np.float32)
    columns = -(-width // TILE)
    for y in prange(height):
        for x in range(width):
            tile, row, column = (y // TILE) * columns + x // TILE, y % TILE, x % TILE
            transmittance = tiles[tile, row, TRANSMITTANCE + column]
            alpha[y, x] = ONE - transmittance
            for channel in range(3):
                color[y, x, channel] = tiles[tile, row, channel * TILE + column] + transmittance * background[channel]
    return color, alpha

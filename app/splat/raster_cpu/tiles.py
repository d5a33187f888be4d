"""Fills the pixels: tiles of 16 x 16 with depth-sorted lists of Gaussians, front-to-back compositing.

Facts shared with gsplat 1.5: alpha = min(0.999, opacity exp(-sigma)), nothing under 1/255; a pixel is closed by the
first Gaussian that would bring its transmittance to 1e-4 or less, which is not drawn; pixel centres at + 0.5; equal
depths in order of index. This file does not know cameras or the third dimension, but for the depth to sort by.
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
    HEIGHT,
    ONE,
    OPACITY,
    REACH,
    RED,
    TILE,
    TWO,
    WIDTH,
    ZERO,
    A,
    B,
    C,
    Integers,
    X,
    Y,
    kernel,
    project,
    screen,
)

MOST_ENTRIES = 2**25  # pairs of a tile and a Gaussian held at once, 8 bytes each
ALPHA_MAX = np.float32(0.999)
CLOSED = np.float32(1e-4)
SIGMA_MAX = np.float32(6)  # above ln 255: there alpha is under the cut whatever the opacity
EIGHTH = np.float32(-1 / 8)
TAYLOR = tuple(np.float32(1 / math.factorial(k)) for k in range(7))
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
    clip (near, far) depths, near > 0; background (3,).
    Returns colour (H, W, 3), not clamped to [0, 1], and alpha (H, W), float32.
    """
    width, height = size
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles = np.ones((columns * rows, TILE, 5 * TILE), np.float32)
    tiles[:, :, :LIVE] = 0
    closed = np.zeros(columns * rows, np.bool_)
    with _one_at_a_time:
        drawn, depths, boxes = project(means, quats, scales, opacities, colors, screen(K, size, clip), world_to_camera)
        for slab in _slabs(depths, boxes):
            if closed.all():
                break
            offsets, entries = _bin(drawn, depths, slab, columns, closed, get_num_threads())
            longest_first = np.argsort(offsets[:-1] - offsets[1:], kind="stable")
            _composite(drawn, offsets, entries, longest_first, columns, tiles, closed, get_num_threads())
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
    """How many Gaussians meet a tile, on the mean over the picture: what drawing costs. Arguments as of `rasterize`."""
    tiles = -(-size[0] // TILE) * -(-size[1] // TILE)
    with _one_at_a_time:  # colours are only passed on, so that any (N, 3) will do
        _, _, boxes = project(means, quats, scales, opacities, means, screen(K, size, clip), world_to_camera)
    return float(_meets(boxes).sum() / tiles)


def _meets(boxes: Integers) -> Integers:
    """(N,) how many tiles the box of each Gaussian has."""
    return (boxes[:, 2] - boxes[:, 0]).astype(np.int64) * (boxes[:, 3] - boxes[:, 1])


def _slabs(depths: Float32, boxes: Integers) -> Iterator[Integers]:
    """The boxes, front to back in as many parts as keep a part's entries under MOST_ENTRIES: one, but for giants."""
    meets = _meets(boxes)
    if meets.sum() <= MOST_ENTRIES:
        yield boxes
        return
    seen = np.flatnonzero(meets)
    order = seen[np.argsort(depths[seen], kind="stable")]
    part = np.cumsum(meets[order]) // MOST_ENTRIES
    for k in np.unique(part):
        slab = np.zeros_like(boxes)
        slab[order[part == k]] = boxes[order[part == k]]
        yield slab


@kernel()
def _columns(i: int, drawn: Float32, boxes: Integers, row: int) -> tuple[int, int]:
    """Tiles [x0, x1) of one row of tiles that the ellipse meets: a slanted needle meets few of those in its box."""
    x0, x1 = boxes[i, 0], boxes[i, 2]
    if x1 - x0 <= 2:
        return x0, x1
    half_width, half_height = drawn[i, WIDTH], drawn[i, HEIGHT]
    top = np.float32(row * TILE) - drawn[i, Y]
    bottom = top + np.float32(TILE)
    tip = -drawn[i, B] / drawn[i, C] * half_width  # how far below the centre the ellipse's rightmost point lies
    right, left = min(bottom, max(top, tip)), min(bottom, max(top, -tip))
    slope, middle = -drawn[i, B] / drawn[i, A], math.sqrt(TWO * drawn[i, REACH] / drawn[i, A])
    x_right = drawn[i, X] + slope * right + middle * math.sqrt(max(ZERO, ONE - (right / half_height) ** 2)) + HALF
    x_left = drawn[i, X] + slope * left - middle * math.sqrt(max(ZERO, ONE - (left / half_height) ** 2)) - HALF
    return max(x0, int(max(x_left, ZERO)) // TILE), min(x1, int(max(x_right, ZERO)) // TILE + 1)


@kernel()
def _count(
    first: int, last: int, drawn: Float32, boxes: Integers, columns: int, closed: Integers, counts: Integers
) -> None:
    """Adds, for the Gaussians [first, last), one to each tile that they meet and that is not closed yet."""
    for i in range(first, last):
        for row in range(boxes[i, 1], boxes[i, 3]):
            x0, x1 = _columns(i, drawn, boxes, row)
            for tile in range(row * columns + x0, row * columns + x1):
                if not closed[tile]:
                    counts[tile] += 1


@kernel()
def _fill(
    first: int,
    last: int,
    drawn: Float32,
    bits: Integers,
    boxes: Integers,
    columns: int,
    closed: Integers,
    place: Integers,
    entries: Integers,
) -> None:
    """Writes the entries of the Gaussians [first, last), each tile's from place[tile] on."""
    for i in range(first, last):
        entry = (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(i)
        for row in range(boxes[i, 1], boxes[i, 3]):
            x0, x1 = _columns(i, drawn, boxes, row)
            for tile in range(row * columns + x0, row * columns + x1):
                if not closed[tile]:
                    entries[place[tile]] = entry
                    place[tile] += 1


@kernel(parallel=True)
def _bin(
    drawn: Float32, depths: Float32, boxes: Integers, columns: int, closed: Integers, chunks: int
) -> tuple[Integers, Integers]:
    """Counting sort into tiles: entries[offsets[t] : offsets[t + 1]] are tile t's Gaussians, in order of index.

    An entry is the depth's bits (positive floats order as their bits do) << 32 | index: by entry is by depth.
    Each chunk of Gaussians counts first, and then knows where to write.
    """
    n, size = len(depths), -(-len(depths) // chunks)
    place = np.zeros((chunks, len(closed)), np.int64)
    for chunk in prange(chunks):
        _count(chunk * size, min((chunk + 1) * size, n), drawn, boxes, columns, closed, place[chunk])
    offsets = np.zeros(len(closed) + 1, np.int64)
    total = 0
    for tile in range(len(closed)):
        for chunk in range(chunks):
            count = place[chunk, tile]
            place[chunk, tile] = total
            total += count
        offsets[tile + 1] = total
    entries, bits = np.empty(total, np.uint64), depths.view(np.uint32)
    for chunk in prange(chunks):
        _fill(chunk * size, min((chunk + 1) * size, n), drawn, bits, boxes, columns, closed, place[chunk], entries)
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


@kernel()
def _draw_tile(drawn: Float32, entries: Integers, spare: Integers, lines: Float32, x0: int, y0: int) -> bool:
    """Adds the Gaussians of a tile, front to back; True once nothing behind them can be seen."""
    entries = _sort(entries, spare)
    for n in range(len(entries)):
        _splat(drawn, np.intp(entries[n] & np.uint64(0xFFFFFFFF)), lines, x0, y0)
        if n % 64 == 63 and _all_closed(lines):
            return True
    return False


@kernel(parallel=True)
def _composite(
    drawn: Float32,
    offsets: Integers,
    entries: Integers,
    order: Integers,
    columns: int,
    tiles: Float32,
    closed: Integers,
    threads: int,
) -> None:
    """Adds the entries to (T, TILE, 5 * TILE) tiles, assigned to threads round-robin, the longest lists first."""
    longest = offsets[order[0] + 1] - offsets[order[0]]
    for thread in prange(threads):
        spare = np.empty(longest, np.uint64)
        for k in range(thread, len(order), threads):
            tile = order[k]
            first, last = offsets[tile], offsets[tile + 1]
            x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
            if first < last:
                closed[tile] = _draw_tile(drawn, entries[first:last], spare[: last - first], tiles[tile], x0, y0)


@kernel(parallel=True)
def _assemble(tiles: Float32, width: int, height: int, background: Float32) -> tuple[Float32, Float32]:
    """Colour (H, W, 3) over the background and alpha (H, W)."""
    color = np.empty((height, width, 3), np.float32)
    alpha = np.empty((height, width), np.float32)
    columns = -(-width // TILE)
    for y in prange(height):
        for x in range(width):
            tile, row, column = (y // TILE) * columns + x // TILE, y % TILE, x % TILE
            left = tiles[tile, row, LEFT + column]
            alpha[y, x] = ONE - left
            for channel in range(3):
                color[y, x, channel] = tiles[tile, row, channel * TILE + column] + left * background[channel]
    return color, alpha

"""The Triton kernels behind `fused.py`: norms (one program per row), attention, submanifold convolution.

The torch operations there, or in `attention.attend`, define what each computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(  # type: ignore[no-untyped-def]
    x, y, gate, constant, scale, shift, out, width, eps,
    HAS_Y: tl.constexpr, HAS_GATE: tl.constexpr, HAS_CONSTANT: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr, NORM: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row + columns, inside, 0).to(tl.float32)
    if HAS_Y:
        term = tl.load(y + row + columns, inside, 0).to(tl.float32)
        if HAS_GATE:
            term *= tl.load(gate + columns, inside, 0)
        values += term
    if HAS_CONSTANT:
        values += tl.load(constant + columns, inside, 0).to(tl.float32)
    if HAS_Y or HAS_CONSTANT:
        tl.store(x + row + columns, values.to(x.dtype.element_ty), inside)
    if NORM:
        mean = tl.sum(values, 0) / width
        centred = tl.where(inside, values - mean, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
        if HAS_SCALE:
            normed *= tl.load(scale + columns, inside, 0)
        if HAS_SHIFT:
            normed += tl.load(shift + columns, inside, 0)
        if SILU:
            normed *= tl.sigmoid(normed)
        tl.store(out + row + columns, normed.to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm(  # type: ignore[no-untyped-def]
    x, gamma0, gamma1, row_stride, heads, width, root, H: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    part = tl.program_id(1)
    head = tl.arange(0, H)[:, None]
    column = tl.arange(0, D)[None, :]
    inside = (head < heads) & (column < width)
    within = head * width + column
    at = x + tl.program_id(0).to(tl.int64) * row_stride + part * heads * width + within
    values = tl.load(at, inside, 0).to(tl.float32)
    gamma = tl.load((gamma0 if part == 0 else gamma1) + within, inside, 0)
    length = tl.sqrt(tl.sum(values * values, 1))[:, None]
    tl.store(at, (values / tl.maximum(length, 1e-12) * gamma * root).to(x.dtype.element_ty), inside)


def add_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    constant: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    out: Tensor | None,
    silu: bool,
) -> None:
    """See `fused.add_norm_`. Without `out`, the sum only. Tensors must be contiguous, vectors float32."""
    width = x.shape[-1]
    _add_norm[(x.numel() // width,)](
        x, y, gate, constant, scale, shift, out, width, eps,
        HAS_Y=y is not None, HAS_GATE=gate is not None, HAS_CONSTANT=constant is not None,
        HAS_SCALE=scale is not None, HAS_SHIFT=shift is not None, NORM=out is not None, SILU=silu,
        BLOCK=triton.next_power_of_2(width), num_warps=4 if width > 256 else 1,
    )  # fmt: skip


def add(x: Tensor, y: Tensor, gate: Tensor | None) -> None:
    """See `fused.add_`."""
    add_norm(x, y, gate, None, None, None, 0.0, None, False)


def rms_norm(x: Tensor, gammas: Sequence[Tensor]) -> None:
    """See `fused.rms_norm_`."""
    rows, parts, heads, width = x.shape
    _rms_norm[(rows, parts)](
        x, gammas[0], gammas[-1], x.stride(0), heads, width, width**0.5,
        H=triton.next_power_of_2(heads), D=triton.next_power_of_2(width), num_warps=2,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _load_tile(q, keys, values, row, at, head, total, scale, N: tl.constexpr, D: tl.constexpr, MASK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scores (base 2) of a block of queries for N keys, and the values of these keys."""
    k = keys.load([row, at, head, 0]).reshape([N, D])
    v = values.load([row, at, head, 0]).reshape([N, D])
    scores = tl.dot(q, k.T) * scale
    if MASK:
        scores = tl.where((at + tl.arange(0, N) < total)[None, :], scores, -float("inf"))
    return scores, v


@triton.jit
def _softmax_step(scores, v, row_max, row_sum, acc):  # type: ignore[no-untyped-def]
    """One step of the online softmax: updates the maximum, the sum of weights and the weighted sum of values."""
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    p = tl.exp2(scores - new_max[:, None])
    rescale = tl.exp2(row_max - new_max)
    return new_max, row_sum * rescale + tl.sum(p, 1), tl.dot(p.to(v.dtype), v, acc * rescale[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _attention(  # type: ignore[no-untyped-def]
    queries, keys, values, out, length, heads, total, scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, HAS_LENGTH: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * M
    row, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    if HAS_LENGTH:
        total = tl.load(length)
    full_end = total // N * N
    q = queries.load([row, start, head, 0]).reshape([M, D])

    # The maximum of the first tile is used for all tiles. Weights relative to it are as exact and need no rescaling
    # while they fit the dtype of the values. If they do not, the online softmax below does the block again.
    scores, v = _load_tile(q, keys, values, row, 0, head, total, scale, N, D, True)
    row_max = tl.max(scores, 1)
    p = tl.exp2(scores - row_max[:, None])
    row_sum = tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v)
    for at in tl.range(N, full_end, N):
        scores, v = _load_tile(q, keys, values, row, at, head, total, scale, N, D, False)
        p = tl.exp2(scores - row_max[:, None])
        row_sum += tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc)
    if (full_end < total) & (full_end > 0):
        scores, v = _load_tile(q, keys, values, row, full_end, head, total, scale, N, D, True)
        p = tl.exp2(scores - row_max[:, None])
        row_sum += tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc)

    if tl.max(row_sum, 0) > 60000.0:
        row_max = tl.full([M], -float("inf"), tl.float32)
        row_sum = tl.zeros([M], tl.float32)
        acc = tl.zeros([M, D], tl.float32)
        for at in tl.range(0, total, N):
            scores, v = _load_tile(q, keys, values, row, at, head, total, scale, N, D, True)
            row_max, row_sum, acc = _softmax_step(scores, v, row_max, row_sum, acc)
    acc = acc / row_sum[:, None]
    out.store([row, start, head, 0], acc.to(q.dtype).reshape([1, M, 1, D]))


TILE = 128, 64, 4
"""Queries and keys of a tile, and warps."""


def pipeline_stages(keys: int) -> int:
    """Stages of the software pipeline that loads keys and values: the fourth pays off for many keys only."""
    return 4 if keys > 3000 else 3


def attention(q: Tensor, k: Tensor, v: Tensor, length: Tensor | None) -> Tensor:
    """Flash attention: (n, T, H, d) with (n, L, H, d) -> (n, T, H*d)."""
    n, t, heads, width = q.shape
    out = q.new_empty(n, t, heads, width)
    rows, columns, warps = TILE
    tiles = [
        TensorDescriptor(x, list(x.shape), list(x.stride()), [1, size, 1, width])
        for x, size in ((q, rows), (k, columns), (v, columns), (out, rows))
    ]
    _attention[(triton.cdiv(t, rows), n * heads)](
        *tiles, length, heads, k.shape[1], width**-0.5 * LOG2_E,
        M=rows, N=columns, D=width, HAS_LENGTH=length is not None, num_warps=warps,
        num_stages=pipeline_stages(k.shape[1]),
    )  # fmt: skip
    return out.flatten(2)


@triton.jit  # type: ignore[untyped-decorator]
def _convolution(  # type: ignore[no-untyped-def]
    x, table, weight, bias, out, rows_in, rows_out, width_out,
    CHANNELS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    inside = row < rows_out
    first = tl.program_id(1) * N
    x += tl.program_id(2).to(tl.int64) * rows_in * CHANNELS
    out += tl.program_id(2).to(tl.int64) * rows_out * width_out
    sums = tl.zeros([M, N], tl.float32)
    parts: tl.constexpr = CHANNELS // K
    for step in tl.range(0, 27 * parts):
        source = tl.load(table + row * 27 + step // parts, inside, rows_in)
        at = x + source[:, None] * CHANNELS + step % parts * K + tl.arange(0, K)[None, :]
        features = tl.load(at, (source < rows_in)[:, None], 0.0)
        sums = tl.dot(features, weight.load([first, step * K]).T, sums)
    column = first + tl.arange(0, N)
    sums += tl.load(bias + column)[None, :]
    tl.store(out + row[:, None] * width_out + column[None, :], sums.to(out.dtype.element_ty), inside[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _gather_sum(x, table, bias, out, rows_in, rows_out, WIDTH: tl.constexpr, M: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.arange(0, WIDTH)[None, :]
    inside = row < rows_out
    x += tl.program_id(1).to(tl.int64) * rows_in * 27 * WIDTH
    out += tl.program_id(1).to(tl.int64) * rows_out * WIDTH
    sums = tl.zeros([M, WIDTH], tl.float32) + tl.load(bias + column)
    for offset in tl.range(0, 27):
        source = tl.load(table + row * 27 + offset, inside, rows_in)[:, None]
        sums += tl.load(x + (source * 27 + offset) * WIDTH + column, source < rows_in, 0.0)
    tl.store(out + row[:, None] * WIDTH + column, sums.to(out.dtype.element_ty), inside[:, None])


CONVOLUTION = 64, 128, 64, 4, 4
"""Voxels, output channels and input channels of a tile, warps, pipeline stages."""


def convolution(x: Tensor, table: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gather and matrix product in one kernel: (n, N, in) with table (M, 27), weight (out, 27 in) -> (n, M, out)."""
    n, rows_in, channels = x.shape
    out = x.new_empty(n, len(table), len(bias))
    rows, columns, depth, warps, loads = CONVOLUTION
    tile = TensorDescriptor(weight, list(weight.shape), list(weight.stride()), [columns, depth])
    _convolution[(triton.cdiv(len(table), rows), len(bias) // columns, n)](
        x, table, tile, bias, out, rows_in, len(table), len(bias),
        CHANNELS=channels, M=rows, N=columns, K=depth, num_warps=warps, num_stages=loads,
    )  # fmt: skip
    return out


def gather_sum(x: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """(n, N, 27, C) with table (M, 27) -> (n, M, C): bias + the sum over i of x[table[:, i], i]."""
    n, rows_in, _, width = x.shape
    out = x.new_empty(n, len(table), width)
    _gather_sum[(triton.cdiv(len(table), 16), n)](
        x, table, bias, out, rows_in, len(table), WIDTH=width, M=16, num_warps=4
    )
    return out

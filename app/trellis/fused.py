"""The memory-bound operations between matrix products: norms, modulation, residual sums, activation.

Each function has two implementations: torch operations, which define it and serve the CPU, and a Triton kernel
(`kernels.py`) that passes over memory once on a CUDA device. Both compute in float32, whatever the tensor's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from app import private_api

kernels: ModuleType | None
try:
    from app.trellis import kernels
except ImportError:  # a platform whose torch comes without Triton
    kernels = None


HEAD_WIDTHS = 32, 64, 128
"""Widths of a head that the attention kernel supports."""


def uses_kernels(x: Tensor) -> bool:
    """Whether the half-precision kernels and CUDA graphs are used for this tensor."""
    return x.is_cuda and x.dtype != torch.float32 and kernels is not None


def norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, *, silu: bool = False) -> Tensor:
    """LN(x) * scale + shift over the last axis, biased variance, then SiLU if asked for. Returns x's dtype.

    x: (..., C). scale, shift: (C,) or None for 1 and 0.
    """
    out = torch.empty_like(x)
    add_norm_(x, None, None, None, scale, shift, eps, out, silu=silu)
    return out


def add_norm_(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    constant: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    out: Tensor,
    *,
    silu: bool = False,
) -> None:
    """In place: x += gate * y + constant; then out = LN(x) * scale + shift. All (..., C) contiguous; the vectors (C,).

    y, gate or constant None: without that term or factor.
    """
    if x.is_cuda and kernels is not None:
        kernels.add_norm(x, y, gate, constant, scale, shift, eps, out, silu)
        return
    if y is not None:
        add_(x, y, gate)
    if constant is not None:
        x.add_(constant)
    values = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    values = values if scale is None else values * scale
    values = values if shift is None else values + shift
    out.copy_(F.silu(values) if silu else values)


def add_(x: Tensor, y: Tensor, gate: Tensor | None) -> None:
    """In place: x += gate * y. (..., C); gate (C,) or None."""
    if x.is_cuda and kernels is not None:
        kernels.add(x, y, gate)
    else:
        x.add_(y if gate is None else (gate * y).to(x.dtype))


def rms_norm_(x: Tensor, gammas: Sequence[Tensor]) -> None:
    """In place over the last axis: x / max(|x|, 1e-12) * gamma * sqrt(d).

    x: (rows, P, H, d), P is 1 or 2 (queries, keys), contiguous except for the first axis. gammas: P of (H, d), float32.
    """
    if x.is_cuda and kernels is not None:
        kernels.rms_norm(x, gammas)
        return
    for part, gamma in zip(x.unbind(1), gammas, strict=True):
        part.copy_(F.normalize(part.float(), dim=-1) * gamma * x.shape[-1] ** 0.5)


def attention(q: Tensor, k: Tensor, v: Tensor, length: Tensor | None) -> Tensor:
    """See `attention.attend`, which calls it only if `uses_kernels`."""
    assert kernels is not None
    out: Tensor = kernels.attention(q, k, v, length)
    return out


def convolution(x: Tensor, table: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """bias + the sum over the 27 neighbours i of weight_i x[table[:, i]]; zeros where the table holds N.

    x: (n, N, in), table: (M, 27), weight: (out, 27 in), bias: (out,) -> (n, M, out).
    """
    if uses_kernels(x) and kernels is not None and x.shape[-1] % 64 == 0 and len(bias) % 128 == 0:
        out: Tensor = kernels.convolution(x, table, weight, bias)
        return out
    return F.linear(gather(x, table).flatten(2), weight, bias)


def gather_sum(x: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    """bias + the sum over i of x[table[:, i], i]; N in the table reads zeros. (n, N, 27, C), (M, 27) -> (n, M, C)."""
    width = x.shape[-1]
    if uses_kernels(x) and kernels is not None and width & (width - 1) == 0:
        out: Tensor = kernels.gather_sum(x, table, bias)
        return out
    rows = table * 27 + torch.arange(27, device=table.device)
    picked = gather(x.flatten(1, 2), torch.where(table < x.shape[1], rows, 27 * x.shape[1]))
    return (picked.sum(2, dtype=torch.float32) + bias).to(x.dtype)


def gather(x: Tensor, table: Tensor) -> Tensor:
    """(n, N, C) at (M, K) -> (n, M, K, C), zeros where the table holds N."""
    return F.pad(x, (0, 0, 0, 1))[:, table]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(x W^t + b), tanh approximation."""
    if x.is_cuda and x.dtype != torch.float32:
        return private_api.linear_gelu(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")

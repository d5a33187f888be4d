"""Self-attention, cross-attention to keys and values computed once, windowed attention. Scale 1/sqrt(d), no mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from app.trellis import fused

BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attend(q: Tensor, k: Tensor, v: Tensor, length: Tensor | None = None) -> Tensor:
    """(n, T, H, d) queries, (n, L, H, d) keys and values -> (n, T, H*d).

    length: (1,) int32, the number of keys that are not padding; None: all.
    """
    if fused.uses_kernels(q) and q.shape[-1] in fused.HEAD_WIDTHS:
        return fused.attention(q, k, v, length)
    if length is not None:
        k, v = k[:, : int(length)], v[:, : int(length)]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(BACKENDS, set_priority=True):
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """Holds `gamma` (H, d), the scale of the norm over each head of queries or keys."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(heads, width))


class SelfAttention(nn.Module):
    """Attention among the tokens of a row."""

    def __init__(self, channels: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.q_rms_norm = RMSNorm(heads, channels // heads) if qk_norm else None
        self.k_rms_norm = RMSNorm(heads, channels // heads) if qk_norm else None

    def qkv(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3, H, d), queries and keys normalised if the model has such norms."""
        qkv: Tensor = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        if self.q_rms_norm and self.k_rms_norm:
            fused.rms_norm_(qkv.flatten(0, -4)[:, :2], (self.q_rms_norm.gamma, self.k_rms_norm.gamma))
        return qkv

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """(n, T, C) -> (n, T, C). length: (1,) int32; tokens from there on are padding."""
        q, k, v = self.qkv(x).unbind(2)
        return self.to_out(attend(q, k, v, length))


class CrossAttention(nn.Module):
    """Attention to the tokens of a context, whose keys and values are computed once per run."""

    def __init__(self, channels: int, context_channels: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.q_rms_norm = RMSNorm(heads, channels // heads) if qk_norm else None
        self.k_rms_norm = RMSNorm(heads, channels // heads) if qk_norm else None

    def keys_values(self, context: Tensor) -> Tensor:
        """(n, L, context channels) -> (n, L, 2, H, d)."""
        kv: Tensor = self.to_kv(context).unflatten(-1, (2, self.heads, -1))
        if self.k_rms_norm:
            fused.rms_norm_(kv.flatten(0, 1)[:, :1], (self.k_rms_norm.gamma,))
        return kv

    def zero_context_output(self) -> Tensor:
        """(C,) float32: the output for an all-zero context, which does not depend on the query: all keys are equal, and
        so are all values, namely the bias of `to_kv`."""
        value = self.to_kv.bias[self.to_q.out_features :]
        return self.to_out(value).float()

    def forward(self, x: Tensor, keys_values: Tensor) -> Tensor:
        """(n, T, C) with (n, L, 2, H, d) -> (n, T, C)."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        if self.q_rms_norm:
            fused.rms_norm_(q.flatten(0, 1)[:, None], (self.q_rms_norm.gamma,))
        return self.to_out(attend(q, *keys_values.unbind(2)))


class Windows:
    """A partition of voxels into cubes of width^3, the grid of cubes shifted by `shift`. Attention runs within a cube.

    coords: (N, 3) integers. order: (N,), the voxels sorted by cube.
    """

    def __init__(self, coords: Tensor, width: int, shift: int) -> None:
        cubes = ((coords.long() + shift) // width).unbind(1)
        side = int(coords.max()) // width + 2
        ids = (cubes[0] * side + cubes[1]) * side + cubes[2]
        ordered, self.order = torch.sort(ids, stable=True)
        self.sizes = torch.unique_consecutive(ordered, return_counts=True)[1].tolist()
        ends = torch.tensor([0, *self.sizes], device=coords.device).cumsum(0)
        self.cu_seqlens = ends.to(torch.int32)

    def attend(self, qkv: Tensor) -> Tensor:
        """(N, 3, H, d), rows in `order` -> (N, H*d), rows in the order of `coords`."""
        q, k, v = qkv.unbind(1)
        if qkv.is_cuda and qkv.dtype != torch.float32:
            longest = max(self.sizes)
            attended = varlen_attn(q, k, v, self.cu_seqlens, self.cu_seqlens, longest, longest)
            assert isinstance(attended, Tensor)
        else:
            groups = zip(*(torch.split(x, self.sizes) for x in (q, k, v)), strict=True)
            attended = torch.cat([attend(*(x[None] for x in group))[0] for group in groups])
        out = torch.empty_like(attended)
        out[self.order] = attended
        return out.flatten(1)

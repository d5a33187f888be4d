"""Layers that the models share: time and position embeddings, feed-forward, the modulated transformer block."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.attention import CrossAttention, SelfAttention
from app.trellis.params import FlowParams

EPS = 1e-6
"""Epsilon of the norms inside a block."""
FINAL_EPS = 1e-5
"""Epsilon of the norms before an output layer, and of those of the structure decoder."""


def exact_convolutions() -> AbstractContextManager[None]:
    """Deterministic convolutions; those in float32 do not use TF32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


class TimestepEmbedder(nn.Module):
    """Embeds a time (1000 t) as 256 sinusoids, cosines first, then two layers. Always float32."""

    def __init__(self, channels: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, channels), nn.SiLU(), nn.Linear(channels, channels))

    def sinusoid(self, t: Tensor) -> Tensor:
        """(S,) -> (S, 256)."""
        half = self.frequencies // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10_000) * steps / half)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, t: Tensor) -> Tensor:
        """(S,) -> (S, C)."""
        return self.mlp(self.sinusoid(t))


def position_embedding(coords: Tensor, channels: int) -> Tensor:
    """(T, 3) integer voxel indices -> (T, C) float32: for each axis sines, then cosines; padded with zeros to C."""
    count = channels // 3 // 2
    waves = 1.0 / 10_000 ** (torch.arange(count, dtype=torch.float32, device=coords.device) / count)
    angles = coords.float()[:, :, None] * waves
    embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return nn.functional.pad(embedding, (0, channels - embedding.shape[1]))


class FeedForward(nn.Module):
    """Two linear layers with a tanh GELU between them."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU("tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        widen, _, narrow = self.mlp
        assert isinstance(widen, nn.Linear)
        return narrow(fused.linear_gelu(x, widen.weight, widen.bias))


@dataclass(frozen=True)
class BlockContext:
    """What the cross-attention of one block needs for n branches.

    keys_values: (m, L, 2, H, d), of the first m branches. constant: (C,), the output for the last branch if its
    context is all-zero, else None.
    """

    keys_values: Tensor
    constant: Tensor | None

    @property
    def branches(self) -> int:
        return len(self.keys_values) + (self.constant is not None)


class ModulatedBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward. Time shifts, scales and gates the first and the last (adaLN)."""

    def __init__(self, p: FlowParams) -> None:
        super().__init__()
        channels = p.model_channels
        self.norm2 = nn.LayerNorm(channels)
        self.self_attn = SelfAttention(channels, p.heads, p.qk_rms_norm)
        self.cross_attn = CrossAttention(channels, p.cond_channels, p.heads, p.qk_rms_norm_cross)
        self.mlp = FeedForward(channels, p.mlp_ratio)
        self.adaLN_modulation = None if p.share_mod else modulation_head(channels, 6 * channels)

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        modulation: Tensor,
        context: BlockContext,
        length: Tensor | None,
        following: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """x: (n, T, C) with n branches, or (1, T, C) while the branches are still equal. Overwritten.

        h: x after the norm and the modulation of the self-attention. modulation: (6, C) float32: shift, 1 + scale and
        gate of the self-attention, then of the feed-forward. following: that of the next block, None in the last.
        length: (1,) int32, the number of tokens that are not padding; None: all.
        Returns x (n, T, C), and h for the next block.
        """
        _, _, gate1, shift2, scale2, gate2 = modulation
        y = self.self_attn(h, length)
        if len(x) < context.branches:  # from here on the branches differ
            x, y = (z.expand(context.branches, -1, -1).contiguous() for z in (x, y))
        h = torch.empty_like(x)
        m = len(context.keys_values)
        if m:
            fused.add_norm_(x[:m], y[:m], gate1, None, self.norm2.weight, self.norm2.bias, EPS, h[:m])
            attended = self.cross_attn(h[:m], context.keys_values)
            fused.add_norm_(x[:m], attended, None, None, scale2, shift2, EPS, h[:m])
        if context.constant is not None:
            fused.add_norm_(x[m:], y[m:], gate1, context.constant, scale2, shift2, EPS, h[m:])
        y = self.mlp(h)
        if following is None:
            fused.add_(x, y, gate2)
        else:
            fused.add_norm_(x, y, gate2, None, following[1], following[0], EPS, h)
        return x, h


def modulation_head(channels: int, out: int) -> nn.Sequential:
    """SiLU and a linear layer, whose key is `<name>.1`."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, out))

"""What the structure flow and the latent flow share: the transformer, and all that a run computes once before its steps.

Keys and values of the context, the modulation of every step and the constant answer to an all-zero context do not
depend on the state, so `bind` computes them and returns the velocity as a function of state and step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.trellis.layers import BlockContext, ModulatedBlock, TimestepEmbedder, modulation_head
from app.trellis.params import FlowParams


@dataclass(frozen=True)
class Context:
    """Conditions as each block sees them. keys_values: per block (m, L, 2, H, d) for the m conditions that are not all
    zero; `place` says where a condition stands among them, None for zeros; constants: per block (C,)."""

    keys_values: list[Tensor]
    constants: list[Tensor]
    place: tuple[int | None, ...]

    def choose(self, conditions: tuple[int, ...]) -> list[BlockContext]:
        """Per block, for these conditions in this order; one of zeros comes last."""
        places = [self.place[index] for index in conditions]
        rows = [place for place in places if place is not None]
        if None in places[:-1]:
            raise ValueError("a condition of zeros must come last")
        with_zeros = len(rows) < len(places)
        return [
            BlockContext(_rows(kv, rows), constant if with_zeros else None)
            for kv, constant in zip(self.keys_values, self.constants, strict=True)
        ]


def _rows(kv: Tensor, rows: list[int]) -> Tensor:
    consecutive = rows == list(range(rows[0], rows[0] + len(rows))) if rows else True
    return kv[rows[0] : rows[0] + len(rows)] if consecutive and rows else kv[rows]


class Transformer(nn.Module):
    """The blocks of a flow with the embedding of time; subclasses add what goes in and what comes out."""

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        channels = params.model_channels
        self.params = params
        self.t_embedder = TimestepEmbedder(channels)
        self.adaLN_modulation = modulation_head(channels, 6 * channels) if params.share_mod else None
        self.blocks = nn.ModuleList(
            ModulatedBlock(
                channels,
                params.cond_channels,
                params.heads,
                params.mlp_ratio,
                qk_norm=params.qk_rms_norm,
                qk_norm_cross=params.qk_rms_norm_cross,
                own_modulation=not params.share_mod,
            )
            for _ in range(params.num_blocks)
        )

    @property
    def torso(self) -> torch.dtype:
        """The type of the activations between input and output layer."""
        return self.blocks[0].self_attn.to_qkv.weight.dtype  # type: ignore[no-any-return,union-attr]

    def time_vectors(self, times: Sequence[float]) -> Tensor:
        """1000 t of each step -> (S, C) in the torso's type."""
        device = self.t_embedder.mlp[0].weight.device
        return self.t_embedder(torch.tensor(times, dtype=torch.float32, device=device)).to(self.torso)  # type: ignore[no-any-return]

    def modulation(self, vectors: Tensor) -> Tensor:
        """(S, C) -> (S, blocks, 6, C) float32: shift, 1 + scale, gate, twice."""
        heads = [self.adaLN_modulation or block.adaLN_modulation for block in self.blocks]
        rows = torch.stack([head(vectors).float() for head in heads], dim=1)  # type: ignore[operator]
        rows = rows.unflatten(-1, (6, -1))
        rows[:, :, [1, 4]] += 1
        return rows

    def context(self, conditions: Sequence[Tensor]) -> Context:
        """conditions: each (L, cond_channels), of one length."""
        zeros = [not bool(condition.any()) for condition in conditions]
        rows = [condition.to(self.torso) for condition, zero in zip(conditions, zeros, strict=True) if not zero]
        stacked = torch.stack(rows) if rows else conditions[0].new_empty(0, *conditions[0].shape, dtype=self.torso)
        numbers = iter(range(len(rows)))
        attentions = [block.cross_attn for block in self.blocks]
        return Context(
            [attention.keys_values(stacked) for attention in attentions],  # type: ignore[operator,union-attr]
            [attention.of_zeros() for attention in attentions],  # type: ignore[operator,union-attr]
            tuple(None if zero else next(numbers) for zero in zeros),
        )

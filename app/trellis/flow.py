"""What the structure flow and the latent flow share: the transformer, and what a run computes once before its steps.

Keys and values of the context, the modulation of every step and the constant answer to an all-zero context do not
depend on the state; so a flow's `bind` computes them and returns the velocity as a function of state and step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.graphs import Recorder
from app.trellis.layers import EPS, BlockContext, ModulatedBlock, TimestepEmbedder, modulation_head
from app.trellis.params import FlowParams


class Branches(NamedTuple):
    """The conditions that one call evaluates side by side: m with keys and values, then perhaps the one of zeros.

    keys_values: (blocks, m, L, 2, H, d). constants: (blocks, C), each block's answer to zeros, or None without these.
    """

    keys_values: Tensor
    constants: Tensor | None


PLACE = 0, 0
"""Of the keys and values among the held inputs of a recorded step: `Branches` come first there."""


class Context(NamedTuple):
    """All conditions of a run as the blocks see them.

    places: where each stands among the keys and values (see `Branches`), None for one of zeros.
    """

    keys_values: Tensor
    constants: Tensor
    places: Sequence[int | None]

    def choose(self, conditions: tuple[int, ...]) -> Branches:
        """These conditions, in this order; one of zeros must come last."""
        places = [self.places[index] for index in conditions]
        rows = [place for place in places if place is not None]
        if None in places[:-1]:
            raise ValueError(f"conditions {conditions}: the one of zeros must come last")
        everything = rows == list(range(self.keys_values.shape[1]))
        keys_values = self.keys_values if everything else self.keys_values[:, rows]
        return Branches(keys_values, self.constants if len(rows) < len(places) else None)


class Transformer(nn.Module):
    """The blocks of a flow with the embedding of time; subclasses add what goes in and what comes out."""

    blocks: Sequence[ModulatedBlock]

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        channels = params.model_channels
        self.t_embedder = TimestepEmbedder(channels)
        self.adaLN_modulation = modulation_head(channels, 6 * channels) if params.share_mod else None
        self.blocks = nn.ModuleList(ModulatedBlock(params) for _ in range(params.num_blocks))  # type: ignore[assignment]
        self.recorder = Recorder()

    @property
    def torso(self) -> torch.dtype:
        """The type of the activations between input and output layer."""
        return self.blocks[0].self_attn.to_qkv.weight.dtype

    @property
    def records(self) -> bool:
        """Whether steps are replayed as CUDA graphs: attention must find the number of tokens in device memory."""
        attention = self.blocks[0].self_attn
        width = attention.to_out.in_features // attention.heads
        return fused.on_gpu(attention.to_qkv.weight) and width in fused.HEAD_WIDTHS

    def time_vectors(self, times: Sequence[float]) -> Tensor:
        """1000 t of each step -> (S, C) in the torso's type."""
        t = torch.tensor(times, dtype=torch.float32, device=self.blocks[0].norm2.weight.device)
        vectors: Tensor = self.t_embedder(t)
        return vectors.to(self.torso)

    def modulation(self, vectors: Tensor) -> Tensor:
        """(S, C) -> (S, blocks, 6, C) float32: shift, 1 + scale, gate, twice."""
        heads = [block.adaLN_modulation or self.adaLN_modulation for block in self.blocks]
        rows = torch.stack([head(vectors).float() for head in heads if head], dim=1)
        rows = rows.reshape(*rows.shape[:2], 6, -1)
        rows[:, :, [1, 4]] += 1
        return rows

    def context(self, conditions: Sequence[Tensor]) -> Context:
        """conditions: each (L, cond_channels), of one length."""
        zeros = [not bool(condition.any()) for condition in conditions]
        rows = [condition.to(self.torso) for condition, zero in zip(conditions, zeros, strict=True) if not zero]
        stacked = torch.stack(rows) if rows else conditions[0].new_empty(0, *conditions[0].shape, dtype=self.torso)
        numbers = iter(range(len(rows)))
        attentions = [block.cross_attn for block in self.blocks]
        heads, width = attentions[0].heads, attentions[0].to_q.out_features // attentions[0].heads
        shape = (len(attentions), *stacked.shape[:2], 2, heads, width)
        keys_values = self.recorder.room(PLACE, shape, stacked)
        for row, attention in zip(keys_values, attentions, strict=True):
            row.copy_(attention.keys_values(stacked))
        return Context(
            keys_values,
            torch.stack([attention.of_zeros() for attention in attentions]),
            [None if zero else next(numbers) for zero in zeros],
        )

    def transform(self, x: Tensor, modulation: Tensor, branches: Branches, length: Tensor | None = None) -> Tensor:
        """x: (1, T, C), modulation: (blocks, 6, C), length: (1,) int32 number of true tokens -> (n, T, C)."""
        constants = [None] * len(self.blocks) if branches.constants is None else list(branches.constants)
        h = fused.norm(x, modulation[0, 1], modulation[0, 0], EPS)
        rows = zip(self.blocks, modulation, [*modulation[1:], None], branches.keys_values, constants, strict=True)
        for block, mine, following, keys_values, constant in rows:
            x, h = block(x, h, mine, BlockContext(keys_values, constant), length, following)
        return x

"""The transformer that the structure flow and the latent flow share.

A run calls a flow's `bind` once. It computes what does not depend on the state: keys and values of the conditions, the
modulation of every step, and the constant output of cross-attention for an all-zero condition. It returns `velocity`, a
function of (state, step, conditions), which the sampler calls once per step. On a GPU, `velocity` goes through a
`GraphCache`, which replays the flow's method of that name; that method embeds the state, calls `Transformer.transform`,
and projects the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.graphs import GraphCache
from app.trellis.layers import EPS, BlockContext, ModulatedBlock, TimestepEmbedder, modulation_head
from app.trellis.params import FlowParams


class Branches(NamedTuple):
    """The conditions that one call evaluates as a batch: m with keys and values, then perhaps the all-zero one.

    keys_values: (blocks, m, L, 2, H, d). constants: (blocks, C), the output of each block's cross-attention for the
    all-zero condition; None if it is not among them.
    """

    keys_values: Tensor
    constants: Tensor | None


KEYS_VALUES_PATH = 0, 0
"""Where the keys and values are among the static inputs of a captured step: `Branches` is the first of them."""


class Context(NamedTuple):
    """All conditions of a run, as the blocks need them.

    rows: the row of each condition in `keys_values` (see `Branches`), None for an all-zero one.
    """

    keys_values: Tensor
    constants: Tensor
    rows: Sequence[int | None]

    def select(self, conditions: tuple[int, ...]) -> Branches:
        """These conditions in this order. An all-zero one must come last; raises ValueError otherwise."""
        selected = [self.rows[index] for index in conditions]
        rows = [row for row in selected if row is not None]
        if None in selected[:-1]:
            raise ValueError(f"conditions {conditions}: the all-zero one must come last")
        everything = rows == list(range(self.keys_values.shape[1]))
        keys_values = self.keys_values if everything else self.keys_values[:, rows]
        return Branches(keys_values, self.constants if len(rows) < len(selected) else None)


class Transformer(nn.Module):
    """The blocks of a flow and the embedding of time. Subclasses add the input and output layers."""

    blocks: Sequence[ModulatedBlock]

    def __init__(self, params: FlowParams) -> None:
        super().__init__()
        channels = params.model_channels
        self.t_embedder = TimestepEmbedder(channels)
        self.adaLN_modulation = modulation_head(channels, 6 * channels) if params.share_mod else None
        self.blocks = nn.ModuleList(ModulatedBlock(params) for _ in range(params.num_blocks))  # type: ignore[assignment]
        self.graphs = GraphCache()

    @property
    def torso(self) -> torch.dtype:
        """The dtype of the activations between the input and the output layer."""
        return self.blocks[0].self_attn.to_qkv.weight.dtype

    @property
    def uses_graphs(self) -> bool:
        """Whether steps are replayed as CUDA graphs: only our attention kernel reads the token count on the device."""
        attention = self.blocks[0].self_attn
        width = attention.to_out.in_features // attention.heads
        return fused.uses_kernels(attention.to_qkv.weight) and width in fused.HEAD_WIDTHS

    def time_embeddings(self, times: Sequence[float]) -> Tensor:
        """1000 t of each step -> (S, C) in the torso's dtype."""
        t = torch.tensor(times, dtype=torch.float32, device=self.blocks[0].norm2.weight.device)
        vectors: Tensor = self.t_embedder(t)
        return vectors.to(self.torso)

    def modulation(self, vectors: Tensor) -> Tensor:
        """(S, C) -> (S, blocks, 6, C) float32: shift, 1 + scale and gate of self-attention, then of feed-forward."""
        heads = [block.adaLN_modulation or self.adaLN_modulation for block in self.blocks]
        # a shared head is float32 like the embedder, a block's is of the torso's type
        each = [head(vectors.to(next(head.parameters()).dtype)) for head in heads if head]
        rows = torch.stack([row.float() for row in each], dim=1)
        rows = rows.reshape(*rows.shape[:2], 6, -1)
        rows[:, :, [1, 4]] += 1
        return rows

    def context(self, conditions: Sequence[Tensor]) -> Context:
        """conditions: (L, cond_channels) each, all of the same length."""
        zeros = [not bool(condition.any()) for condition in conditions]
        rows = [condition.to(self.torso) for condition, zero in zip(conditions, zeros, strict=True) if not zero]
        stacked = torch.stack(rows) if rows else conditions[0].new_empty(0, *conditions[0].shape, dtype=self.torso)
        numbers = iter(range(len(rows)))
        attentions = [block.cross_attn for block in self.blocks]
        heads, width = attentions[0].heads, attentions[0].to_q.out_features // attentions[0].heads
        shape = (len(attentions), *stacked.shape[:2], 2, heads, width)
        keys_values = self.graphs.allocate(KEYS_VALUES_PATH, shape, stacked)
        for row, attention in zip(keys_values, attentions, strict=True):
            row.copy_(attention.keys_values(stacked))
        return Context(
            keys_values,
            torch.stack([attention.zero_context_output() for attention in attentions]),
            [None if zero else next(numbers) for zero in zeros],
        )

    def transform(self, x: Tensor, modulation: Tensor, branches: Branches, length: Tensor | None = None) -> Tensor:
        """x: (1, T, C), modulation: (blocks, 6, C), length: (1,) int32, tokens that are not padding -> (n, T, C)."""
        constants = [None] * len(self.blocks) if branches.constants is None else list(branches.constants)
        h = fused.norm(x, modulation[0, 1], modulation[0, 0], EPS)
        rows = zip(self.blocks, modulation, [*modulation[1:], None], branches.keys_values, constants, strict=True)
        for block, mine, following, keys_values, constant in rows:
            x, h = block(x, h, mine, BlockContext(keys_values, constant), length, following)
        return x

"""Stage two: a latent vector for each occupied voxel. The flow's transformer runs on a grid of half the resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.flow import Branches, Transformer
from app.trellis.layers import FINAL_EPS, position_embedding
from app.trellis.params import LatentFlowParams
from app.trellis.samplers import Velocity
from app.trellis.sparse import Levels, SparseResBlock, pad_rows

PADDING = 2048, 128
"""Voxels and tokens are padded to multiples of these. A token takes a hundred times the arithmetic of a voxel."""


class Sites(NamedTuple):
    """What the flow needs to know of an object's voxels.

    positions: (T, C), the position embedding of the tokens. length: (1,) int32, how many of them are not padding; None
    if none is.
    """

    levels: Levels
    positions: Tensor
    length: Tensor | None


class LatentFlow(Transformer):
    """Velocity of latents (N, in) on N voxels of one object."""

    def __init__(self, params: LatentFlowParams) -> None:
        super().__init__(params)
        self.params = params
        wide, narrow = params.model_channels, (params.io_block_channels or (params.model_channels,))[0]
        doubled = 2 if params.use_skip_connection else 1
        self.input_layer = nn.Linear(params.in_channels, narrow)
        self.input_blocks, self.out_blocks = nn.ModuleList(), nn.ModuleList()
        if params.io_block_channels:
            same = range(params.num_io_res_blocks - 1)
            self.input_blocks.extend(SparseResBlock(narrow, narrow, wide) for _ in same)
            self.input_blocks.append(SparseResBlock(narrow, wide, wide, resample="down"))
            self.out_blocks.append(SparseResBlock(wide * doubled, narrow, wide, resample="up"))
            self.out_blocks.extend(SparseResBlock(narrow * doubled, narrow, wide) for _ in same)
        self.out_layer = nn.Linear(narrow, params.out_channels)

    def bind(self, coords: Tensor, conditions: Sequence[Tensor], times: Sequence[float]) -> Velocity:
        """coords: (N, 3) voxels. conditions: each (L, cond_channels). times: 1000 t of every step of the run.

        The velocity maps a state (N, in) to (n, N, out), one for each of the n conditions asked for.
        """
        vectors = self.time_embeddings(times)
        modulation = self.modulation(vectors)
        residual = [block.modulation(vectors) for block in (*self.input_blocks, *self.out_blocks)]
        context = self.context(conditions)
        sites = self.sites(coords)
        static: dict[tuple[int, ...], tuple[Branches, Sites]] = {}

        def velocity(state: Tensor, step: int, chosen: tuple[int, ...]) -> Tensor:
            rows = pad_rows(state, len(sites.levels.neighbours))
            inputs = rows, modulation[step], tuple(table[step] for table in residual)
            selected = static.setdefault(chosen, (context.select(chosen), sites))
            if self.uses_graphs:
                found = self.graphs(self.velocity, inputs, selected)
            else:
                found = self.velocity(*inputs, *selected)
            return found[:, : len(coords)].clone()

        return velocity

    def velocity(
        self, state: Tensor, modulation: Tensor, residual: tuple[Tensor, ...], branches: Branches, sites: Sites
    ) -> Tensor:
        """One step: state (N, in), modulation (blocks, 6, C), residual: (2, out) a residual block -> (n, N, out)."""
        modulations, skips = iter(residual), []
        x = self.input_layer(state[None]).to(self.torso)
        for block in self.input_blocks:
            x = block(x, next(modulations), sites.levels)
            skips.append(x)
        x = self.transform(x + sites.positions, modulation, branches, sites.length)
        for block in self.out_blocks:
            if self.params.use_skip_connection:
                x = torch.cat([x, skips.pop().expand(len(x), -1, -1)], dim=-1)
            x = block(x, next(modulations), sites.levels)
        x = fused.norm(x, None, None, FINAL_EPS)
        return self.out_layer(x.to(state.dtype))

    def sites(self, coords: Tensor) -> Sites:
        """Tables for voxels (N, 3), padded if steps are captured, so that objects of similar size share a graph."""
        fine, coarse = PADDING if self.uses_graphs else (1, 1)
        levels, cells = Levels.build(coords, fine, coarse)
        tokens = cells if self.params.io_block_channels else coords
        rows = len(levels.children) if self.params.io_block_channels else len(levels.neighbours)
        positions = position_embedding(tokens, self.params.model_channels).to(self.torso)
        length = torch.tensor([len(tokens)], dtype=torch.int32, device=coords.device) if self.uses_graphs else None
        return Sites(levels, pad_rows(positions, rows), length)

    def forward(self, coords: Tensor, feats: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """coords: (T, 4) rows (b, x, y, z), feats: (T, in), t: (B,) 1000 times the time, cond: (B, L, cond_channels)
        -> (T, out)."""
        velocities = []
        for row, (time, condition) in enumerate(zip(t.tolist(), cond, strict=True)):
            mine = coords[:, 0] == row
            velocities.append(self.bind(coords[mine, 1:], [condition], [time])(feats[mine], 0, (0,))[0])
        return torch.cat(velocities)

"""Stage two: a latent vector for each occupied voxel. A flow on the voxels, its transformer on a grid half as fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.trellis.flow import Transformer
from app.trellis.layers import FINAL_EPS, position_embedding
from app.trellis.params import LatentFlowParams
from app.trellis.samplers import Velocity
from app.trellis.sparse import Halving, Sites, SparseResBlock


class LatentFlow(Transformer):
    """Velocity of latents (N, in) on N voxels of one object."""

    params: LatentFlowParams

    def __init__(self, params: LatentFlowParams) -> None:
        super().__init__(params)
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
        vectors = self.time_vectors(times)
        modulation = self.modulation(vectors)
        before, after = (
            [block.modulation(vectors) for block in blocks] for blocks in (self.input_blocks, self.out_blocks)
        )  # type: ignore[operator]
        context = self.context(conditions)
        levels = Halving.of(Sites.at(coords))
        places = levels.coarse.coords if self.params.io_block_channels else levels.fine.coords
        place = position_embedding(places, self.params.model_channels).to(self.torso)

        def velocity(state: Tensor, step: int, chosen: tuple[int, ...]) -> Tensor:
            x = self.input_layer(state[None]).to(self.torso)
            skips = []
            for block, rows in zip(self.input_blocks, before, strict=True):
                x = block(x, rows[step], levels)
                skips.append(x)
            x = x + place
            for block, modulated, branches in zip(self.blocks, modulation[step], context.choose(chosen), strict=True):
                x = block(x, modulated, branches)
            for block, rows in zip(self.out_blocks, after, strict=True):
                if self.params.use_skip_connection:
                    x = torch.cat([x, skips.pop().expand(len(x), -1, -1)], dim=-1)
                x = block(x, rows[step], levels)
            x = F.layer_norm(x.float(), x.shape[-1:], eps=FINAL_EPS).to(self.torso)
            return self.out_layer(x.to(state.dtype))  # type: ignore[no-any-return]

        return velocity

    def forward(self, coords: Tensor, feats: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """coords: (T, 4) rows (b, x, y, z), feats: (T, in), t: (B,) 1000 times the time, cond: (B, L, cond_channels)
        -> (T, out)."""
        velocities = []
        for row, (time, condition) in enumerate(zip(t.tolist(), cond, strict=True)):
            mine = coords[:, 0] == row
            velocities.append(self.bind(coords[mine, 1:], [condition], [time])(feats[mine], 0, (0,))[0])
        return torch.cat(velocities)

"""Stage one: the occupied voxels, by a flow over a dense latent volume and a decoder to occupancy logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.errors import StageFailed
from app.reason import Reason
from app.trellis.flow import Branches, Transformer
from app.trellis.layers import FINAL_EPS, exact_convolutions
from app.trellis.params import StructureDecoderParams, StructureFlowParams
from app.trellis.samplers import Velocity


class NoVoxel(StageFailed):
    """A structure has no occupied voxel."""


class StructureFlow(Transformer):
    """Velocity of a latent volume (in, R, R, R). Each patch of p^3 cells is one token, x slowest."""

    pos_emb: Tensor

    def __init__(self, params: StructureFlowParams) -> None:
        super().__init__(params)
        self.params = params
        patch = params.patch_size**3
        self.register_buffer(
            "pos_emb", torch.empty((params.resolution // params.patch_size) ** 3, params.model_channels)
        )
        self.input_layer = nn.Linear(params.in_channels * patch, params.model_channels)
        self.out_layer = nn.Linear(params.model_channels, params.out_channels * patch)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a state."""
        return (self.params.in_channels, *[self.params.resolution] * 3)

    def bind(self, conditions: Sequence[Tensor], times: Sequence[float]) -> Velocity:
        """conditions: each (L, cond_channels). times: 1000 t of every step of the run.

        The velocity maps a state (in, R, R, R) to (n, out, R, R, R), one for each of the n conditions asked for.
        """
        modulation = self.modulation(self.time_embeddings(times))
        context = self.context(conditions)
        static: dict[tuple[int, ...], tuple[Branches]] = {}

        def velocity(state: Tensor, step: int, chosen: tuple[int, ...]) -> Tensor:
            inputs, selected = (state, modulation[step]), static.setdefault(chosen, (context.select(chosen),))
            if self.uses_graphs:
                return self.graphs(self.velocity, inputs, selected).clone()
            return self.velocity(*inputs, *selected)

        return velocity

    def velocity(self, state: Tensor, modulation: Tensor, branches: Branches) -> Tensor:
        """One step: state (in, R, R, R), modulation (blocks, 6, C) -> (n, out, R, R, R)."""
        x = self.input_layer(patchify(state[None], self.params.patch_size)) + self.pos_emb
        x = self.transform(x.to(self.torso), modulation, branches)
        x = F.layer_norm(x.to(state.dtype), x.shape[-1:], eps=FINAL_EPS)
        return unpatchify(self.out_layer(x), self.params.patch_size, self.params.resolution)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x: (B, in, R, R, R), t: (B,) 1000 times the time, cond: (B, L, cond_channels) -> (B, out, R, R, R)."""
        rows = zip(x, t.tolist(), cond, strict=True)
        return torch.cat([self.bind([condition], [time])(state, 0, (0,)) for state, time, condition in rows])


def patchify(volume: Tensor, p: int) -> Tensor:
    """(B, C, R, R, R) -> (B, (R/p)^3, C p^3); a token's channels are ordered (c, i, j, k)."""
    b, c, r = volume.shape[:3]
    cells = volume.reshape(b, c, r // p, p, r // p, p, r // p, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return cells.reshape(b, (r // p) ** 3, c * p**3)


def unpatchify(tokens: Tensor, p: int, resolution: int) -> Tensor:
    """The inverse of `patchify`: (B, (R/p)^3, C p^3) -> (B, C, R, R, R)."""
    b, g = len(tokens), resolution // p
    cells = tokens.reshape(b, g, g, g, -1, p, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return cells.reshape(b, -1, resolution, resolution, resolution)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each voxel of (B, C, X, Y, Z), float32 inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=FINAL_EPS)

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 4, 1).float()
        normed = F.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype).permute(0, 4, 1, 2, 3)


def conv(channels: int, out: int) -> nn.Conv3d:
    return nn.Conv3d(channels, out, 3, padding=1)


class ResBlock(nn.Module):
    """Two convolutions, each after a norm, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(h))) + x


class Upsample(nn.Module):
    """A convolution to eight times the channels, which become 2 x 2 x 2 voxels (pixel shuffle)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = conv(channels, out * 8)

    def forward(self, x: Tensor) -> Tensor:
        b, _, r = x.shape[:3]
        cells = self.conv(x).reshape(b, -1, 2, 2, 2, r, r, r).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return cells.reshape(b, -1, 2 * r, 2 * r, 2 * r)


class StructureDecoder(nn.Module):
    """Latent volume (B, latent, r, r, r) -> occupancy logits (B, 1, R, R, R), float32; R = r 2^(levels - 1)."""

    def __init__(self, params: StructureDecoderParams) -> None:
        super().__init__()
        self.params = params
        widths = params.channels
        self.input_layer = conv(params.latent_channels, widths[0])
        self.middle_block = nn.Sequential(*(ResBlock(widths[0]) for _ in range(params.num_res_blocks_middle)))
        blocks: list[nn.Module] = []
        for level, width in enumerate(widths):
            blocks += [ResBlock(width) for _ in range(params.num_res_blocks)]
            blocks += [Upsample(width, narrower) for narrower in widths[level + 1 : level + 2]]
        self.blocks = nn.ModuleList(blocks)
        self.out_layer = nn.Sequential(ChannelNorm(widths[-1]), nn.SiLU(), conv(widths[-1], params.out_channels))

    def forward(self, z: Tensor) -> Tensor:
        layout = torch.channels_last_3d if z.is_cuda else torch.contiguous_format
        with exact_convolutions():
            x = self.middle_block(self.input_layer(z).to(self.torso).contiguous(memory_format=layout))
            for block in self.blocks:
                x = block(x)
            return self.out_layer(x.to(z.dtype))

    @property
    def torso(self) -> torch.dtype:
        """The dtype of the activations between the input and the output layer."""
        return next(weight.dtype for name, weight in self.blocks.named_parameters() if "conv" in name)


def occupied(logits: Tensor) -> Tensor:
    """(B, 1, R, R, R) -> (T, 4) int32 rows (b, x, y, z) where the logit is above 0, in lexicographic order.

    Raises NoVoxel if a batch element has none.
    """
    coords = torch.argwhere(logits[:, 0] > 0).int()
    if empty := sorted(set(range(len(logits))) - set(coords[:, 0].tolist())):
        raise NoVoxel(Reason("no_voxel", {"sample": empty[0], "logit": float(logits[empty[0]].max())}))
    return coords

"""Features on occupied voxels: neighbour tables, submanifold convolution, halving and doubling of the resolution.

Coordinates never change during a run, so tables are built once and the features are plain tensors (n, N, C): n branches
over the same N voxels. An index of N in a table means "none" and reads zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.layers import EPS, modulation_head


@dataclass(frozen=True)
class Sites:
    """coords: (N, 3) voxels, all different. neighbours: (N, 27) rows of the voxels at p + (i-1, j-1, k-1), i slowest."""

    coords: Tensor
    neighbours: Tensor

    @classmethod
    def at(cls, coords: Tensor) -> Sites:
        """The sites with their neighbour table, by way of a dense index volume with a margin of one voxel."""
        coords = coords.long()
        n, side = len(coords), int(coords.max()) + 3
        volume = torch.full((side**3,), n, device=coords.device)
        flat = ((coords[:, 0] + 1) * side + coords[:, 1] + 1) * side + coords[:, 2] + 1
        volume[flat] = torch.arange(n, device=coords.device)
        axis = torch.arange(-1, 2, device=coords.device)
        offsets = ((axis[:, None, None] * side + axis[:, None]) * side + axis).flatten()
        return cls(coords, volume[flat[:, None] + offsets])


@dataclass(frozen=True)
class Halving:
    """From fine sites to sites of twice the voxel size, sorted lexicographically.

    parents: (N,) coarse row of each fine one. children: (T, 8) fine rows of each coarse one.
    """

    fine: Sites
    coarse: Sites
    parents: Tensor
    children: Tensor

    @classmethod
    def of(cls, fine: Sites) -> Halving:
        side = int(fine.coords.max()) // 2 + 1
        cells = fine.coords // 2
        keys = (cells[:, 0] * side + cells[:, 1]) * side + cells[:, 2]
        unique, parents = torch.unique(keys, return_inverse=True)
        coords = torch.stack([unique // side**2, unique // side % side, unique % side], dim=1)
        corner = (fine.coords % 2) @ torch.tensor([4, 2, 1], device=keys.device)
        children = torch.full((len(unique), 8), len(keys), device=keys.device)
        children[parents, corner] = torch.arange(len(keys), device=keys.device)
        return cls(fine, Sites.at(coords), parents, children)

    def down(self, x: Tensor) -> Tensor:
        """(n, N, C) -> (n, T, C): the sum of the children over (their number + 1); the + 1 is what the weights know."""
        count = (self.children < len(self.parents)).sum(1, keepdim=True)
        return (gather(x, self.children).sum(2, dtype=torch.float32) / (count + 1)).to(x.dtype)

    def up(self, x: Tensor) -> Tensor:
        """(n, T, C) -> (n, N, C): each child has its parent's features."""
        return x[:, self.parents]

    @property
    def upward(self) -> Tensor:
        """(N, 27): a convolution on the fine sites of features that still lie on the coarse ones."""
        return F.pad(self.parents, (0, 1), value=len(self.children))[self.fine.neighbours]


def gather(x: Tensor, table: Tensor) -> Tensor:
    """(n, N, C) at (M, K) -> (n, M, K, C), zeros where the table says N."""
    return F.pad(x, (0, 0, 0, 1))[:, table]


class Kernel(nn.Module):
    """Holds `weight` (out, 3, 3, 3, in) and `bias` (out,)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, 3, 3, 3, channels))
        self.bias = nn.Parameter(torch.empty(out))


class SubmanifoldConv(nn.Module):
    """3 x 3 x 3 cross-correlation at the occupied voxels alone; empty ones count as zero."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Kernel(channels, out)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(n, N, in) with table (M, 27) -> (n, M, out). Gathers on the narrower side of the matrix product."""
        weight, bias = self.conv.weight, self.conv.bias
        out, channels = weight.shape[0], weight.shape[-1]
        if channels <= out:
            return F.linear(gather(x, table).flatten(2), weight.view(out, -1), bias)
        each = F.linear(x, weight.view(out, 27, channels).transpose(0, 1).reshape(27 * out, channels))
        rows = F.pad(each.unflatten(-1, (27, out)), (0, 0, 0, 0, 0, 1)).flatten(1, 2)
        picked = rows[:, table * 27 + torch.arange(27, device=table.device)]
        return (picked.sum(2, dtype=torch.float32) + bias).to(x.dtype)


class SparseResBlock(nn.Module):
    """Two convolutions, the second modulated by time, beside a skip; may halve or double the resolution first."""

    def __init__(self, channels: int, out: int, time_channels: int, *, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.LayerNorm(channels)
        self.conv1, self.conv2 = SubmanifoldConv(channels, out), SubmanifoldConv(out, out)
        self.emb_layers = modulation_head(time_channels, 2 * out)
        self.skip_connection = nn.Linear(channels, out) if channels != out else nn.Identity()

    def modulation(self, vectors: Tensor) -> Tensor:
        """Time vectors (S, C) -> (S, 2, out) float32: 1 + scale, shift."""
        rows: Tensor = self.emb_layers(vectors).float().unflatten(-1, (2, -1))
        rows[:, 0] += 1
        return rows

    def forward(self, x: Tensor, modulation: Tensor, levels: Halving) -> Tensor:
        """x: (n, sites, in) on the fine sites, or the coarse ones for "up". modulation: (2, out) float32."""
        sites, table = levels.fine, levels.fine.neighbours
        if self.resample == "down":
            x, sites, table = levels.down(x), levels.coarse, levels.coarse.neighbours
        if self.resample == "up":  # norm, skip and first product commute with it: done on the coarse sites
            table = levels.upward
        scale, shift = modulation
        h = self.conv1(fused.norm(x, self.norm1.weight, self.norm1.bias, EPS, silu=True), table)
        h = self.conv2(fused.norm(h, scale, shift, EPS, silu=True), sites.neighbours)
        skip = self.skip_connection(x)
        return h + (levels.up(skip) if self.resample == "up" else skip)  # type: ignore[no-any-return]

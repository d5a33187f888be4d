"""Features on occupied voxels: neighbour tables, submanifold convolution, down- and upsampling by two.

Coordinates do not change during a run, so the tables are built once and features are plain tensors (n, N, C): n
branches on the same N voxels. The index N in a table means "no voxel" and reads zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.trellis import fused
from app.trellis.layers import EPS, modulation_head


class Levels(NamedTuple):
    """Tables for N voxels, and for the T cells of 2 x 2 x 2 voxels that contain them, sorted lexicographically.

    neighbours: (N, 27), rows of the voxels at p + (i-1, j-1, k-1), i slowest. coarse_neighbours: (T, 27), of the cells.
    parents: (N,), the cell of each voxel. children: (T, 8), the voxels of each cell. divisor: (T, 1), their count + 1.
    upward: (N, 27), the cells of a voxel's neighbours: for a convolution at the voxels over features of the cells.
    """

    neighbours: Tensor
    coarse_neighbours: Tensor
    parents: Tensor
    children: Tensor
    divisor: Tensor
    upward: Tensor

    @classmethod
    def build(cls, coords: Tensor, fine: int = 1, coarse: int = 1) -> tuple[Levels, Tensor]:
        """For voxels (N, 3), all different. Also returns the coordinates (T, 3) of the cells.

        The tables are padded to multiples of `fine` and `coarse` rows with copies of the last voxel and the last cell.
        Results in padding rows are not used; they are finite if those of the last voxel and cell are.
        """
        coords = coords.long()
        side, cells = int(coords.max()) // 2 + 1, coords // 2
        keys, parents = torch.unique(flat_index(cells, side), return_inverse=True)
        cells = torch.stack([keys // side**2, keys // side % side, keys % side], dim=1)
        n, t = -(-len(coords) // fine) * fine, -(-len(cells) // coarse) * coarse
        corner = flat_index(coords % 2, 2)
        children = torch.full((len(cells), 8), n, device=coords.device)
        children[parents, corner] = torch.arange(len(coords), device=coords.device)
        children, parents, table = pad_rows(children, t), pad_rows(parents, n), neighbours(coords, n)
        upward = F.pad(parents, (0, 1), value=t)[table]
        divisor = (children < n).sum(1, keepdim=True) + 1
        return cls(table, neighbours(cells, t), parents, children, divisor, upward), cells

    def down(self, x: Tensor) -> Tensor:
        """(n, N, C) -> (n, T, C): the sum of the children over (their count + 1), as in training."""
        return (fused.gather(x, self.children).sum(2, dtype=torch.float32) / self.divisor).to(x.dtype)

    def up(self, x: Tensor) -> Tensor:
        """(n, T, C) -> (n, N, C): each voxel gets the features of its cell."""
        return x.index_select(1, self.parents)


def flat_index(coords: Tensor, side: int) -> Tensor:
    """(N, 3) -> (N,) row-major index in a volume of side^3."""
    return (coords[:, 0] * side + coords[:, 1]) * side + coords[:, 2]


def neighbours(coords: Tensor, rows: int) -> Tensor:
    """(N, 3) -> (rows, 27), through a dense index volume with a margin of one voxel; the index `rows` means "none"."""
    side = int(coords.max()) + 3
    volume = torch.full((side**3,), rows, device=coords.device)
    volume[flat_index(coords + 1, side)] = torch.arange(len(coords), device=coords.device)
    axis = torch.arange(-1, 2, device=coords.device)
    around = flat_index(torch.cartesian_prod(axis, axis, axis), side)
    table = volume[flat_index(coords + 1, side)[:, None] + around]
    return pad_rows(table, rows)


def pad_rows(x: Tensor, rows: int) -> Tensor:
    """(N, ...) -> (rows, ...), the last row repeated."""
    return torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])])


class ConvKernel(nn.Module):
    """Holds `weight` (out, 3, 3, 3, in) and `bias` (out,)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, 3, 3, 3, channels))
        self.bias = nn.Parameter(torch.empty(out))


class SubmanifoldConv(nn.Module):
    """3 x 3 x 3 cross-correlation, evaluated at the occupied voxels only. Empty voxels count as zero."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = ConvKernel(channels, out)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(n, N, in) with table (M, 27) -> (n, M, out). A wide input is multiplied before the gather."""
        weight, bias = self.conv.weight, self.conv.bias
        out, channels = weight.shape[0], weight.shape[-1]
        if channels <= 2 * out:
            return fused.convolution(x, table, weight.view(out, -1), bias)
        each = F.linear(x, weight.view(out, 27, channels).transpose(0, 1).reshape(27 * out, channels))
        return fused.gather_sum(each.view(*x.shape[:2], 27, out), table, bias)


class SparseResBlock(nn.Module):
    """Two convolutions, the second modulated by time, and a skip connection. `resample` is "down", "up" or ""."""

    def __init__(self, channels: int, out: int, time_channels: int, *, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.LayerNorm(channels)
        self.conv1, self.conv2 = SubmanifoldConv(channels, out), SubmanifoldConv(out, out)
        self.emb_layers = modulation_head(time_channels, 2 * out)
        self.skip_connection = nn.Linear(channels, out) if channels != out else nn.Identity()

    def modulation(self, vectors: Tensor) -> Tensor:
        """Time vectors (S, C) -> (S, 2, out) float32: 1 + scale, shift."""
        rows: Tensor = self.emb_layers(vectors).float().reshape(len(vectors), 2, -1)
        rows[:, 0] += 1
        return rows

    def forward(self, x: Tensor, modulation: Tensor, levels: Levels) -> Tensor:
        """x: (n, N, in) at the voxels, or (n, T, in) at the cells for "up". modulation: (2, out) float32."""
        first = second = levels.neighbours
        if self.resample == "down":
            x, first, second = levels.down(x), levels.coarse_neighbours, levels.coarse_neighbours
        if self.resample == "up":  # norm, skip and products commute with upsampling, so they run on the cells
            first = levels.upward
        scale, shift = modulation
        h = self.conv1(fused.norm(x, self.norm1.weight, self.norm1.bias, EPS, silu=True), first)
        h = self.conv2(fused.norm(h, scale, shift, EPS, silu=True), second)
        skip = self.skip_connection(x)
        return h + (levels.up(skip) if self.resample == "up" else skip)

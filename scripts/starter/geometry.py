"""Surfaces as the models see them: occupied voxels, what is nearest to a place, and where the Gaussians should lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starter.world import FRACTION

NEAR = 32
"""Surface samples that are looked at in a voxel: about as many as there are."""
WIDEST = 0.22
"""Voxels: where a voxel has few samples, they are a surface's rim, not a thin cover of all of it."""
SUBCELLS = 2
FEATURES = SUBCELLS**3 * 9


@dataclass(frozen=True)
class Voxels:
    """The occupied voxels of B objects: coords (T, 4) rows (b, x, y, z), sorted; the samples of each (T, NEAR).

    Samples: points (B P, 3) in [0, 1], normals, colours in [0, 1]. spacing: (T,) between a voxel's samples, as lengths.
    """

    coords: Tensor
    samples: Tensor
    points: Tensor
    normals: Tensor
    colours: Tensor
    spacing: Tensor
    resolution: int

    def take(self, rows: Tensor) -> Voxels:
        """These voxels alone."""
        picked = self.coords[rows], self.samples[rows]
        return Voxels(*picked, self.points, self.normals, self.colours, self.spacing[rows], self.resolution)


def voxels(batch: dict[str, Tensor], resolution: int) -> Voxels:
    """Of the fields "points", "normals" and "colours" of a pool, whose samples are sorted by voxel."""
    points = batch["points"].float() / FRACTION
    flat = _flat((points * resolution).long().clamp(0, resolution - 1), resolution)
    keys = (flat + torch.arange(len(flat), device=flat.device)[:, None] * resolution**3).flatten()
    places = torch.argsort(keys, stable=True)  # rounding to the file's precision moves a few samples
    found, counts = torch.unique_consecutive(keys[places], return_counts=True)
    starts = counts.cumsum(0) - counts
    share = torch.arange(NEAR, device=keys.device) / NEAR
    samples = places[starts[:, None] + (share * counts[:, None]).long()]
    inside = found % resolution**3
    coords = torch.stack(
        [found // resolution**3, inside // resolution**2, inside // resolution % resolution, inside % resolution], dim=1
    )
    return Voxels(
        coords,
        samples,
        points.flatten(0, 1),
        batch["normals"].float().flatten(0, 1) / 127,
        batch["colours"].float().flatten(0, 1) / 255,
        (1 / counts.sqrt()).clamp(max=WIDEST) / resolution,
        resolution,
    )


def occupancy(batch: dict[str, Tensor], resolution: int) -> Tensor:
    """(B, 1, R, R, R) float32, 1 where a surface sample lies."""
    cells = (batch["points"].float() / FRACTION * resolution).long().clamp(0, resolution - 1)
    volume = torch.zeros(len(cells), resolution**3, device=cells.device)
    return volume.scatter_(1, _flat(cells, resolution), 1.0).view(-1, 1, *[resolution] * 3)


@dataclass(frozen=True)
class Nearest:
    """Of the surface, nearest to each place: point, normal and colour, each (T, K, 3)."""

    points: Tensor
    normals: Tensor
    colours: Tensor


def nearest(found: Voxels, places: Tensor) -> Nearest:
    """places: (T, K, 3) in [0, 1], K of each voxel; looked for among the voxel's own samples.

    A sample stands for a small disc about it, on which the nearest point is taken: so the answer hardly depends on
    which samples there are.
    """
    points = found.points[found.samples]
    pairs = (a[:, :, None] - b[:, None] for a, b in zip(places.unbind(2), points.unbind(2), strict=True))
    which = found.samples.gather(1, sum(axis.square() for axis in pairs).argmin(dim=2))  # type: ignore[union-attr]
    point, normal, colour = found.points[which], found.normals[which], found.colours[which]
    beside = places - point
    beside = beside - (beside * normal).sum(-1, keepdim=True) * normal
    most = 0.6 * found.spacing[:, None, None]
    beside = beside * (most / beside.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
    return Nearest(point + beside, normal, colour)


def features(found: Voxels) -> Tensor:
    """(T, FEATURES): about each voxel's surface, what is nearest to the middles of its eighths, in voxels."""
    axis = (torch.arange(SUBCELLS, device=found.coords.device) + 0.5) / SUBCELLS
    inside = torch.cartesian_prod(axis, axis, axis)
    places = (found.coords[:, None, 1:] + inside) / found.resolution
    near = nearest(found, places)
    away = (near.points - places) * found.resolution
    return torch.cat([away.flatten(1) * 2, near.normals.flatten(1), near.colours.flatten(1) * 2 - 1], dim=1)


def _flat(cells: Tensor, resolution: int) -> Tensor:
    x, y, z = cells.unbind(-1)
    return (x * resolution + y) * resolution + z

"""Samples surfaces evenly with a low-discrepancy sequence: ellipsoids, frusta, tori and triangles.

Object frame: +Y up, +Z towards the front camera. This file does not know colours, objects or splats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Vector = tuple[float, float, float]


class Surface(NamedTuple):
    """n samples of a surface: points (n, 3), outward unit normals (n, 3), the area of each (n,)."""

    points: Float
    normals: Float
    areas: Float


class Solid(Protocol):
    def at(self, u: Float) -> Surface:
        """The surface at parameters u (n, 2) in [0, 1). A low-discrepancy u covers it evenly."""
        ...


def plastic_sequence(n: int, start: float = 0.5) -> Float:
    """(n, 2) points in [0, 1) of the R2 sequence, based on the plastic number g: g^3 = g + 1.

    Source: M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018).
    """
    g = 1.324717957244746
    steps = np.array([1 / g, 1 / g**2])
    return (start + np.arange(1, n + 1)[:, None] * steps) % 1.0


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes (x, y, z) about a centre; `lower` cuts off that share of the height from below (0.5: a dome)."""

    radii: Vector
    centre: Vector = (0, 0, 0)
    lower: float = 0.0

    def at(self, u: Float) -> Surface:
        height = 2 * (self.lower + (1 - self.lower) * u[:, 0]) - 1
        turn = 2 * np.pi * u[:, 1]
        ring = np.sqrt(1 - height**2)
        unit = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], axis=1)
        radii = np.array(self.radii)
        gradient = unit / radii
        length = np.linalg.norm(gradient, axis=1)
        # area element of the map sphere -> ellipsoid: det(A) |A^-T n|
        areas = (1 - self.lower) * 4 * np.pi / len(u) * np.prod(radii) * length
        return Surface(unit * radii + self.centre, gradient / length[:, None], areas)


@dataclass(frozen=True)
class Frustum:
    """A truncated cone on its base: radii at the bottom and the top, height, with or without its two caps.

    `inside` turns the normals towards the axis (the inner wall of a cup).
    """

    bottom: float
    top: float
    height: float
    centre: Vector = (0, 0, 0)
    caps: tuple[bool, bool] = (True, True)
    inside: bool = False

    def at(self, u: Float) -> Surface:
        slant = float(np.hypot(self.height, self.bottom - self.top))
        wall = np.pi * (self.bottom + self.top) * slant
        bottom, top = (np.pi * r**2 * cap for r, cap in zip((self.bottom, self.top), self.caps, strict=True))
        total = wall + bottom + top
        piece, along = _split(u[:, 0], np.array([wall, bottom, top]) / total)
        turn = 2 * np.pi * u[:, 1]
        cos, sin = np.cos(turn), np.sin(turn)

        # inverse of the area below t on the wall of a cone, for an even density
        radius = np.sqrt(self.bottom**2 + along * (self.top**2 - self.bottom**2))
        t = along if self.top == self.bottom else (radius - self.bottom) / (self.top - self.bottom)
        radius = np.where(piece == 0, radius, np.where(piece == 1, self.bottom, self.top) * np.sqrt(along))
        y = np.where(piece == 0, t * self.height, np.where(piece == 1, 0.0, self.height))
        outward, up = self.height / slant, (self.bottom - self.top) / slant
        normals = np.where(
            (piece == 0)[:, None],
            np.stack([outward * cos, np.full_like(cos, up), outward * sin], axis=1) * (-1 if self.inside else 1),
            np.where((piece == 1)[:, None], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0]),
        )
        points = np.stack([radius * cos, y, radius * sin], axis=1) + self.centre
        return Surface(points, normals, np.full(len(u), total / len(u)))


@dataclass(frozen=True)
class Torus:
    """A torus around the Z axis: ring radius, tube radius, and the arc it covers in turns (a handle is an arc)."""

    ring: float
    tube: float
    centre: Vector = (0, 0, 0)
    arc: tuple[float, float] = (0, 1)

    def at(self, u: Float) -> Surface:
        around = 2 * np.pi * (self.arc[0] + (self.arc[1] - self.arc[0]) * u[:, 0])
        about = 2 * np.pi * u[:, 1]
        radius = self.ring + self.tube * np.cos(about)
        points = np.stack([radius * np.cos(around), radius * np.sin(around), self.tube * np.sin(about)], axis=1)
        normals = np.stack([np.cos(about) * np.cos(around), np.cos(about) * np.sin(around), np.sin(about)], axis=1)
        span = 2 * np.pi * (self.arc[1] - self.arc[0])
        areas = span * 2 * np.pi * self.tube * radius / len(u)
        return Surface(points + self.centre, normals, areas)


@dataclass(frozen=True)
class Facets:
    """Flat triangles: corners (m, 3, 3), counter-clockwise seen from outside."""

    corners: Float = field(repr=False)

    def at(self, u: Float) -> Surface:
        a, b, c = self.corners[:, 0], self.corners[:, 1], self.corners[:, 2]
        across = np.cross(b - a, c - a)
        doubled = np.linalg.norm(across, axis=1)
        piece, along = _split(u[:, 0], doubled / doubled.sum())
        # even sampling of a triangle by (root, side): Turk, Graphics Gems I, "Generating random points in triangles"
        root, side = np.sqrt(along)[:, None], u[:, 1:2]
        points = a[piece] * (1 - root) + b[piece] * (root * (1 - side)) + c[piece] * (root * side)
        normals = (across / doubled[:, None])[piece]
        return Surface(points, normals, np.full(len(u), doubled.sum() / 2 / len(u)))


@dataclass(frozen=True)
class Moved:
    """A solid rotated about +Y, scaled along the axes, then translated."""

    solid: Solid
    stretch: Float
    turn: Float
    offset: Float

    def at(self, u: Float) -> Surface:
        points, normals, areas = self.solid.at(u)
        gradient = normals / self.stretch
        length = np.linalg.norm(gradient, axis=1)
        # normals transform by the inverse transpose, areas by the cofactor matrix (Nanson's formula)
        areas = areas * np.prod(self.stretch) * length
        unit = gradient / length[:, None]
        return Surface((points * self.stretch) @ self.turn.T + self.offset, unit @ self.turn.T, areas)


def box(size: Vector, centre: Vector = (0, 0, 0)) -> Facets:
    """A box standing on its centre (x, y of the bottom, z)."""
    x, y, z = size[0] / 2, size[1], size[2] / 2
    corners = [(-x, 0, -z), (x, 0, -z), (x, 0, z), (-x, 0, z), (-x, y, -z), (x, y, -z), (x, y, z), (-x, y, z)]
    quads = [(0, 1, 2, 3), (7, 6, 5, 4), (3, 2, 6, 7), (1, 0, 4, 5), (2, 1, 5, 6), (0, 3, 7, 4)]
    return _facets(corners, quads, centre)


def pyramid(width: float, height: float, centre: Vector = (0, 0, 0)) -> Facets:
    """A square pyramid standing on its centre."""
    w = width / 2
    corners = [(-w, 0, -w), (w, 0, -w), (w, 0, w), (-w, 0, w), (0, height, 0)]
    return _facets(corners, [(0, 1, 2, 3), (3, 2, 4), (2, 1, 4), (1, 0, 4), (0, 3, 4)], centre)


def gable(size: Vector, centre: Vector = (0, 0, 0)) -> Facets:
    """A gabled roof whose ridge runs along X, standing on its centre."""
    x, y, z = size[0] / 2, size[1], size[2] / 2
    corners = [(-x, 0, -z), (x, 0, -z), (x, 0, z), (-x, 0, z), (-x, y, 0), (x, y, 0)]
    return _facets(corners, [(0, 1, 2, 3), (3, 2, 5, 4), (1, 0, 4, 5), (2, 1, 5), (0, 3, 4)], centre)


def _facets(corners: list[Vector], faces: Sequence[tuple[int, ...]], centre: Vector) -> Facets:
    fans = [(face[0], face[i], face[i + 1]) for face in faces for i in range(1, len(face) - 1)]
    return Facets(np.array(corners, dtype=float)[np.array(fans)] + np.array(centre, dtype=float))


def _split(u: Float, shares: Float) -> tuple[NDArray[np.intp], Float]:
    """Selects a piece by its share and rescales u within it, so that one coordinate covers all pieces evenly."""
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    piece = np.minimum(np.searchsorted(edges[1:], u, side="right"), len(shares) - 1)
    return piece, np.clip((u - edges[piece]) / shares[piece], 0.0, 1.0)

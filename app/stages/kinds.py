"""The objects of profile `shapes`, made of solids with a colour.

Each stands on y = 0, is about 1 wide, and faces +Z. This file does not know prompts or splats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.stages.solids import Ellipsoid, Frustum, Moved, Solid, Torus, box, gable, pyramid

Colour = tuple[float, float, float]

RGB: dict[str, Colour] = {
    "red": (0.80, 0.10, 0.09),
    "orange": (0.95, 0.48, 0.06),
    "yellow": (0.95, 0.83, 0.12),
    "green": (0.13, 0.55, 0.17),
    "blue": (0.12, 0.28, 0.80),
    "purple": (0.47, 0.16, 0.62),
    "pink": (0.96, 0.52, 0.68),
    "brown": (0.45, 0.28, 0.14),
    "black": (0.09, 0.09, 0.10),
    "white": (0.93, 0.93, 0.92),
}
GREY: Colour = (0.50, 0.51, 0.53)
GLASS: Colour = (0.62, 0.78, 0.86)


@dataclass(frozen=True)
class Part:
    solid: Solid
    colour: Colour


def _ball(main: Colour) -> list[Part]:
    return [Part(Ellipsoid((0.5, 0.5, 0.5), (0, 0.5, 0)), main)]


def _box(main: Colour) -> list[Part]:
    return [Part(box((0.8, 0.8, 0.8)), main)]


def _cone(main: Colour) -> list[Part]:
    return [Part(Frustum(0.45, 0, 1), main)]


def _cylinder(main: Colour) -> list[Part]:
    return [Part(Frustum(0.33, 0.33, 0.95), main)]


def _ring(main: Colour) -> list[Part]:
    return [Part(Torus(0.38, 0.12, (0, 0.5, 0)), main)]


def _pyramid(main: Colour) -> list[Part]:
    return [Part(pyramid(1, 0.85), main)]


def _mug(main: Colour) -> list[Part]:
    return [
        Part(Frustum(0.36, 0.38, 0.85, caps=(True, False)), main),
        Part(Frustum(0.31, 0.33, 0.8, (0, 0.05, 0), caps=(True, False), inside=True), _mix(main, RGB["white"], 0.25)),
        Part(_rim(0.355, 0.028, 0.85), main),
        Part(Torus(0.22, 0.055, (0.38, 0.44, 0), arc=(-0.25, 0.25)), main),
    ]


def _table(main: Colour) -> list[Part]:
    legs = [box((0.09, 0.65, 0.09), (x, 0, z)) for x in (-0.48, 0.48) for z in (-0.3, 0.3)]
    return [
        Part(box((1.15, 0.09, 0.78), (0, 0.65, 0)), main),
        *(Part(leg, _mix(main, (0, 0, 0), 0.15)) for leg in legs),
    ]


def _chair(main: Colour) -> list[Part]:
    legs = [box((0.08, 0.42, 0.08), (x, 0, z)) for x in (-0.23, 0.23) for z in (-0.23, 0.23)]
    return [
        Part(box((0.56, 0.08, 0.56), (0, 0.42, 0)), main),
        Part(box((0.56, 0.55, 0.07), (0, 0.5, -0.245)), main),
        *(Part(leg, _mix(main, (0, 0, 0), 0.15)) for leg in legs),
    ]


def _tree(main: Colour) -> list[Part]:
    crown = [((0.36, 0.28, 0.36), (0, 0.68, 0)), ((0.27, 0.24, 0.27), (0.1, 0.92, 0.06))]
    crown += [((0.24, 0.2, 0.24), (-0.2, 0.8, 0.1))]
    return [Part(Frustum(0.1, 0.07, 0.5), RGB["brown"]), *(Part(Ellipsoid(r, c), main) for r, c in crown)]


def _house(main: Colour) -> list[Part]:
    return [
        Part(box((0.9, 0.55, 0.7)), main),
        Part(gable((1.04, 0.38, 0.86), (0, 0.55, 0)), _mix(main, (0.22, 0.2, 0.2), 0.75)),
        Part(box((0.18, 0.34, 0.02), (0, 0, 0.352)), (0.25, 0.17, 0.1)),
        *(Part(box((0.17, 0.17, 0.02), (x, 0.22, 0.352)), GLASS) for x in (-0.28, 0.28)),
        Part(box((0.02, 0.17, 0.17), (0.452, 0.22, 0)), GLASS),
        Part(box((0.1, 0.3, 0.1), (-0.28, 0.65, -0.12)), GREY),
    ]


def _snowman(main: Colour) -> list[Part]:
    dark = RGB["black"]
    dots = [(-0.06, 0.93, 0.135), (0.06, 0.93, 0.135), (0, 0.7, 0.2), (0, 0.6, 0.225)]
    return [
        *(Part(Ellipsoid((r, r, r), (0, y, 0)), main) for r, y in ((0.31, 0.29), (0.23, 0.65), (0.16, 0.92))),
        Part(Frustum(0.18, 0.18, 0.03, (0, 1.03, 0)), dark),
        Part(Frustum(0.11, 0.11, 0.16, (0, 1.05, 0)), dark),
        *(Part(Ellipsoid((0.022, 0.022, 0.022), dot), dark) for dot in dots),
        Part(Ellipsoid((0.025, 0.025, 0.1), (0, 0.89, 0.2)), RGB["orange"]),
    ]


def _rocket(main: Colour) -> list[Part]:
    fins = [box((0.24, 0.3, 0.03), (0.24, 0, 0)), box((0.24, 0.3, 0.03), (-0.24, 0, 0))]
    fins += [box((0.03, 0.3, 0.24), (0, 0, 0.24)), box((0.03, 0.3, 0.24), (0, 0, -0.24))]
    return [
        Part(Frustum(0.2, 0.2, 0.75, (0, 0.1, 0)), main),
        Part(Frustum(0.2, 0, 0.35, (0, 0.85, 0)), _mix(main, (0, 0, 0), 0.25)),
        Part(Frustum(0.15, 0.1, 0.1, caps=(True, False)), GREY),
        *(Part(fin, GREY) for fin in fins),
        Part(Ellipsoid((0.085, 0.085, 0.03), (0, 0.62, 0.195)), GLASS),
    ]


def _mushroom(main: Colour) -> list[Part]:
    spots = [(0, 0.87, 0.2), (0.24, 0.78, 0.2), (-0.24, 0.78, 0.2)]
    spots += [(0.3, 0.74, -0.1), (-0.2, 0.83, -0.2), (0.02, 0.95, -0.05)]
    return [
        Part(Frustum(0.17, 0.13, 0.55), (0.92, 0.88, 0.78)),
        Part(Ellipsoid((0.48, 0.46, 0.48), (0, 0.5, 0), lower=0.5), main),
        Part(Frustum(0.48, 0.13, 0.001, (0, 0.5, 0), caps=(True, False)), (0.86, 0.80, 0.7)),
        *(Part(Ellipsoid((0.06, 0.05, 0.06), spot), RGB["white"]) for spot in spots),
    ]


BUILDERS: dict[str, Callable[[Colour], list[Part]]] = {
    "ball": _ball,
    "box": _box,
    "cone": _cone,
    "cylinder": _cylinder,
    "ring": _ring,
    "pyramid": _pyramid,
    "mug": _mug,
    "table": _table,
    "chair": _chair,
    "tree": _tree,
    "house": _house,
    "snowman": _snowman,
    "rocket": _rocket,
    "mushroom": _mushroom,
}
OWN_COLOUR = {"tree": "green", "snowman": "white", "mushroom": "red", "table": "brown", "chair": "brown"}
"""The colour of an object if the prompt names none. Other objects take one of RGB, by the seed."""


def _rim(ring: float, tube: float, height: float) -> Moved:
    flat = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # a torus has its axis along Z, a rim along Y
    return Moved(Torus(ring, tube), np.ones(3), flat, np.array([0, height, 0]))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """`share` of b in a."""
    red, green, blue = ((1 - share) * np.array(a) + share * np.array(b)).tolist()
    return red, green, blue

"""The generator of profile `shapes`: splats of simple objects from a small vocabulary. A stand-in, labelled as one.

It needs no weights and no GPU. Its splats resemble real ones: surfaces covered by flat Gaussians that lie in them,
shading, texture, a spread of opacities. All later stages process them exactly like the splats of profile `full`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.splat.model import SH_C0, Splat
from app.stages.kinds import BUILDERS, OWN_COLOUR, RGB, Part
from app.stages.picture import ModelInfo, OnStep, Picture
from app.stages.scene import Scene, Thing, parse
from app.stages.solids import Moved, Surface, plastic_sequence
from app.weights.store import OnLoad, no_progress

if TYPE_CHECKING:
    from app.stages.score import Scorer  # it imports torch

Float = NDArray[np.float64]

STRETCH = {"small": (0.7, 0.7, 0.7), "big": (1.35, 1.35, 1.35), "tall": (0.9, 1.4, 0.9), "short": (1.1, 0.65, 1.1)}
LIGHT = np.array([0.40, 0.75, 0.53])
"""Direction to the light, unit length within 1 %: above, in front, a little to the right."""


@dataclass(frozen=True)
class ShapesParams:
    """gaussians: the number of Gaussians in a splat."""

    gaussians: int = 200_000


class Shapes:
    """The generator stage: `load()` once, `build(prompt, None, seed)` often."""

    model_id = "shapes (built-in stand-in)"
    models: tuple[ModelInfo, ...] = (ModelInfo("generator", model_id, None),)

    def __init__(self, params: ShapesParams) -> None:
        self.params = params

    def draw(self, prompt: str, seed: int, on_step: OnStep) -> None:
        """Splats are built from the prompt; there is no picture."""

    def build(self, prompt: str, _picture: Picture | None, seed: int) -> Splat:
        """The splat of a prompt, centred on the origin, longest side about 1, +Y up. Same seed, same splat.

        Raises BadPrompt if the vocabulary does not cover the prompt.
        """
        return build(parse(prompt), seed, self.params.gaussians)

    def place_weights(self, scorer: Scorer | None, config: Config) -> None:
        """There are no weights, and the scorer stays on the CPU."""


def load(config: Config, _on_load: OnLoad = no_progress) -> Shapes:
    """Nothing has to be loaded."""
    return Shapes(ShapesParams(config.shapes.gaussians))


def build(scene: Scene, seed: int, gaussians: int) -> Splat:
    """A scene as `gaussians` Gaussians. The seed varies yaw, proportions, hue, light and texture."""
    random = np.random.default_rng(seed)
    things = [_assemble(thing, random) for thing in scene.things]
    if scene.relation:
        things = _arrange(things[0], things[1], scene.relation)
    parts = [part for thing in things for part in thing]
    surfaces, colours = _cover(parts, gaussians, random)
    return _splat(surfaces, _shade(surfaces, colours, random), random)


def _assemble(thing: Thing, random: np.random.Generator) -> list[Part]:
    colour = thing.colour or OWN_COLOUR.get(thing.kind) or str(random.choice(list(RGB)))
    red, green, blue = _clip(
        np.array(RGB[colour]) * random.uniform(0.92, 1.06) + random.uniform(-0.02, 0.02, 3)
    ).tolist()
    stretch = np.array(STRETCH.get(thing.size or "", (1.0, 1.0, 1.0))) * random.uniform(0.93, 1.07, 3)
    yaw = random.uniform(-0.35, 0.35)
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    return [
        Part(Moved(part.solid, stretch, turn, np.zeros(3)), part.colour)
        for part in BUILDERS[thing.kind]((red, green, blue))
    ]


def _arrange(first: list[Part], second: list[Part], relation: str) -> list[list[Part]]:
    (low, high), (low2, high2) = _bounds(first), _bounds(second)
    if relation == "on":
        shrink = 0.62
        offset = np.array([0, high2[1] - shrink * low[1] - 0.01, 0])
        return [_move(first, shrink, offset), second]
    gap = 0.12
    return [
        _move(first, 1.0, np.array([-(high[0] + gap / 2), 0, 0])),
        _move(second, 1.0, np.array([-low2[0] + gap / 2, 0, 0])),
    ]


def _move(parts: list[Part], scale: float, offset: Float) -> list[Part]:
    return [Part(Moved(part.solid, np.full(3, scale), np.eye(3), offset), part.colour) for part in parts]


def _bounds(parts: list[Part]) -> tuple[Float, Float]:
    points = np.concatenate([part.solid.at(plastic_sequence(256)).points for part in parts])
    return points.min(axis=0), points.max(axis=0)


def _cover(parts: list[Part], gaussians: int, random: np.random.Generator) -> tuple[Surface, Float]:
    """Distributes the Gaussians by area. Centres the whole on the origin and scales its longest side to 1."""
    areas = np.array([part.solid.at(plastic_sequence(512)).areas.sum() for part in parts])
    counts = np.maximum(16, np.floor(gaussians * areas / areas.sum()).astype(int))
    counts[np.argmax(counts)] += gaussians - counts.sum()
    pieces = [
        part.solid.at(plastic_sequence(n, random.random())) for part, n in zip(parts, counts.tolist(), strict=True)
    ]
    points, normals, cover = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    middle, side = (points.min(axis=0) + points.max(axis=0)) / 2, np.ptp(points, axis=0).max()
    colours = np.repeat(np.array([part.colour for part in parts]), counts, axis=0)
    return Surface((points - middle) / side, normals, cover / side**2), colours


def _shade(surface: Surface, colours: Float, random: np.random.Generator) -> Float:
    """Lambertian and ambient light, darker from below, with a soft grain."""
    light = LIGHT + random.uniform(-0.12, 0.12, 3)
    diffuse = np.maximum(0, surface.normals @ (light / np.linalg.norm(light)))
    sky = 0.5 + 0.5 * surface.normals[:, 1]
    grain = np.sin(surface.points @ random.normal(0, 14, (3, 5)) + random.uniform(0, 6.3, 5)).mean(axis=1)
    return _clip(colours * (0.42 + 0.18 * sky + 0.45 * diffuse)[:, None] * (1 + 0.06 * grain)[:, None])


def _splat(surface: Surface, rgb: Float, random: np.random.Generator) -> Splat:
    n = len(surface.points)
    spacing = np.sqrt(surface.areas)
    spread = random.lognormal(0, 0.12, (n, 3)) * [0.62, 0.62, 0.2]
    # the rotation from +Z to the normal: (1 + z·n, z × n), normalised; half a turn about X if n = -Z
    x, y, z = surface.normals.T
    quats = np.stack([1 + z, -y, x, np.zeros(n)], axis=1)
    quats[z < -0.999999] = (0, 1, 0, 0)
    return Splat(
        means=surface.points.astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        log_scales=np.log(spacing[:, None] * spread + 1e-7).astype(np.float32),
        opacity_logits=np.clip(random.normal(3.5, 2.2, n), -3, 9).astype(np.float32),
        sh=((rgb - 0.5) / SH_C0).astype(np.float32)[:, None, :],
    )


def _clip(rgb: Float) -> Float:
    return np.clip(rgb, 0.02, 0.98)

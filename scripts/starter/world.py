"""Objects of the built-in world and their truth: samples of the surface, and pictures of it.

Everything here is numpy on one core, so that many processes make objects at once. An object follows from the seed and
its number alone. Points are in the frame and the units of TRELLIS's volume: [0, 1]^3, +Z up.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.splat.cameras import Camera, orbit
from app.splat.model import SH_C0, Splat
from app.stages.kinds import OWN_COLOUR
from app.stages.scene import COLOURS, KINDS, RELATIONS, SIZES, Scene, Thing, parse
from app.stages.shapes import build
from starter.sizes import Sizes

SIDE = 0.96
"""Longest side of an object in the volume."""
GREY = (0.78, 0.79, 0.81)
"""Background of the pictures that the picture model learns to draw."""
OPAQUE = 6.0
CHUNK = 32
FRACTION = 32767
"""A coordinate of 1 as the files hold it, int16."""


@dataclass(frozen=True)
class Object:
    """points (P, 3), normals (P, 3) and colours (P, 3) in [0, 1], sorted by voxel; splat: the same, +Y up."""

    prompt: str
    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    colours: NDArray[np.float32]
    splat: Splat


def random_scene(random: np.random.Generator, two: float = 0.4) -> Scene:
    """One thing, or two with probability `two`; colours are usually named, sizes sometimes."""

    def thing() -> Thing:
        colour = str(random.choice(list(COLOURS))) if random.random() < 0.88 else None
        size = str(random.choice(list(SIZES))) if random.random() < 0.25 else None
        return Thing(str(random.choice(list(KINDS))), colour, size)

    if random.random() >= two:
        return Scene(thing())
    return Scene(thing(), str(random.choice(list(RELATIONS))), thing())


def wrong(scene: Scene, random: np.random.Generator) -> tuple[Scene, Scene]:
    """The scene with another kind, and with another colour, of its first thing."""
    first = scene.first
    kind = str(random.choice([name for name in KINDS if name != first.kind]))
    colour = str(random.choice([name for name in COLOURS if name not in (first.colour, OWN_COLOUR.get(first.kind))]))
    others = replace(first, kind=kind), replace(first, colour=colour)
    return replace(scene, first=others[0]), replace(scene, first=others[1])


def make(scene: Scene, random: np.random.Generator, sizes: Sizes) -> Object:
    """An object of that scene, its proportions varied beyond what `build` does."""
    base = build(scene, int(random.integers(2**31)), sizes.points)
    stretch = random.uniform(0.88, 1.14, 3)
    points = base.means * stretch
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SIDE / (high - low).max()
    points = (points - (low + high) / 2) * scale
    normals = _axis(base.quats) / stretch
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colours = np.clip(0.5 + SH_C0 * base.sh[:, 0], 0, 1)
    volume = np.clip(points[:, [0, 2, 1]] * [1, -1, 1] + 0.5, 0, 0.99999)
    order = np.argsort(_voxel(volume, sizes.resolution), kind="stable")
    growth = np.float32(np.log(scale * stretch.prod() ** (1 / 3)))
    splat = Splat(
        points.astype(np.float32),
        _turned(normals),
        base.log_scales + growth,
        np.full(len(points), OPAQUE, np.float32),
        base.sh,
    )
    turned = normals[:, [0, 2, 1]] * [1, -1, 1]
    fields = (array[order].astype(np.float32) for array in (volume, turned, colours))
    return Object(str(scene), *fields, splat)


def random_camera(random: np.random.Generator, size: int) -> Camera:
    """From the front, within 40 degrees to either side, above the object."""
    azimuth, pitch = random.uniform(-40, 40), random.uniform(-34, -12)
    return orbit(azimuth, pitch, random.uniform(1.75, 2.05), size=size)


def picture(splat: Splat, camera: Camera) -> NDArray[np.uint8]:
    """(S, S, 4): colours times alpha, and alpha. Drawn by the product's own rasteriser."""
    from app.splat.raster import render

    views = render(splat, [camera], background=(0, 0, 0), device="cpu")
    return np.rint(np.concatenate([views.images[0], views.alphas[0, ..., None]], axis=-1) * 255).astype(np.uint8)


def over(premultiplied: NDArray[np.uint8], background: NDArray[np.float64]) -> Image.Image:
    """RGBA: the picture on a background (3,), with the object's alpha: what a cutout makes of a picture."""
    values = premultiplied.astype(np.float64)
    alpha = values[..., 3:]
    rgb = values[..., :3] + (255 - alpha) * background
    return Image.fromarray(np.rint(np.concatenate([rgb, alpha], axis=-1)).astype(np.uint8), "RGBA")


def seen(cut: Image.Image, size: int) -> NDArray[np.uint8]:
    """(size, size, 3): what the image encoder gets of a cut-out picture."""
    from app.trellis.picture import prepare

    return np.asarray(prepare(cut).resize((size, size), Image.Resampling.LANCZOS))


def paraphrased(prompt: str, random: Random) -> str:
    """The prompt with random synonyms."""
    scene = parse(prompt)

    def thing(said: Thing) -> str:
        words = [_name(SIZES, said.size, random), _name(COLOURS, said.colour, random), _name(KINDS, said.kind, random)]
        text = " ".join(word for word in words if word)
        article = "an" if text[0] in "aeiou" else "a"
        return f"{random.choice((article, article, 'the', ''))} {text}".strip()

    if scene.second is None:
        return thing(scene.first)
    return f"{thing(scene.first)} {_name(RELATIONS, scene.relation, random)} {thing(scene.second)}"


def vocabulary() -> list[str]:
    """Every word that a prompt may hold."""
    names = [
        name for table in (KINDS, COLOURS, SIZES, RELATIONS) for pair in table.items() for name in (pair[0], *pair[1])
    ]
    return sorted({word for name in names for word in re.split(r"\s+", name)} | {"a", "an", "the", "one", "and"})


def write_chunks(folder: Path, sizes: Sizes, seed: int, objects: int, held_out: int, workers: int) -> Iterator[int]:
    """Chunks of CHUNK objects into the folder, the held-out ones first; yields how many objects are there."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(folder, "held", n, sizes, seed + 1_000_003) for n in range(-(-held_out // CHUNK))]
    tasks += [(folder, "learn", n, sizes, seed) for n in range(-(-objects // CHUNK))]
    tasks = [task for task in tasks if not _chunk_path(*task[:3]).is_file()]
    if workers <= 1:
        _single_thread_worker()
        for done, task in enumerate(tasks):
            _write_chunk(task)
            yield (done + 1) * CHUNK
        return
    if tasks:
        _write_chunk(tasks.pop(0))  # compiles the rasteriser once, into its cache
        yield CHUNK
    with multiprocessing.get_context("spawn").Pool(workers, _low_priority_worker) as pool:
        for done, _ in enumerate(pool.imap(_write_chunk, tasks)):
            yield (done + 2) * CHUNK


def _chunk_path(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}-{number:05d}.npz"


def _write_chunk(task: tuple[Path, str, int, Sizes, int]) -> None:
    folder, kind, number, sizes, seed = task
    rows = [_row(np.random.default_rng([seed, number * CHUNK + place]), sizes) for place in range(CHUNK)]
    fields = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    path = _chunk_path(folder, kind, number)
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **fields)
    unfinished.rename(path)  # a reader never sees half a chunk


def _row(random: np.random.Generator, sizes: Sizes) -> dict[str, NDArray[np.generic]]:
    made = make(random_scene(random), random, sizes)
    cameras = [random_camera(random, sizes.picture) for _ in range(sizes.views)]
    pictures = [picture(made.splat, camera) for camera in cameras]
    grounds = [np.array(GREY) if random.random() < 0.7 else random.uniform(0, 1, 3) for _ in pictures]
    views = [seen(over(drawn, ground), sizes.seen) for drawn, ground in zip(pictures, grounds, strict=True)]
    return {
        "points": np.rint(made.points * FRACTION).astype(np.int16),
        "normals": np.rint(made.normals * 127).astype(np.int8),
        "colours": np.rint(made.colours * 255).astype(np.uint8),
        "pictures": np.stack(pictures),
        "seen": np.stack(views),
        "prompt": np.array(made.prompt),
    }


def _low_priority_worker() -> None:
    """Sets up a worker process that yields to those that train."""
    os.nice(5)
    _single_thread_worker()


def _single_thread_worker() -> None:
    """Sets up a worker process with one thread and no log."""
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    from loguru import logger

    logger.remove()


def _name(table: dict[str, tuple[str, ...]], name: str | None, random: Random) -> str:
    return random.choice((name, name, *table[name])) if name else ""


def _voxel(points: NDArray[np.floating], resolution: int) -> NDArray[np.intp]:
    x, y, z = np.floor(points * resolution).astype(np.intp).T
    return (x * resolution + y) * resolution + z


def _axis(quats: NDArray[np.float32]) -> NDArray[np.float64]:
    """The third axis of each rotation: the normal of a flat Gaussian."""
    w, x, y, z = quats.astype(np.float64).T
    return np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], axis=1)


def _turned(normals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rotations that take +Z to the normals; half a turn about X where the normal is -Z."""
    x, y, z = normals.T
    quats = np.stack([1 + z, -y, x, np.zeros(len(x))], axis=1)
    quats[z < -0.999999] = (0, 1, 0, 0)
    return (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)

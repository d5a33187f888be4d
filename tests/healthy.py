"""Splats for tests to damage: one with the statistics of real ones, and the real assets if they are present."""

from pathlib import Path

import numpy as np
import pytest

from app.splat.files import read_splat
from app.splat.model import Float32, Splat

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
ASSETS = ("hamburger.ply", "robocop_with_hammer.spz")


def ball(count: int, seed: int = 0, degree: int = 0) -> Splat:
    """Gaussians on a bumpy ball of radius 0.4, flat along the surface, in three colours.

    As on real assets, the large ones and those that stick out are the transparent ones.
    """
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(count, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = 0.02 * rng.normal(size=count)
    size = 0.9 * 0.4 * np.sqrt(4 * np.pi / count) * np.exp(0.4 * rng.normal(size=count))
    scales = size[:, None] * np.array([0.2, 0.8, 1.0])
    logits = 1.0 + 2.5 * rng.normal(size=count) - 60 * height - 1.5 * np.log(size / np.median(size))
    sh = rng.normal(0, 0.1, (count, (degree + 1) ** 2, 3))
    sh[:, 0] += np.sign(normal) + 0.1 * rng.normal(size=(count, 3))
    return Splat((0.4 + height)[:, None] * normal, _across(normal), np.log(scales), logits, sh)


def _across(normal: Float32) -> Float32:
    """Rotations that bring the first axis to the normal."""
    half = normal + np.array([1.0, 0, 0])
    half /= np.linalg.norm(half, axis=1, keepdims=True) + 1e-9
    return np.column_stack([half[:, 0], np.cross([1, 0, 0], half)])


def asset(name: str) -> Splat:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"real asset {name} is not here")
    return read_splat(path, 10_000_000)

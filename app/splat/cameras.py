"""Cameras: orbit cameras, the judging views, and the public judge's placement.

World: right-handed, +Y up, the object around the origin. Camera: OpenCV convention, x right, y down, z forward.
Nothing is rendered here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.splat.model import Float32, Splat

if TYPE_CHECKING:
    from app.config import RenderConfig


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on an orbit, looking at the origin.

    azimuth, pitch: degrees. Azimuth 0 is on +Z (the front), 90 on +X; a negative pitch is ABOVE the object.
    radius: distance to the origin, world units. fov: vertical field of view, degrees. width, height: pixels.
    near, far: Gaussians whose centre is nearer or farther along the view axis are not drawn, world units.
    """

    name: str
    azimuth: float
    pitch: float
    radius: float
    fov: float
    width: int
    height: int
    near: float = 0.01
    far: float = 100.0

    @property
    def position(self) -> NDArray[np.float64]:
        """(3,) the camera's centre in the world."""
        a, e = math.radians(self.azimuth), math.radians(self.pitch)
        return self.radius * np.array([math.cos(e) * math.sin(a), -math.sin(e), math.cos(e) * math.cos(a)])

    @property
    def world_to_camera(self) -> Float32:
        """(4, 4) rigid transform, world to camera; defined at the poles too, where up is taken from the azimuth."""
        a, e = math.radians(self.azimuth), math.radians(self.pitch)
        right = [math.cos(a), 0.0, -math.sin(a)]
        forward = [-math.cos(e) * math.sin(a), math.sin(e), -math.cos(e) * math.cos(a)]
        rotation = np.array([right, np.cross(forward, right), forward])
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = -rotation @ self.position
        return matrix.astype(np.float32)

    @property
    def K(self) -> Float32:
        """(3, 3) intrinsics in pixels: square pixels, principal point at the integer width // 2, height // 2."""
        focal = 0.5 * self.height / math.tan(math.radians(self.fov) / 2)
        return np.array([[focal, 0, self.width // 2], [0, focal, self.height // 2], [0, 0, 1]], dtype=np.float32)


def orbit(
    azimuth: float, pitch: float, radius: float = 2.5, fov: float = 49.1, size: int = 518, name: str = ""
) -> Camera:
    """A square camera of the public judge's kind; see Camera for the units."""
    return Camera(name or f"azimuth {azimuth:g} pitch {pitch:g}", azimuth, pitch, radius, fov, size, size)


def judging_views(config: RenderConfig) -> tuple[Camera, ...]:
    """The views that are scored, as configured in the `render` section."""
    return tuple(
        orbit(view.azimuth, view.pitch, config.radius, config.fov, config.size, view.name) for view in config.views
    )


@dataclass(frozen=True)
class Placement:
    """How a splat is placed before the cameras: position' = scale * position + offset (the same offset on each axis).

    Standard deviations take the same scale; opacity' = min(1, opacity_factor * opacity).
    """

    scale: float = 1.0
    offset: float = 0.0
    opacity_factor: float = 1.0


IDENTITY = Placement()
JUDGE_EXTENT = 1.5
"""World units: the longest side after the public judge's placement."""

SMALLEST_EXTENT = 1e-12


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def judge_placement(splat: Splat, extent: float = JUDGE_EXTENT) -> Placement:
    """The public judge's placement (validation service 2.4).

    extent: length of the longest side of the bounding box of the centres after placement, world units.
    Opacities are multiplied by the inverse of the scale. The offset is ONE scalar, the mean over all coordinates of all
    centres; a centroid per axis would give a different picture. Both follow the judge's reference renders. Centres that
    are not finite are ignored. If none are finite, or all coincide, the scale is 1.
    """
    means = splat.means
    lows, highs = _bounds(means)
    if not np.isfinite([lows, highs]).all():
        means = means[np.isfinite(means).all(axis=1)]
        lows, highs = _bounds(means)
    if not len(means):
        return IDENTITY
    longest = float((highs - lows).max())
    scale = extent / longest if longest > SMALLEST_EXTENT else 1.0
    return Placement(scale, -scale * float(means.mean(dtype=np.float64)), 1.0 / scale)


def _bounds(means: Float32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) minimum and maximum coordinates; zeros without points. Copying the columns first is faster."""
    columns = [np.ascontiguousarray(column) for column in means.T] if len(means) else [np.zeros(1)] * 3
    return np.array([c.min() for c in columns], np.float64), np.array([c.max() for c in columns], np.float64)

"""Pictures of a splat: render(splat, cameras) -> Views, by gsplat on a GPU or by our numba kernel on the CPU.

Which of the two drew is in Views.backend and in the log; asking for CUDA where it is not is an error, never the CPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from app.errors import Unavailable
from app.splat.cameras import IDENTITY, Camera, Placement
from app.splat.model import SH_C0, Float32, Splat, sigmoid

Backend = Literal["gsplat", "cpu"]

VISIBLE_ALPHA = 0.04


@dataclass(frozen=True, eq=False)
class Views:
    """V pictures of one splat.

    images: (V, H, W, 3) float32 in [0, 1], composited over the background. alphas: (V, H, W) float32 in [0, 1].
    """

    images: Float32
    alphas: Float32
    cameras: tuple[Camera, ...]
    backend: Backend


@dataclass(frozen=True, eq=False)
class _Scene:
    """What both rasterisers take: placed, finite Gaussians out of every logarithm. Shapes as in Splat."""

    means: Float32
    quats: Float32
    scales: Float32
    opacities: Float32
    sh: Float32


def render(
    splat: Splat,
    cameras: Sequence[Camera],
    *,
    placement: Placement = IDENTITY,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    sh_degree: int = 0,
) -> Views:
    """Draws the splat from each camera; all cameras of one call have the same width and height.

    sh_degree: harmonics drawn, at most the splat's own; 0, the default, is what the public judge draws.
    Gaussians with a value that is not finite, or a zero quaternion, are left out.
    Raises Unavailable for device "cuda" without a GPU or gsplat; ValueError for cameras of several sizes or none.
    """
    if len({(camera.width, camera.height) for camera in cameras}) != 1:
        raise ValueError("render needs at least one camera, all of one width and height")
    backend = choose_backend(device)
    scene = _scene(splat, placement, min(sh_degree, splat.sh_degree))
    draw = _draw_gsplat if backend == "gsplat" else _draw_cpu
    colors, alphas = draw(scene, cameras)
    images = colors + (1 - alphas)[..., None] * np.asarray(background, np.float32)
    logger.debug("rendered {:,} gaussians, {} views, backend {}", len(splat), len(cameras), backend)
    return Views(images.clip(0, 1), alphas, tuple(cameras), backend)


def choose_backend(device: Literal["auto", "cpu", "cuda"]) -> Backend:
    """The rasteriser that `device` means on this host. Raises Unavailable, with the remedy, for a "cuda" that is not."""
    if device == "cpu":
        return "cpu"
    lacking = _lacking_for_cuda()
    if lacking and device == "cuda":
        raise Unavailable(f"device = 'cuda': {lacking}; or choose device = 'cpu'")
    return "cpu" if lacking else "gsplat"


def _lacking_for_cuda() -> str:
    if find_spec("gsplat") is None:
        return "gsplat is not installed: pip install 'splatgate[gpu]'"
    import torch  # noqa: PLC0415 - seconds to import, and the CPU kernel needs none of it

    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU: check nvidia-smi and the container's GPU access"
    with contextlib.redirect_stdout(sys.stderr):  # gsplat reports its build on standard output
        from gsplat.cuda._backend import _C  # noqa: PLC0415

    return "" if _C is not None else "gsplat's CUDA kernels are neither built nor buildable: install nvcc, or a built gsplat"


def _scene(splat: Splat, placement: Placement, degree: int) -> _Scene:
    splat = splat.take(drawable(splat))
    return _Scene(
        means=splat.means * np.float32(placement.scale) + np.float32(placement.offset),
        quats=splat.quats,
        scales=np.exp(splat.log_scales) * np.float32(placement.scale),
        opacities=(sigmoid(splat.opacity_logits) * np.float32(placement.opacity_factor)).clip(0, 1),
        sh=np.ascontiguousarray(splat.sh[:, : (degree + 1) ** 2]),
    )


def drawable(splat: Splat) -> NDArray[np.bool_]:
    """(N,) bool: every value finite, and the quaternion not zero."""
    fields = (splat.means, splat.quats, splat.log_scales, splat.opacity_logits[:, None], splat.sh[:, 0])
    finite = np.logical_and.reduce([np.isfinite(field).all(axis=1) for field in fields])
    return finite & (splat.quats != 0).any(axis=1)


def _draw_cpu(scene: _Scene, cameras: Sequence[Camera]) -> tuple[Float32, Float32]:
    from app.splat.raster_cpu import rasterize  # noqa: PLC0415 - numba takes half a second to import

    views = [
        rasterize(
            scene.means,
            scene.quats,
            scene.scales,
            scene.opacities,
            (0.5 + SH_C0 * scene.sh[:, 0]).astype(np.float32),
            camera.world_to_camera,
            camera.K,
            (camera.width, camera.height),
            (camera.near, camera.far),
        )
        for camera in cameras
    ]
    colors, alphas = zip(*views, strict=True)
    return np.stack(colors), np.stack(alphas)


def _draw_gsplat(scene: _Scene, cameras: Sequence[Camera]) -> tuple[Float32, Float32]:
    raise NotImplementedError


def side_by_side(views: Views) -> NDArray[np.uint8]:
    """(H, V * W, 3) uint8: the pictures left to right, in the order of the cameras."""
    return np.rint(np.concatenate(list(views.images), axis=1) * 255).astype(np.uint8)


def coverage(views: Views) -> float:
    """Fraction, over all views, of the pixels where anything can be seen: alpha above VISIBLE_ALPHA.

    The cut is the one that gives 0.109 for the robocop and 0.370 for the hamburger asset, healthy, in the judge's
    placement, from azimuths 0, 90, 180, 315 at pitches -15, -15, 0, -60: the figures that repairs are compared with.
    """
    return float((views.alphas > VISIBLE_ALPHA).mean())

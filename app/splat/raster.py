"""Pictures of a splat: prepare(splat) -> Scene, draw(scene, cameras) -> Views.

gsplat draws on a GPU, our numba kernels on the CPU; Views.backend and the log say which. Asking for CUDA on a host
without it is an error: there is no silent fallback to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from app.errors import Unavailable
from app.splat import raster_gsplat
from app.splat.cameras import IDENTITY, Camera, Placement
from app.splat.harmonics import view_colors
from app.splat.model import Float32, Splat, sigmoid
from app.splat.scene import Backend, Scene

Device = Literal["auto", "cpu", "cuda"]
Color = tuple[float, float, float]

WHITE: Color = (1.0, 1.0, 1.0)
VISIBLE_ALPHA = 0.04
MAX_SCALE = 1e4
"""World units: larger Gaussians look the same from an orbit, and their covariance in px^2 would overflow float32."""


@dataclass(frozen=True, eq=False)
class Views:
    """V pictures of one splat.

    images: (V, H, W, 3) float32 in [0, 1], composited over the background. alphas: (V, H, W) float32 in [0, 1].
    """

    images: Float32
    alphas: Float32
    cameras: tuple[Camera, ...]
    backend: Backend


def render(
    splat: Splat,
    cameras: Sequence[Camera],
    *,
    placement: Placement = IDENTITY,
    background: Color = WHITE,
    device: Device = "auto",
    sh_degree: int = 0,
) -> Views:
    """prepare and draw in one call, for a splat that is drawn once; see both for arguments and errors."""
    return draw(prepare(splat, placement, device=device, sh_degree=sh_degree), cameras, background)


def prepare(splat: Splat, placement: Placement = IDENTITY, *, device: Device = "auto", sh_degree: int = 0) -> Scene:
    """Places the splat and, for gsplat, uploads it.

    sh_degree: harmonics drawn, at most the splat's own. With 0, the default, colours are the public judge's,
    0.5 + SH_C0 sh, which may be negative; with more they are clamped at 0, as viewers do.
    Gaussians with a value that is not finite or with a zero quaternion are skipped.
    Raises Unavailable for device "cuda" without a GPU or gsplat.
    """
    backend = choose_backend(device)
    scene = _placed(splat, placement, min(sh_degree, splat.sh_degree), backend)
    logger.debug("prepared {:,} of {:,} gaussians for {}", len(scene.means), len(splat), backend)
    return scene


def draw(scene: Scene, cameras: Sequence[Camera], background: Color = WHITE) -> Views:
    """Draws the scene from each camera; the cameras of one call share width, height, near and far.

    background: colour in [0, 1]. Raises ValueError for cameras that differ, or for none.
    """
    if len({(camera.width, camera.height, camera.near, camera.far) for camera in cameras}) != 1:
        raise ValueError("draw needs at least one camera, all of one width, height, near and far")
    rasterize = raster_gsplat.draw if scene.backend == "gsplat" else _draw_cpu
    images, alphas = rasterize(scene, cameras, np.asarray(background, np.float32))
    return Views(images, alphas, tuple(cameras), scene.backend)


def overdraw(splat: Splat, cameras: Sequence[Camera], placement: Placement = IDENTITY) -> float:
    """The mean number of Gaussians per tile of 16 x 16 pixels, for the camera with the highest mean.

    Always counted on the CPU. Drawing time, and memory on a GPU, grow with it.
    """
    from app.splat import raster_cpu  # numba takes a second to import

    scene = _placed(splat, placement, 0, "cpu")
    counts = []
    for camera in cameras:
        size, clip = (camera.width, camera.height), (camera.near, camera.far)
        shape = scene.means, scene.quats, scene.scales, scene.opacities
        counts.append(raster_cpu.overdraw(*shape, camera.world_to_camera, camera.K, size, clip))
    return max(counts, default=0.0)


def choose_backend(device: Device) -> Backend:
    """The rasteriser that `device` selects on this host. Raises Unavailable for "cuda" without a GPU."""
    if device == "cpu":
        return "cpu"
    missing = raster_gsplat.missing_requirement()
    if missing and device == "cuda":
        raise Unavailable(f"device = 'cuda': {missing}; or choose device = 'cpu'")
    if missing:
        logger.debug("device = 'auto' means the CPU kernel: {}", missing)
    return "cpu" if missing else "gsplat"


@np.errstate(invalid="ignore", over="ignore")  # values of a damaged file may be anything
def _placed(splat: Splat, placement: Placement, degree: int, backend: Backend) -> Scene:
    numbers: Any = np
    put: Callable[[Float32], Any] = np.asarray
    if backend == "gsplat":
        import torch  # takes seconds to import, and the CPU kernel does not need it

        numbers, put = torch, raster_gsplat.to_gpu
    drawn = (degree + 1) ** 2
    arrays = splat.means, splat.quats, splat.log_scales, splat.opacity_logits, splat.sh[:, :drawn]
    means, quats, log_scales, logits, sh = fields = [put(array) for array in arrays]
    rest = (put(splat.sh[:, band]) for band in range(drawn, splat.sh.shape[1]))  # only checked, one band at a time
    seen = numbers.einsum("ij,ij->i", quats, quats) > 0
    for field in chain(fields, rest) if len(splat) else ():
        for column in field.reshape(len(splat), -1).T:
            seen &= numbers.isfinite(column)  # by column: reducing over a short last axis is twenty times slower
    if not seen.all():
        means, quats, log_scales, logits, sh = (field[seen] for field in fields)
    scales = numbers.exp(log_scales) * placement.scale
    return Scene(
        means=means * placement.scale + placement.offset,
        quats=quats,
        scales=scales.clip(max=MAX_SCALE),
        opacities=(sigmoid(logits, numbers) * placement.opacity_factor).clip(max=1),
        sh=sh,
        backend=backend,
    )


def _draw_cpu(scene: Scene, cameras: Sequence[Camera], background: Float32) -> tuple[Float32, Float32]:
    from app.splat.raster_cpu import is_compiled, rasterize  # numba takes a second to import

    if not is_compiled():
        logger.info("Compiling the CPU rasteriser, once on this machine: about 20 seconds")
    width, height = cameras[0].width, cameras[0].height
    images = np.empty((len(cameras), height, width, 3), np.float32)
    alphas = np.empty((len(cameras), height, width), np.float32)
    for view, camera in enumerate(cameras):
        images[view], alphas[view] = rasterize(
            scene.means,
            scene.quats,
            scene.scales,
            scene.opacities,
            view_colors(scene.means, scene.sh, camera.position),
            camera.world_to_camera,
            camera.K,
            (width, height),
            (camera.near, camera.far),
            background,
        )
    return np.clip(images, 0, 1, out=images), alphas


def side_by_side(views: Views) -> NDArray[np.uint8]:
    """(H, V * W, 3) uint8: the pictures left to right, in the order of the cameras."""
    return np.rint(np.concatenate(list(views.images), axis=1) * 255).astype(np.uint8)


def coverage(views: Views) -> float:
    """Fraction, over all views, of the pixels where something is visible: alpha above VISIBLE_ALPHA.

    0.109 for the robocop asset and 0.370 for the hamburger, both healthy and in the judge's placement, from azimuths
    0, 90, 180, 315 at pitches -15, -15, 0, -60. Repairs are compared with these figures.
    """
    return float((views.alphas > VISIBLE_ALPHA).mean())

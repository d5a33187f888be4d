"""The GPU rasteriser: gsplat in its classic mode.

torch, which takes seconds to import, is imported on first use.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from app.splat.cameras import Camera
from app.splat.harmonics import view_colors
from app.splat.model import Float32
from app.splat.scene import Scene

MAX_PINNED_BYTES = 1 << 26
"""Larger arrays are copied without pinned memory, which torch never gives back."""


def missing_requirement() -> str:
    """What this host lacks to draw with gsplat, and the remedy; empty if nothing is missing."""
    if find_spec("gsplat") is None:
        return "gsplat is not installed: pip install 'splatgate[gpu]'"
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU: check nvidia-smi and the container's GPU access"
    if not _kernels_run():
        return "gsplat's CUDA kernels are neither built nor buildable here: install nvcc and ninja, or a built gsplat"
    return ""


@cache
def _kernels_run() -> bool:
    """Whether gsplat's kernels run, tested by calling the smallest one; gsplat may build them first.

    Without kernels gsplat's functions fail with AttributeError or ImportError.
    """
    import torch
    from gsplat import quat_scale_to_covar_preci

    with contextlib.redirect_stdout(sys.stderr):  # gsplat reports its build on standard output
        try:
            quat_scale_to_covar_preci(torch.ones(1, 4, device="cuda"), torch.ones(1, 3, device="cuda"))
        except (AttributeError, ImportError):
            return False
    return True


def draw(scene: Scene, cameras: Sequence[Camera], background: Float32) -> tuple[Float32, Float32]:
    """Images (V, H, W, 3) and alphas (V, H, W) of a scene on the GPU, as numpy arrays."""
    from gsplat import rasterization

    if not len(scene.means):  # gsplat takes no empty arrays
        alphas = np.zeros((len(cameras), cameras[0].height, cameras[0].width), np.float32)
        return np.zeros((*alphas.shape, 3), np.float32) + background.clip(0, 1), alphas
    images, alphas, _ = rasterization(**arguments(scene, cameras, background))
    return _to_host(images.clip(0, 1)), _to_host(alphas[..., 0])


def arguments(scene: Scene, cameras: Sequence[Camera], background: Float32) -> dict[str, Any]:
    """What gsplat.rasterization takes: classic mode, its dilation of 0.3 px^2, colours already evaluated."""
    import torch

    if scene.sh.shape[1] == 1:
        colors = view_colors(scene.means, scene.sh, cameras[0].position)  # the same from every side
    else:
        colors = torch.stack([view_colors(scene.means, scene.sh, camera.position) for camera in cameras])
    return {
        "means": scene.means,
        "quats": scene.quats,
        "scales": scene.scales,
        "opacities": scene.opacities,
        "colors": colors,
        "viewmats": torch.from_numpy(np.stack([camera.world_to_camera for camera in cameras])).cuda(),
        "Ks": torch.from_numpy(np.stack([camera.K for camera in cameras])).cuda(),
        "backgrounds": torch.from_numpy(background).cuda().expand(len(cameras), -1).contiguous(),
        "width": cameras[0].width,
        "height": cameras[0].height,
        "near_plane": cameras[0].near,
        "far_plane": cameras[0].far,
        "packed": False,
    }


def to_gpu(field: Float32) -> Any:
    """The array as a CUDA tensor, copied through pinned memory: 0.39 ms for the means of 500,000 Gaussians on an
    H200's host, 0.53 ms without."""
    import torch

    array = torch.from_numpy(np.ascontiguousarray(field))
    return (array.pin_memory() if array.nbytes <= MAX_PINNED_BYTES else array).cuda(non_blocking=True)


def _to_host(pictures: Any) -> Float32:
    """A CUDA tensor as an array, through pinned memory, which torch caches: new pages would have to be faulted in."""
    import torch

    pinned = pictures.nbytes <= MAX_PINNED_BYTES
    host: Float32 = torch.empty(pictures.shape, dtype=pictures.dtype, pin_memory=pinned).copy_(pictures).numpy()
    return host

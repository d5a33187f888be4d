"""The turntable: one turn around a splat as an MP4 that every browser plays.

The splat is prepared once, and one frame is in memory at a time. This file does not know jobs or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from loguru import logger
from numpy.typing import NDArray

from app.config import Config, RenderConfig, TurntableConfig
from app.splat.blank import BLANK, why_blank
from app.splat.cameras import judge_placement, orbit
from app.splat.model import Splat
from app.splat.raster import coverage, draw, prepare
from app.writing import replacing

PITCH = -15.0
"""Degrees; from above, like the public judge's views."""

OnProgress = Callable[[float], None]
"""Called after each frame with the fraction done, in (0, 1]."""

X264 = {"preset": "medium", "crf": "24", "tune": "animation", "mbtree": "0"}
"""mbtree is off because with it small videos differ between runs (though not with asm=0). At 256 and 512 px, crf 24
without it is within 13 % in size and 0.4 dB in PSNR of crf 20 with it."""


def write_turntable(
    path: Path,
    splat: Splat,
    config: Config,
    *,
    size: int | None = None,
    seconds: float | None = None,
    fps: int | None = None,
    on_progress: OnProgress = lambda _done: None,
) -> None:
    """Writes an H.264 MP4 (yuv420p, playable while it loads) of the splat in the judge's placement on white.

    size (pixels per side, even), seconds and fps default to the `turntable` section of the configuration and have the
    same bounds. The last frame is one step before the first, so that the video loops smoothly. The same splat and
    settings give the same bytes on the same machine.
    Raises ValidationError (a ValueError) for a value out of range, BadFile if the file cannot be written, and
    Unavailable for render.device = "cuda" without a GPU.
    """
    options = {"size": size, "seconds": seconds, "fps": fps}
    chosen = {key: value for key, value in options.items() if value is not None}
    settings = TurntableConfig.model_validate(config.turntable.model_dump() | chosen)
    with replacing(path) as stream:
        # by name, because faststart opens the file again to move the index to the front
        _encode(stream.name, _frames(splat, config.render, settings), settings, on_progress)
    logger.info(f"Turntable: {settings.frames} frames of {settings.size} px, {path.stat().st_size / 2**20:.1f} MB")


def _frames(splat: Splat, settings: RenderConfig, turntable: TurntableConfig) -> Iterator[NDArray[np.uint8]]:
    """(size, size, 3) uint8 frames of one turn, starting at the front."""
    placement = judge_placement(splat, settings.extent)
    scene = prepare(splat, placement, device=settings.device)
    for azimuth in np.linspace(0, 360, turntable.frames, endpoint=False):
        camera = orbit(float(azimuth), PITCH, settings.radius, settings.fov, turntable.size)
        views = draw(scene, [camera])
        if azimuth == 0 and coverage(views) < BLANK:
            logger.warning(f"the first frame is blank: {why_blank(splat, placement)}")
        yield np.rint(views.images[0] * 255).astype(np.uint8)


def _encode(name: str, frames: Iterator[NDArray[np.uint8]], settings: TurntableConfig, on_progress: OnProgress) -> None:
    with av.open(name, "w", format="mp4", options={"movflags": "faststart", "fflags": "bitexact"}) as container:
        video = container.add_stream("libx264", rate=settings.fps, options=X264)
        video.width = video.height = settings.size
        video.pix_fmt = "yuv420p"
        video.thread_count = (
            1  # so that the bytes do not depend on the number of cores, which the rasteriser needs anyway
        )
        for done, frame in enumerate(frames, start=1):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            on_progress(done / settings.frames)
        container.mux(video.encode())

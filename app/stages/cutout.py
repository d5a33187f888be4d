"""A picture to a picture of its object alone: rembg's models, from a file of ours, on ONNX Runtime.

rembg looks for weights in the home directory and downloads what is not there; here a model is the file it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import onnxruntime
from loguru import logger
from PIL import Image

from app.errors import BadWeights, StageFailed
from app.reason import Reason

Kind = Literal["u2net", "birefnet-general"]
SOLID = 204
"""Alpha above it counts as the object, as TRELLIS counts."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class CutoutParams:
    """kind: whose way of preparing pictures and reading masks. The shares are of the picture's pixels."""

    kind: Kind = "u2net"
    min_share: float = 0.01
    max_share: float = 0.95


class Cutout:
    """A loaded model: `load()` once, `run(image)` often."""

    def __init__(self, params: CutoutParams, session: Any) -> None:
        self.params = params
        self.session = session

    def run(self, image: Image.Image) -> Image.Image:
        """RGBA: the picture, see-through where the object is not. One that is cut out already comes back as it is.

        Raises StageFailed where no object was found, or where everything was taken for one.
        """
        if is_cut_out(image):
            return image
        rgb = image.convert("RGB")
        cut = rgb.copy()
        cut.putalpha(self._mask(rgb))
        self._check_share(cut)
        return cut

    def _mask(self, rgb: Image.Image) -> Image.Image:
        """(L) as large as the picture."""
        with np.errstate(invalid="ignore"):  # an answer that is the same everywhere becomes NaN, then 0
            mask: Image.Image = self.session.predict(rgb)[0]
        return mask

    def _check_share(self, cut: Image.Image) -> None:
        share = float((np.asarray(cut)[..., 3] > SOLID).mean())
        if share < self.params.min_share:
            raise StageFailed(Reason("no_object", {"share": share, "min_share": self.params.min_share}))
        if share > self.params.max_share:
            raise StageFailed(Reason("no_background", {"share": share, "max_share": self.params.max_share}))


def is_cut_out(image: Image.Image) -> bool:
    """Whether any of it is see-through."""
    return image.mode == "RGBA" and bool((np.asarray(image)[..., 3] < 255).any())


def load(params: CutoutParams, weights: Path) -> Cutout:
    """weights: the .onnx file. Raises BadWeights where it is missing or no such model."""
    if not weights.is_file():
        raise BadWeights(f"{weights}: the cutout's weights are missing; correct cutout.model")
    session_class = _session_class(params.kind)
    from_file = type("FromFile", (session_class,), {"download_models": classmethod(lambda *_, **__: str(weights))})
    providers = onnxruntime.get_available_providers()
    try:
        session = from_file(params.kind, onnxruntime.SessionOptions(), providers=_chosen(providers))
    except Exception as error:  # noqa: BLE001  (ONNX Runtime's exceptions share no other base)
        reason = str(error).partition("\n")[0]
        raise BadWeights(f"{weights}: cannot be loaded: {reason}") from None
    logger.info(f"cutout: {params.kind} on {session.inner_session.get_providers()[0]}")
    return Cutout(params, session)


def _chosen(available: list[str]) -> list[str]:
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def _session_class(kind: Kind) -> Any:
    with _nothing_compiled():
        if kind == "birefnet-general":
            from rembg.sessions.birefnet_general import BiRefNetSessionGeneral

            return BiRefNetSessionGeneral
        from rembg.sessions.u2net import U2netSession

        return U2netSession


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """rembg imports alpha matting, which nobody here asks for; importing that has numba compile all of it, for 47 s.

    It stays uncompiled in this process. The switch is the whole process's: no other thread may import kernels of
    numba's meanwhile, and none does, for an engine loads before it takes jobs.
    """
    config: Any = numba.config
    with _one_at_a_time:
        before, config.DISABLE_JIT = config.DISABLE_JIT, True
        try:
            yield
        finally:
            config.DISABLE_JIT = before

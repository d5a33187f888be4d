"""Cuts the object out of a picture: the models of rembg, from a local file, on ONNX Runtime.

rembg itself looks for weights in the home directory and downloads missing ones; here a model is loaded from a file.
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
"""Pixels with more alpha belong to the object, as in TRELLIS."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class CutoutParams:
    """kind: the model whose pre- and postprocessing applies. The shares are of the pixels of the picture."""

    kind: Kind = "u2net"
    min_share: float = 0.01
    max_share: float = 0.95


class Cutout:
    """A loaded model: `load()` once, `run(image)` often."""

    def __init__(self, params: CutoutParams, session: Any) -> None:
        self.params = params
        self.session = session

    def run(self, image: Image.Image) -> Image.Image:
        """The picture as RGBA, transparent outside the object. A picture that is cut out already is returned unchanged.

        Raises StageFailed if no object was found, or if nearly everything belongs to it.
        """
        if is_cut_out(image, self.params):
            return image
        rgb = flatten(image)
        cut = rgb.copy()
        cut.putalpha(self._mask(rgb))
        self._check_share(cut)
        return cut

    def _mask(self, rgb: Image.Image) -> Image.Image:
        """The mask (mode L), of the size of the picture."""
        with np.errstate(invalid="ignore"):  # a constant mask becomes NaN, then 0
            mask: Image.Image = self.session.predict(rgb)[0]
        return mask

    def _check_share(self, cut: Image.Image) -> None:
        share = solid_share(cut)
        if share < self.params.min_share:
            raise StageFailed(Reason("no_object", {"share": share, "min_share": self.params.min_share}))
        if share > self.params.max_share:
            raise StageFailed(Reason("no_background", {"share": share, "max_share": self.params.max_share}))


def is_cut_out(image: Image.Image, params: CutoutParams) -> bool:
    """Whether the alpha channel leaves an object: one pixel at 254, rounded corners or a veil do not."""
    return image.mode == "RGBA" and params.min_share <= solid_share(image) <= params.max_share


def solid_share(image: Image.Image) -> float:
    """The share of the pixels of an RGBA picture that belong to the object."""
    return float((np.asarray(image)[..., 3] > SOLID).mean())


def flatten(image: Image.Image) -> Image.Image:
    """The picture as RGB: on white if it has transparency, with its most opaque pixels opaque. If it is transparent all
    over, alpha is ignored."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    alpha = image.getchannel("A")
    most = np.asarray(alpha).max()
    if most == 0:
        return image.convert("RGB")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(image, mask=alpha.point([min(255, round(value * 255 / most)) for value in range(256)]))
    return on_white


def load(params: CutoutParams, weights: Path) -> Cutout:
    """weights: the .onnx file. Raises BadWeights if it is missing or holds another kind of model."""
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
    """Disables numba's compiler while rembg is imported: it imports alpha matting, which is not used and takes 47 s to
    compile.

    The switch affects the whole process, so no other thread may import numba kernels meanwhile. None does, because an
    engine loads its models before it takes jobs.
    """
    config: Any = numba.config
    with _one_at_a_time:
        before, config.DISABLE_JIT = config.DISABLE_JIT, True
        try:
            yield
        finally:
            config.DISABLE_JIT = before

"""Profile full with random weights: what they cannot give is replaced after it was computed.

scripts/_full_service.py copies this file to app/stages/ of a copy of app/; scripts/bench_generate imports it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from app.config import Config
from app.errors import StageFailed
from app.splat.model import Splat
from app.stages import full
from app.stages.full import Full
from app.stages.picture import Picture
from app.trellis.pipeline import Trellis
from app.weights.store import OnLoad

VOXELS = "BENCH_VOXELS"
"""The environment variable that names a .npy file of (N, 3) integers: the voxels of an asset."""


@dataclass(frozen=True)
class TrellisOfAsset(Trellis):
    coords: Tensor

    def occupied(self, z: Tensor) -> Tensor:
        self.structure_decoder(z[None]).sum().item()
        return self.coords

    def decode(self, coords: Tensor, sampled: Tensor) -> Splat:
        return spread_opacity(super().decode(coords, sampled))


class FullRandom(Full):
    def cut_out(self, picture: Picture) -> Picture:
        with suppress(StageFailed):
            super().cut_out(picture)
        return replace(picture, image=object_of(picture.image))


def load(config: Config, on_load: OnLoad) -> FullRandom:
    loaded = full.load(config, on_load)
    coords = torch.from_numpy(np.load(os.environ[VOXELS]).astype(np.int32)).to(loaded.trellis.mean.device)
    trellis = TrellisOfAsset(**_values(loaded.trellis, Trellis), coords=coords)
    return FullRandom(**_values(loaded, Full) | {"trellis": trellis})


def spread_opacity(splat: Splat) -> Splat:
    """Opacity logits with the spread of real ones (2.7 .. 5.0). Those of random weights look corrupt."""
    logits = splat.opacity_logits - splat.opacity_logits.mean()
    return replace(splat, opacity_logits=(logits * np.float32(3.5 / logits.std())).astype(np.float32))


def object_of(image: Image.Image) -> Image.Image:
    """The picture with an ellipse as the object, because random weights find none."""
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse([side * share for share in (0.2, 0.8) for side in image.size], fill=255)
    cut = image.convert("RGB")
    cut.putalpha(mask)
    return cut


def _values(of: Full | Trellis, kind: type[Full | Trellis]) -> dict[str, Any]:
    return {each.name: getattr(of, each.name) for each in fields(kind)}

"""The generator of profile `full`: draws a picture from the prompt, cuts out the object, and turns it into a splat.

Files of models in the manifest are checked against the lock. Models given by path are not.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from loguru import logger
from torch import nn

from app.config import Config
from app.errors import BadInput, BadWeights
from app.samplers import SamplerSettings
from app.splat.model import Splat
from app.stages import cutout, image_to_splat, memory, quantize, text_to_image
from app.stages.cutout import Cutout, CutoutParams, Kind
from app.stages.memory import Part
from app.stages.picture import ModelInfo, OnStep, Picture
from app.stages.score import Scorer
from app.stages.text_to_image import ImageParams, TextToImage
from app.trellis.graphs import GraphCache
from app.trellis.pipeline import Trellis
from app.trellis.samplers import Sampling
from app.weights.manifest import find
from app.weights.store import OnLoad, digests_of_own, files_in, locate, locate_file, lock_of, no_progress

DENOISERS = {"transformer", "unet"}
"""Names in a pipeline of the network that runs once per step. The others run once per picture."""


@dataclass(frozen=True)
class Full:
    """The loaded models. `load()` once, `draw` and `build` often. sampling: how `build` samples."""

    image: TextToImage
    cutout: Cutout
    trellis: Trellis
    models: tuple[ModelInfo, ...]  # in the order in which they run
    sampling: Sampling

    @property
    def model_id(self) -> str:
        return " + ".join(each.model for each in self.models if each.role in ("text_to_image", "image_to_splat"))

    def with_samplers(self, settings: SamplerSettings) -> Full:
        """The same models, sampled by these settings."""
        return replace(self, sampling=self.trellis.published.changed(settings.values(), settings.oversample))

    def draw(self, prompt: str, seed: int, on_step: OnStep) -> Picture:
        """Raises StageFailed if the model returns non-finite values."""
        return self.image.run(prompt, seed, on_step)

    def build(self, _prompt: str, picture: Picture | None, seed: int) -> Splat:
        """The splat of a picture; the prompt is not used. Raises StageFailed if the result is unusable."""
        if picture is None:
            raise BadInput("this profile needs a picture: draw one first, or give one")
        logger.info(f"TRELLIS: {self.sampling}")
        return self.trellis.run(self.cut_out(picture).image, seed, self.sampling)

    def cut_out(self, picture: Picture) -> Picture:
        """The picture, transparent outside the object. Raises StageFailed if there is none."""
        return replace(picture, image=self.cutout.run(picture.image))

    def place_weights(self, scorer: Scorer | None, config: Config) -> None:
        """Places the weights of the image model and the scorer as [gpu] says. TRELLIS stays on the GPU."""
        if not torch.cuda.is_available():
            return
        device, steps = torch.device("cuda", torch.cuda.current_device()), config.image.steps
        parts = [Part(name, part, steps if name in DENOISERS else 1) for name, part in self.image.models.items()]
        for part in parts:
            if config.gpu.quantize != "none" and part.bytes > quantize.LEAST:
                quantize.quantize(part.module, config.gpu.quantize, device)
        if scorer and scorer.device.type == "cuda":  # score.device = "cpu" keeps it off the GPU
            parts.append(Part("scorer", scorer.model))
        mode = memory.place_weights(parts, config.gpu, device)
        if scorer:  # captured graphs hold the addresses of the weights
            scorer.graphs = GraphCache() if mode == "resident" and scorer.device.type == "cuda" else None
        if config.gpu.compile:
            for name in DENOISERS & self.image.models.keys():
                compile_blocks(self.image.models[name])


def load(config: Config, on_load: OnLoad = no_progress) -> Full:
    """Loads every model; the image model stays in CPU memory until `place_weights`. on_load: called with the progress.

    Raises NotFetched or WrongWeights, naming the remedy, and BadWeights for a path without such a model.
    """
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    _keep_compiled(config)
    picture, splat, encoder = (
        _found(name, config, on_load) for name in (config.image.model, config.trellis.model, config.trellis.encoder)
    )
    cut = _found(config.cutout.model, config, on_load, one_file=True)
    flows = _flows(config, on_load)
    on_load(f"loading {picture.name} and {cut.name}", 0, picture.bytes + cut.bytes)
    drawer = text_to_image.load(_image_params(config, picture.name, picture.path, device), picture.path)
    cutter = cutout.load(_cutout_params(config), cut.path)
    on_load(f"loading {splat.name} and {encoder.name}", 0, splat.bytes + encoder.bytes)
    trellis = image_to_splat.load(splat.path, encoder.path, device, flows.path if flows else None)
    return Full(
        drawer,
        cutter,
        trellis,
        (
            ModelInfo("text_to_image", picture.name, picture.sha256),
            ModelInfo("cutout", cut.name, cut.sha256),
            ModelInfo("image_features", encoder.name, encoder.sha256),
            ModelInfo("image_to_splat", splat.name, splat.sha256),
            *([ModelInfo("image_to_splat", flows.name, flows.sha256)] if flows else []),
        ),
        trellis.published,
    ).with_samplers(config.trellis)


def compile_blocks(denoiser: nn.Module) -> None:
    """Compiles the blocks at their first call, each kind once; not the whole model, as blocks may be offloaded."""
    for block in memory.blocks(denoiser):
        block.forward = torch.compile(block.forward)


def _keep_compiled(config: Config) -> None:
    """Keeps compiled kernels in a folder that survives restarts, unless the environment names another."""
    folder = Path(config.gpu.cache or Path(config.serve.data) / "cache").absolute()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def _image_params(config: Config, name: str, folder: Path, device: Literal["cpu", "cuda"]) -> ImageParams:
    if device == "cpu":
        logger.warning(f"no GPU is visible: profile {config.profile.name!r} computes on the CPU, in float32")
    tokens = text_to_image.text_tokens(config.image.max_tokens, folder)
    changed = {"model": name, "max_tokens": tokens} | ({"dtype": "float32"} if device == "cpu" else {})
    return ImageParams(**config.image.model_dump() | changed)


def _cutout_params(config: Config) -> CutoutParams:
    kind: Kind = "birefnet-general" if "birefnet" in Path(config.cutout.model).stem.lower() else "u2net"
    return CutoutParams(kind, config.cutout.min_share, config.cutout.max_share)


def _flows(config: Config, on_load: OnLoad) -> _Found | None:
    """The flows that take the place of TRELLIS's own; None without."""
    if config.trellis.flows:
        return _found(config.trellis.flows, config, on_load)
    if config.trellis.preset == "few-step":
        logger.warning('trellis.preset = "few-step" is for distilled flows, and trellis.flows is empty')
    return None


@dataclass(frozen=True)
class _Found:
    """A model: its name, path (a folder or its one file), a digest (hex) of all its files, and their size in bytes."""

    name: str
    path: Path
    sha256: str
    bytes: int


def _found(name: str, config: Config, on_load: OnLoad, *, one_file: bool = False) -> _Found:
    if "/" not in name:
        path = locate_file(name, config, on_load) if one_file else locate(name, config, on_load)
        locked = lock_of(find(name), config)
        return _Found(name, path, locked.sha256, locked.bytes)
    path = Path(name)
    files = [path] if path.is_file() else [path / file for file in files_in(path)]
    if not files:
        raise BadWeights(f"{path}: there is nothing there; correct the path, or use a name of `splatgate models list`")
    total = sum(file.stat().st_size for file in files)
    digests = digests_of_own(files, config, lambda count: on_load(f"hashing {path}", count, total))
    lines = "".join(f"{sha256}  {file.relative_to(path.parent)}\n" for file, sha256 in digests.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    return _Found(path.stem if one_file else path.name, path, digest, total)

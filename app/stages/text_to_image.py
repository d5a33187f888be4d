"""Text to image: any diffusers text-to-image pipeline in a folder.

This file does not know where the folder comes from or what the picture is used for.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from loguru import logger
from PIL import Image
from torch import Tensor, nn

from app.errors import BadWeights, ConfigError, StageFailed
from app.reason import Reason
from app.stages.picture import OnStep, Picture

NEEDED = ("prompt", "num_inference_steps", "generator", "output_type")
"""Arguments that a text-to-image diffusion pipeline must take."""


PADDED_TOKENS = {"Flux2KleinPipeline": 512}
"""Pipelines whose text is padded to the number of tokens they were trained with. The padding takes part in attention,
so that any other number gives another picture."""

DEFAULT_TOKENS = 256


@dataclass(frozen=True)
class ImageParams:
    """model: the name recorded in the picture. size: pixels per side. The rest as in ImageConfig."""

    model: str
    template: str = "{prompt}"
    steps: int = 4
    guidance: float = 0.0
    size: int = 512
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_tokens: int = DEFAULT_TOKENS


class TextToImage:
    """A loaded pipeline: `load()` once, `run(prompt, seed)` often."""

    def __init__(self, params: ImageParams, pipeline: Any) -> None:
        self.params = params
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def run(self, prompt: str, seed: int, on_step: OnStep = lambda _done, _of: None) -> Picture:
        """Draws the template with the prompt in it. The same prompt, seed, device and versions give the same picture.

        Raises StageFailed if the model returns non-finite values.
        """
        images = self.pipeline(**self.arguments(prompt, seed, on_step)).images
        return Picture(_to_image(images[0], self.params.model), seed, self.params.model)

    def arguments(self, prompt: str, seed: int, on_step: OnStep) -> dict[str, Any]:
        """The arguments that the call of this pipeline accepts; pipelines differ."""
        params = self.params

        def after_step(_pipeline: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, params.steps)
            return tensors

        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same noise
        arguments = {
            "prompt": params.template.replace("{prompt}", prompt),
            "height": params.size,
            "width": params.size,
            "num_inference_steps": params.steps,
            "guidance_scale": params.guidance,
            "max_sequence_length": params.max_tokens,
            "generator": generator,
            "output_type": "pt",
            "callback_on_step_end": after_step,
        }
        return {name: value for name, value in arguments.items() if name in _known(self.pipeline)}

    @property
    def models(self) -> dict[str, nn.Module]:
        """The networks, by their names in the pipeline."""
        parts = self.pipeline.components.items()
        return {name: part for name, part in parts if isinstance(part, nn.Module)}


def load(params: ImageParams, folder: Path) -> TextToImage:
    """Loads a folder in diffusers' layout to CPU memory; `memory.place_weights` places it.

    Reads safetensors only, runs no code of the folder, and does not use the network. Raises BadWeights if the folder
    holds no such pipeline.
    """
    _read_index(folder)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder, torch_dtype=getattr(torch, params.dtype), use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadWeights(f"{folder}: cannot be loaded as a diffusers pipeline: {reason}") from None
    if lacking := [name for name in NEEDED if name not in _known(pipeline)]:
        raise BadWeights(
            f"{folder}: {type(pipeline).__name__} takes no {lacking[0]!r}: it is no text-to-image pipeline"
        )
    logger.info(f"text to image: {params.model} ({type(pipeline).__name__}, {params.dtype})")
    return TextToImage(params, pipeline)


def text_tokens(wanted: int | Literal["auto"], folder: Path) -> int:
    """image.max_tokens for the pipeline in a folder. Raises ConfigError if it does not work with the wanted number."""
    kind = _read_index(folder)["_class_name"]
    needed = PADDED_TOKENS.get(kind)
    if wanted == "auto":
        return needed or DEFAULT_TOKENS
    if needed not in (None, wanted):
        raise ConfigError(
            f'image.max_tokens = {wanted}: {folder.name} ({kind}) needs {needed}: set image.max_tokens to "auto"'
        )
    return wanted


def _known(pipeline: Any) -> set[str]:
    return set(inspect.signature(pipeline.__call__).parameters)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}; a diffusers pipeline has one") from None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise BadWeights(f"{path}: names no class of diffusers; pipelines with code of their own are not run")
    return index


def _to_image(pixels: Tensor, model: str) -> Image.Image:
    """(3, H, W) in [0, 1] -> RGB."""
    values = pixels.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise StageFailed(Reason("picture_not_finite", {"model": model}))
    return Image.fromarray(np.rint(values.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8))

"""Turns a cut-out picture into a splat: TRELLIS, loaded from the published folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from loguru import logger

from app.errors import BadWeights
from app.trellis.dino import DinoParams
from app.trellis.loading import read_json
from app.trellis.pipeline import Trellis
from app.trellis.pipeline import load as load_trellis

NAMES = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "num_register_tokens": "num_register_tokens",
}
"""The encoder's parameters: our name -> the name in its config.json."""


def load(folder: Path, encoder: Path, device: Literal["cpu", "cuda"], flows: Path | None = None) -> Trellis:
    """folder: TRELLIS as published. encoder: DINOv2 with registers as published for transformers. flows: a folder with
    other weights of its flows.

    Raises BadWeights, naming the file and the error.
    """
    params = encoder_params(encoder)
    trellis = load_trellis(folder, encoder / "model.safetensors", device, encoder_params=params, flows=flows)
    logger.info(f"image to splat: {folder.name}{f' with flows {flows.name}' if flows else ''} on {device}")
    return trellis


def encoder_params(folder: Path) -> DinoParams:
    """The encoder's parameters from its config.json. Raises BadWeights, naming the missing key."""
    config = read_json(folder / "config.json")
    if missing := [name for name in NAMES.values() if not isinstance(config.get(name), int | float)]:
        raise BadWeights(f"{folder / 'config.json'}: has no number {missing[0]!r}: it must be a DINOv2 with registers")
    return DinoParams(**{ours: config[theirs] for ours, theirs in NAMES.items()})

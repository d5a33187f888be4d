"""Weights into models: built on the meta device, filled tensor by tensor, keys matched strictly, types decided here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from app.errors import BadWeights
from app.trellis.gaussians import GaussianDecoder
from app.trellis.latent import LatentFlow
from app.trellis.params import (
    GaussianDecoderParams,
    LatentFlowParams,
    StructureDecoderParams,
    StructureFlowParams,
    read,
)
from app.trellis.sparse import Kernel
from app.trellis.structure import StructureDecoder, StructureFlow

M = TypeVar("M", bound=nn.Module)
TORSO = ("blocks", "middle_block", "input_blocks", "out_blocks")
"""Where the linear layers and convolutions may be of half precision; all else is float32."""


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """The model of a config file's class name, on the meta device. Raises BadWeights for another name or argument."""
    with torch.device("meta"):
        match name.removeprefix("Elastic"):
            case "SparseStructureFlowModel":
                return StructureFlow(read(StructureFlowParams, args))
            case "SparseStructureDecoder":
                return StructureDecoder(read(StructureDecoderParams, args))
            case "SLatFlowModel":
                return LatentFlow(read(LatentFlowParams, args))
            case "SLatGaussianDecoder":
                return GaussianDecoder(read(GaussianDecoderParams, args))
    raise BadWeights(f"model class {name!r} is not known")


def types(model: nn.Module, torso: torch.dtype) -> dict[str, torch.dtype]:
    """The type of every tensor of the state dict when the torso computes in `torso`."""
    inside = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if path.split(".")[0] in TORSO and isinstance(module, nn.Linear | nn.Conv3d | Kernel)
        for name in ("weight", "bias")
    }
    return {key: torso if key in inside else torch.float32 for key in model.state_dict()}


def fill(model: M, keys: Iterable[str], tensor: Callable[[str], Tensor], device: torch.device, torso: torch.dtype) -> M:
    """Puts `tensor(key)` in place of every tensor of the model, one at a time; returns the model in eval mode.

    Raises BadWeights naming a key that is missing or unknown, or whose shape is another.
    """
    wanted, found = model.state_dict(), set(keys)
    if missing := sorted(set(wanted) - found):
        raise BadWeights(f"missing key {missing[0]!r} ({len(missing)} in all)")
    if unknown := sorted(found - set(wanted)):
        raise BadWeights(f"unknown key {unknown[0]!r} ({len(unknown)} in all)")
    state = {}
    for key, dtype in types(model, torso).items():
        value = tensor(key)
        if value.shape != wanted[key].shape:
            raise BadWeights(f"{key!r} has shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}")
        state[key] = value.to(device, dtype)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def fill_from_file(model: M, path: Path, device: torch.device, torso: torch.dtype) -> M:
    """`fill` from a safetensors file. Raises BadWeights, naming the file too."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return fill(model, file.keys(), file.get_tensor, device, torso)
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}; fetch it again, and the config beside it") from None


def load_model(stem: Path, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of <stem>.json and <stem>.safetensors.

    dtype: of the torso; None takes float16 where the config says use_fp16 and the device is a GPU, else float32.
    Raises BadWeights, naming the file and what is wrong.
    """
    config = read_json(stem.with_name(stem.name + ".json"))
    try:
        model = build(config["name"], config["args"])
    except KeyError as error:
        raise BadWeights(f"{stem}.json: has no {error}") from None
    half = config["args"].get("use_fp16", False) and device.type == "cuda"
    torso = dtype or (torch.float16 if half else torch.float32)
    return fill_from_file(model, stem.with_name(stem.name + ".safetensors"), device, torso)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadWeights where the file is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadWeights(f"{path}: is not a JSON object")
    return value

"""Loads weights. Models are built on the meta device and filled tensor by tensor; keys must match exactly."""

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
    parse_params,
)
from app.trellis.sparse import ConvKernel
from app.trellis.structure import StructureDecoder, StructureFlow

M = TypeVar("M", bound=nn.Module)
TORSO = ("blocks", "middle_block", "input_blocks", "out_blocks")
"""The parts whose linear layers and convolutions may be in half precision. Everything else is float32."""


def build(name: str, args: dict[str, Any]) -> nn.Module:
    """The model with the class name and the arguments of a config file, on the meta device. Raises BadWeights."""
    with torch.device("meta"):
        match name.removeprefix("Elastic"):
            case "SparseStructureFlowModel":
                return StructureFlow(parse_params(StructureFlowParams, args))
            case "SparseStructureDecoder":
                return StructureDecoder(parse_params(StructureDecoderParams, args))
            case "SLatFlowModel":
                return LatentFlow(parse_params(LatentFlowParams, args))
            case "SLatGaussianDecoder":
                return GaussianDecoder(parse_params(GaussianDecoderParams, args))
    raise BadWeights(f"model class {name!r} is not known")


def types(model: nn.Module, torso: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of every tensor of the state dict if the torso computes in `torso`."""
    inside = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if path.split(".")[0] in TORSO and isinstance(module, nn.Linear | nn.Conv3d | ConvKernel)
        for name in ("weight", "bias")
    }
    return {key: torso if key in inside else torch.float32 for key in model.state_dict()}


def fill(model: M, keys: Iterable[str], tensor: Callable[[str], Tensor], device: torch.device, torso: torch.dtype) -> M:
    """Assigns `tensor(key)` to every tensor of the model, one at a time. Returns the model in eval mode.

    Raises BadWeights, naming the key, if one is missing, unknown or of another shape.
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
    """`fill` from a safetensors file. Raises BadWeights, also naming the file."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return fill(model, file.keys(), file.get_tensor, device, torso)
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}; fetch it again, and the config beside it") from None


def load_model(
    stem: Path, device: torch.device, dtype: torch.dtype | None = None, weights: Path | None = None
) -> nn.Module:
    """The model of <stem>.json and <stem>.safetensors, or of other weights.

    dtype: of the torso. None is float16 if the config has use_fp16 and the device is a GPU, else float32.
    Raises BadWeights, naming the file and what is wrong.
    """
    config = read_json(stem.with_name(stem.name + ".json"))
    try:
        model = build(config["name"], config["args"])
    except KeyError as error:
        raise BadWeights(f"{stem}.json: has no {error}") from None
    half = config["args"].get("use_fp16", False) and device.type == "cuda"
    torso = dtype or (torch.float16 if half else torch.float32)
    return fill_from_file(model, weights or stem.with_name(stem.name + ".safetensors"), device, torso)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadWeights if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadWeights(f"{path}: is not a JSON object")
    return value

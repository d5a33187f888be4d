"""Quantizes the linear layers of large networks with torchao, block by block on the GPU."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any, Literal

import torch
from loguru import logger
from torch import nn

from app.errors import Unavailable
from app.stages.memory import blocks, move

Kind = Literal["fp8", "nf4"]
LEAST = 1_000_000_000
"""Smaller networks, such as the autoencoder and CLIP, are not quantized."""
FP8_CARDS = (8, 9)
"""The lowest compute capability with fp8 matrix multiplication. Older GPUs convert fp8 weights before they multiply."""


SENSITIVE = re.compile(r"(^|\.)(norm\w*|\w*mod(ulation)?|adaln\w*)(\.|$)", re.IGNORECASE)
"""Linear layers of adaptive norms, by their names in a block: they compute its scale, shift and gate from the time step
and the prompt, so that an error of one of them is in every token (docs/full-profile.md)."""


def quantize(module: nn.Module, kind: Kind, device: torch.device) -> None:
    """Quantizes the linear layers in the module's blocks, which are in CPU memory afterwards. fp8 skips SENSITIVE ones.

    Only one block at a time is on the device, so the whole module need not fit. Raises Unavailable without torchao.
    """
    if find_spec("torchao") is None:
        raise Unavailable(f"gpu.quantize = {kind!r} needs torchao: pip install 'splatgate[gpu]', or set it to \"none\"")
    for block in blocks(module):
        if kind == "nf4":
            _to_nf4(block.to(device))
        else:
            _to_fp8(block, device)
        move(block, torch.device("cpu"))
    logger.info(f"{type(module).__name__}: linear layers in {kind}")


def _to_nf4(block: nn.Module) -> None:
    from torchao.quantization import NF4Tensor

    for name, module in block.named_modules():
        if _divides(module, name):
            weight = NF4Tensor.from_tensor(module.weight, block_size=64, scaler_block_size=256)
            module.weight = nn.Parameter(weight, requires_grad=False)


def _to_fp8(block: nn.Module, device: torch.device) -> None:
    """set_inductor_config would autotune every kernel of gpu.compile, which takes minutes at each start."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    config: Any = Float8WeightOnlyConfig(set_inductor_config=False)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CARDS:
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(block, config, filter_fn=_withstands_fp8, device=device)


def _divides(module: nn.Module, _name: str) -> bool:
    """Whether it is a linear layer with dimensions that the kernels support. Few layers are not."""
    return isinstance(module, nn.Linear) and not (module.in_features % 64 or module.out_features % 64)


def _withstands_fp8(module: nn.Module, name: str) -> bool:
    return _divides(module, name) and not SENSITIVE.search(name)

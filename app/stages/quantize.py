"""Weights of fewer bits, by torchao: the linear layers of a large network, one after the other, on the GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from loguru import logger
from torch import nn

from app.errors import Unavailable
from app.stages.memory import blocks, move

Kind = Literal["fp8", "nf4"]
LEAST = 1_000_000_000
"""Bytes of a network that is worth it: the transformer and the large text encoder; not the autoencoder, not CLIP."""
FP8_CARDS = (8, 9)
"""The first compute capability that multiplies in fp8; older cards hold fp8 and multiply in the wider type."""


def quantize(module: nn.Module, kind: Kind, device: torch.device) -> None:
    """Replaces the weights of all linear layers in the module's blocks, which are in CPU memory afterwards.

    One block at a time visits the device for it, so that the whole need not fit. Raises Unavailable without torchao.
    """
    if find_spec("torchao") is None:
        raise Unavailable(f"gpu.quantize = {kind!r} needs torchao: pip install 'splatgate[gpu]', or set it to \"none\"")
    from torchao.quantization import quantize_

    how = _how(kind, device)
    for block in blocks(module):
        quantize_(block, how, filter_fn=_divides, device=device)
        move(block, torch.device("cpu"))
    logger.info(f"{type(module).__name__}: linear layers in {kind}")


def _how(kind: Kind, device: torch.device) -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, Float8WeightOnlyConfig, PerRow

    if kind == "nf4":
        from torchao.prototype._nf4tensor_api import NF4WeightOnlyConfig

        return NF4WeightOnlyConfig()
    # set_inductor_config would tune every kernel of gpu.compile by trial, in minutes at each start
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CARDS:
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    return Float8WeightOnlyConfig(set_inductor_config=False)


def _divides(module: nn.Module, _name: str) -> bool:
    """Linear layers whose sides the kernels can take; a network's few odd ones stay as they are."""
    return isinstance(module, nn.Linear) and not (module.in_features % 64 or module.out_features % 64)

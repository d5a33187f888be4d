"""The private names of dependencies that have no public replacement. No other module may use one: see
tests/test_source.py. Each function says why it is needed and what would replace it."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_gelu(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(rows W^t + bias), tanh approximation: (N, in), (out, in), (out,) -> (N, out). CUDA only.

    cuBLASLt applies bias and GELU in the epilogue of the product, which saves a pass over the widest activation of
    every transformer block. `F.gelu(F.linear(...))` replaces it once eager PyTorch fuses the two.
    """
    return torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)

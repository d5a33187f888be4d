"""Quantization: results stay close, memory shrinks, and quantized weights can be offloaded."""

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

from app.stages.memory import BlockOffloader, _spans, blocks, bytes_of, move, pack, unpack
from app.stages.quantize import quantize

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")  # torchao's own

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NEAR = [("fp8", 0.54, 0.1), ("nf4", 0.30, 0.2)]


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(5))

    def forward(self, x):
        for layer in self.layers:
            x = torch.nn.functional.gelu(layer(x)) + x
        return x


def quantised(kind: str, device: torch.device) -> tuple[Tower, torch.Tensor, torch.Tensor, float]:
    """The tower, an input, the answer before, and the share of the memory that is left."""
    torch.manual_seed(0)
    tower = Tower().to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(64, 512).to(device, torch.bfloat16)
    with torch.inference_mode():
        expected = tower.to(device)(x)
    before = bytes_of(tower)
    quantize(tower.to("cpu"), kind, device)
    share = bytes_of(tower) / before
    move(tower, device)
    return tower, x, expected, share


@pytest.mark.parametrize(("kind", "most", "error"), NEAR)
@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=pytest.mark.gpu)], ids=str)
def test_quantised_is_small_and_near(kind, most, error, device):
    tower, x, expected, share = quantised(kind, device)
    with torch.inference_mode():
        found = tower(x)
    assert share < most
    assert float((found - expected).norm() / expected.norm()) < error


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_a_quantised_block_packed_and_unpacked_is_the_same_block(kind):
    tower, x, _, _ = quantised(kind, CPU)
    block = tower.layers[0]
    with torch.inference_mode():
        before = block(x)
        host_memory = torch.empty(_spans(block)[1], dtype=torch.uint8)
        pack(block, host_memory)
        unpack(block, host_memory.clone())
        assert torch.equal(block(x), before)


@pytest.mark.parametrize("kind", ["fp8", "nf4"])
@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=pytest.mark.gpu)], ids=str)
def test_the_compiler_is_set_as_before(kind, device):
    with inductor.patch(coordinate_descent_tuning=False):
        quantised(kind, device)
        assert not inductor.coordinate_descent_tuning


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_what_is_quantised_may_visit(kind):
    tower, x, _, _ = quantised(kind, CUDA)
    with torch.inference_mode():
        found = tower(x)
        BlockOffloader(blocks(tower), CUDA)
        assert all(torch.equal(tower(x), found) for _ in range(5))

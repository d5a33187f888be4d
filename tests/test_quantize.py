"""Quantization: results stay close, memory shrinks, and quantized weights can be offloaded."""

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, ZImageTransformer2DModel
from torch import nn
from torch._inductor import config as inductor

from app.stages.memory import BlockOffloader, _spans, blocks, bytes_of, move, pack, unpack
from app.stages.quantize import SENSITIVE, quantize

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


TRANSFORMERS = {
    "FLUX.1": lambda: FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=64, pooled_projection_dim=64, axes_dims_rope=(8, 12, 12),
    ),
    "FLUX.2": lambda: Flux2Transformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=64, axes_dims_rope=(8, 8, 8, 8), guidance_embeds=False,
    ),
    "Z-Image": lambda: ZImageTransformer2DModel(
        dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=64, axes_dims=[8, 12, 12]
    ),
}  # fmt: skip
KEPT = {
    "FLUX.1": {"norm1.linear", "norm1_context.linear", "norm.linear"},
    "FLUX.2": set(),  # the blocks share theirs, which are outside
    "Z-Image": {"adaLN_modulation.0"},
}
"""Layers of the blocks that stay as they are: those of the adaptive norms."""


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_fp8_leaves_out_adaptive_norms_and_what_is_outside_of_blocks(model):
    with torch.random.fork_rng():
        transformer = TRANSFORMERS[model]().to(torch.bfloat16).requires_grad_(False)
    weights = {name: weight.clone() for name, weight in transformer.state_dict().items()}
    quantize(transformer, "fp8", CPU)
    linear = {
        name: layer
        for block in blocks(transformer)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and layer.in_features % 64 == layer.out_features % 64 == 0
    }
    assert {name for name, layer in linear.items() if type(layer.weight.data) is torch.Tensor} == KEPT[model]
    assert len(linear) > len(KEPT[model]) + 3
    inside = [f"{prefix}." for prefix, module in transformer.named_children() if isinstance(module, nn.ModuleList)]
    for name, weight in transformer.state_dict().items():
        if not name.startswith(tuple(inside)):
            assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize(
    ("name", "sensitive"),
    [
        ("norm1.linear", True),
        ("norm1_context.linear", True),
        ("adaLN_modulation.1", True),
        ("img_mod.1", True),
        ("txt_modulation.lin", True),
        ("attn.to_q", False),
        ("attn.norm_q", True),  # no linear layer
        ("ff.net.0.proj", False),
        ("feed_forward.w1", False),
        ("modest.proj", False),
        ("layer.1.DenseReluDense.wo", False),
    ],
)
def test_adaptive_norms_are_told_by_their_names(name, sensitive):
    assert bool(SENSITIVE.search(name)) == sensitive


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

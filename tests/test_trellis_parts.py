"""Parts of TRELLIS against reference implementations: dense volumes, plain attention, one branch at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadWeights
from app.trellis import loading
from app.trellis.attention import CrossAttention, Windows, attend
from app.trellis.graphs import GraphCache
from app.trellis.latent import LatentFlow
from app.trellis.layers import position_embedding
from app.trellis.samplers import SamplerParams, read_sampler, schedule, times, trajectory
from app.trellis.sparse import Levels, SubmanifoldConv
from app.trellis.sparse import pad_rows as repeat_last
from app.trellis.structure import patchify, unpatchify

ROOT = Path(__file__).resolve().parent.parent
TINY = {"resolution": 8, "in_channels": 4, "out_channels": 4, "model_channels": 12, "cond_channels": 10,
        "num_blocks": 2, "num_heads": 2}  # fmt: skip
seeds = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def voxels(seed: int, side: int, density: float) -> torch.Tensor:
    """(N, 3), N >= 1, in a random order."""
    taken = torch.rand(side, side, side, generator=generator(seed)) < density
    taken[-1, 0, side // 2] = True
    coords = torch.argwhere(taken)
    return coords[torch.randperm(len(coords), generator=generator(seed))]


def randomised(model, seed: int):
    state = {
        key: torch.randn(value.shape, generator=generator(seed + number))
        * (0.3 if value.ndim < 2 else value[0].numel() ** -0.5)
        for number, (key, value) in enumerate(model.state_dict().items())
    }
    return loading.fill(model, state, state.__getitem__, torch.device("cpu"), torch.float32)


# --- sparse tensors ---------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seeds, st.integers(2, 7), st.floats(0.05, 0.9), st.sampled_from([(3, 5), (9, 2)]))
def test_submanifold_convolution_is_the_dense_one_at_the_voxels(seed, side, density, widths):
    channels, out = widths  # both ways to gather
    coords = voxels(seed, side, density)
    conv = randomised(SubmanifoldConv(channels, out), seed)
    feats = torch.randn(2, len(coords), channels, generator=generator(seed))
    x, y, z = coords.T
    volume = torch.zeros(2, channels, side, side, side)
    volume[:, :, x, y, z] = feats.transpose(1, 2)
    dense = F.conv3d(volume, conv.conv.weight.permute(0, 4, 1, 2, 3), conv.conv.bias, padding=1)
    levels, _ = Levels.build(coords)
    torch.testing.assert_close(
        conv(feats, levels.neighbours), dense[:, :, x, y, z].transpose(1, 2), atol=1e-5, rtol=1e-4
    )


@settings(max_examples=25)
@given(seeds, st.integers(1, 9), st.floats(0.05, 1.0))
def test_halving_and_doubling(seed, side, density):
    coords = voxels(seed, side, density)
    levels, cells = Levels.build(coords)
    assert cells.tolist() == [list(p) for p in sorted({tuple(p) for p in (coords // 2).tolist()})]
    assert torch.equal(cells[levels.parents], coords // 2)
    feats = torch.randn(1, len(coords), 3, generator=generator(seed))
    coarse = levels.down(feats)
    for row in range(len(cells)):
        mine = feats[0, (coords // 2 == cells[row]).all(1)]
        torch.testing.assert_close(coarse[0, row], mine.sum(0) / (len(mine) + 1))
    assert torch.equal(levels.up(coarse)[0], coarse[0, levels.parents])


@settings(max_examples=25)
@given(seeds, st.integers(3, 8), st.floats(0.05, 0.8))
def test_convolution_of_doubled_features_without_doubling_them(seed, side, density):
    coords = voxels(seed, side, density)
    levels, cells = Levels.build(coords)
    conv = randomised(SubmanifoldConv(6, 2), seed)
    coarse = torch.randn(1, len(cells), 6, generator=generator(seed))
    torch.testing.assert_close(
        conv(coarse, levels.upward), conv(levels.up(coarse), levels.neighbours), atol=1e-5, rtol=1e-4
    )


# --- the latent flow --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow() -> LatentFlow:
    args = TINY | {"qk_rms_norm": True, "io_block_channels": [6]}
    return randomised(loading.build("SLatFlowModel", args), 0)


@settings(max_examples=10)
@given(seeds, st.floats(0.1, 0.6))
def test_padding_changes_nothing(flow, seed, density):
    """Padded sizes, as on a GPU, give the same result as the true sizes."""
    coords = voxels(seed, 8, density)
    state, condition = (
        torch.randn(len(coords), 4, generator=generator(seed)),
        torch.randn(5, 10, generator=generator(seed)),
    )
    wanted = flow.bind(coords, [condition, torch.zeros(5, 10)], [700.0])(state, 0, (0, 1))
    sites = flow.sites(coords)
    levels, cells = Levels.build(coords, 64, 16)
    n, t = len(levels.neighbours), len(levels.children)
    positions = repeat_last(sites.positions, t)
    padded = sites._replace(levels=levels, positions=positions, length=torch.tensor([len(cells)], dtype=torch.int32))
    vectors = flow.time_embeddings([700.0])
    residual = tuple(block.modulation(vectors)[0] for block in (*flow.input_blocks, *flow.out_blocks))
    branches = flow.context([condition, torch.zeros(5, 10)]).select((0, 1))
    state = repeat_last(state, n)
    found = flow.velocity(state, flow.modulation(vectors)[0], residual, branches, padded)
    torch.testing.assert_close(found[:, : len(coords)], wanted, atol=2e-5, rtol=1e-4)
    last = found[:, len(coords) - 1 : len(coords)].expand(-1, n - len(coords), -1)
    torch.testing.assert_close(found[:, len(coords) :], last, atol=2e-5, rtol=1e-4)  # so it cannot overflow alone


def test_branches_side_by_side_are_the_branches_one_by_one(flow):
    coords = voxels(1, 8, 0.3)
    state = torch.randn(len(coords), 4, generator=generator(1))
    conditions = [torch.randn(5, 10, generator=generator(number)) for number in range(3)] + [torch.zeros(5, 10)]
    velocity = flow.bind(coords, conditions, [900.0, 300.0])
    for chosen in ((0, 3), (1, 3), (0, 1, 2), (0, 1, 2, 3), (2, 0)):
        together = velocity(state, 1, chosen)
        for v, index in zip(together, chosen, strict=True):
            torch.testing.assert_close(v, velocity(state, 1, (index,))[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="must come last"):
        velocity(state, 0, (3, 0))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_answer_to_a_context_of_zeros_is_one_vector(qk_norm):
    layer = randomised(CrossAttention(12, 10, 2, qk_norm), 3)
    x = torch.randn(1, 20, 12, generator=generator(4))
    seen = layer(x, layer.keys_values(torch.zeros(1, 7, 10)))
    torch.testing.assert_close(seen[0], layer.zero_context_output().expand(20, -1), atol=1e-6, rtol=1e-5)


def test_a_modulation_that_the_blocks_share_works_beside_blocks_of_half_precision():
    flow = randomised(loading.build("SLatFlowModel", TINY | {"share_mod": True}), 9)
    wanted = flow.modulation(flow.time_embeddings([700.0]))
    flow.blocks.half()  # as on a GPU: the shared layer stays float32
    found = flow.modulation(flow.time_embeddings([700.0]))
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


def test_without_input_and_output_blocks_the_voxels_are_the_tokens():
    flow = randomised(loading.build("SLatFlowModel", TINY | {"out_channels": 3}), 5)
    coords = voxels(5, 8, 0.2)
    state, condition = torch.randn(len(coords), 4, generator=generator(5)), torch.randn(5, 10, generator=generator(6))
    mixed = torch.randperm(len(coords), generator=generator(7))
    straight = flow.bind(coords, [condition], [500.0])(state, 0, (0,))
    shuffled = flow.bind(coords[mixed], [condition], [500.0])(state[mixed], 0, (0,))
    assert straight.shape == (1, len(coords), 3)
    torch.testing.assert_close(straight[:, mixed], shuffled, atol=1e-5, rtol=1e-4)


# --- tokens, windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 4])
def test_patches_are_split_and_joined(p):
    volume = torch.arange(3 * 8**3, dtype=torch.float32).reshape(1, 3, 8, 8, 8)
    tokens = patchify(volume, p)
    assert tokens.shape == (1, (8 // p) ** 3, 3 * p**3)
    assert torch.equal(tokens[0, 1, :p], volume[0, 0, 0, 0, p : 2 * p])  # z fastest, within a token too
    assert torch.equal(unpatchify(tokens, p, 8), volume)


def test_positions_are_sines_then_cosines_axis_by_axis():
    row = position_embedding(torch.tensor([[3, 0, 5]]), 20)[0]
    w = 1e-4 ** (np.arange(3) / 3)
    wanted = np.concatenate([f(p * w) for p in (3, 0, 5) for f in (np.sin, np.cos)] + [[0, 0]])
    np.testing.assert_allclose(row.numpy(), wanted, atol=1e-6)


@settings(max_examples=10)
@given(seeds, st.sampled_from([(4, 0), (4, 2), (8, 4)]))
def test_attention_runs_within_each_window_and_only_there(seed, window):
    width, shift = window
    coords = voxels(seed, 9, 0.05)
    qkv = torch.randn(len(coords), 3, 2, 4, generator=generator(seed))
    windows = Windows(coords, width, shift)
    found = windows.attend(qkv[windows.order])
    cubes = (coords + shift) // width
    for row in range(len(coords)):
        mates = (cubes == cubes[row]).all(1)
        alone = attend(qkv[row : row + 1, 0][None], qkv[mates, 1][None], qkv[mates, 2][None])[0, 0]
        torch.testing.assert_close(found[row], alone, atol=1e-5, rtol=1e-4)


# --- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "guided"), [(12, 10), (25, 19), (50, 38)])
def test_guided_steps_of_the_published_interval(steps, guided):
    steps = schedule(SamplerParams(steps=steps))
    assert sum(len(step.weights) == 2 for step in steps) == guided
    assert steps[0].time == 1.0
    assert steps[-1].next_time == 0.0


def test_the_step_at_one_half_exactly_is_inside():
    steps = schedule(SamplerParams(steps=12))
    assert steps[9].time == 0.5
    assert len(steps[9].weights) == 2


@given(st.integers(1, 60), st.floats(0, 20), st.floats(0.5, 8))
def test_weights_of_a_step_sum_to_one_and_time_runs_down(count, strength, rescale):
    steps = schedule(SamplerParams(steps=count, cfg_strength=strength, rescale_t=rescale))
    assert [step.time for step in steps] == times(count, rescale)[:-1]
    for step in steps:
        assert step.time > step.next_time
        assert sum(weight for _, weight in step.weights) == pytest.approx(1)


def test_a_straight_flow_is_integrated_exactly():
    data, noise = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 4.0])
    steps = schedule(SamplerParams(steps=7, cfg_strength=3.0))

    def velocity(_state, _step, chosen):
        return torch.stack([noise - data] * len(chosen))

    torch.testing.assert_close([x for x, _ in trajectory(velocity, noise, steps)][-1], data)


def test_samplers_by_name():
    plain = read_sampler({"name": "FlowEulerSampler", "params": {"steps": 4}})
    assert all(len(step.weights) == 1 for step in schedule(plain))
    guided = read_sampler({"name": "FlowEulerCfgSampler", "params": {"steps": 4, "cfg_strength": 2.0}})
    assert all(step.weights == ((0, 3.0), (1, -2.0)) for step in schedule(guided))
    with pytest.raises(BadWeights, match="'Heun' is not known"):
        read_sampler({"name": "Heun"})
    with pytest.raises(BadWeights, match="cfg_scale"):
        read_sampler({"name": "FlowEulerSampler", "params": {"cfg_scale": 1}})


# --- GPU kernels ------------------------------------------------------------------------------------------------------

KERNELS = textwrap.dedent("""
    import triton.runtime.interpreter as interpreter
    plain = interpreter._patch_lang_tensor
    def patched(tensor, scope):  # NumPy 2.4 refuses int() of an array of one element
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
    interpreter._patch_lang_tensor = patched

    import torch
    import torch.nn.functional as F
    from app.trellis import fused, kernels

    torch.manual_seed(0)
    half = lambda *shape: torch.randn(*shape).half()
    def near(a, b, bound):
        assert float((a.float() - b.float()).abs().max()) < bound, float((a.float() - b.float()).abs().max())

    for width in (36, 64):  # not a power of two, and one
        for gate in (None, torch.randn(width)):
            for constant in (None, torch.randn(width)):
                x, y, scale, shift = half(5, width), half(5, width), torch.randn(width), torch.randn(width)
                ours, theirs = x.clone(), x.clone()
                a, b = torch.empty_like(x), torch.empty_like(x)
                kernels.add_norm(ours, y, gate, constant, scale, shift, 1e-6, a, gate is None)
                fused.add_norm_(theirs, y, gate, constant, scale, shift, 1e-6, b, silu=gate is None)
                near(ours, theirs, 1e-2), near(a, b, 2e-2)
                kernels.add(ours, y, gate), fused.add_(theirs, y, gate)
                near(ours, theirs, 2e-2)

    qkv, gammas = half(5, 3, 3, 12), (torch.randn(3, 12), torch.randn(3, 12))
    ours = qkv.clone()
    kernels.rms_norm(ours[:, :2], gammas), fused.rms_norm_(qkv[:, :2], gammas)
    near(ours, qkv, 1e-2)

    for queries, keys, length, factor in ((130, 64, None, 1), (9, 70, 50, 1), (9, 200, 150, 1), (9, 200, None, 20)):
        q, k, v = half(1, queries, 3, 2, 32)[:, :, 0], half(1, keys, 2, 32), half(1, keys, 2, 32)
        k[:, 100:] *= factor  # at 20, weights outgrow the first tile's maximum: the exact way round
        count = None if length is None else torch.tensor([length], dtype=torch.int32)
        wanted = F.scaled_dot_product_attention(*(t.float().transpose(1, 2) for t in (q, k[:, :length], v[:, :length])))
        near(kernels.attention(q, k, v, count), wanted.transpose(1, 2).flatten(2), 3e-3)

    x, table = half(2, 50, 64), torch.randint(0, 51, (60, 27))
    weight, bias = (torch.randn(128, 27 * 64) * 0.03).half(), half(128)
    exact = fused.convolution(x.float(), table, weight.float(), bias.float())
    near(kernels.convolution(x, table, weight, bias), exact, 2e-2)
    x, table, bias = half(2, 50, 27, 32), torch.randint(0, 51, (40, 27)), half(32)
    near(kernels.gather_sum(x, table, bias), fused.gather_sum(x.float(), table, bias.float()), 2e-2)
    print("all agree")
""")


def test_gpu_kernels_agree_with_the_operations_that_define_them():
    pytest.importorskip("triton", reason="this platform's torch comes without Triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all agree" in done.stdout


@torch.inference_mode()
def test_held_inputs_share_one_memory_and_keep_their_values():
    graphs, place = GraphCache(), (0,)
    first = torch.arange(6.0)
    held, buffers = graphs._buffered((first,))  # the buffers live as long as a recording has them
    assert held[0].data_ptr() == first.data_ptr(), "the first tensor is not copied"
    assert graphs.allocate(place, (6,), first).data_ptr() != first.data_ptr(), "while it lives, its memory is not given"
    second = torch.arange(6.0) + 10
    graphs._buffered((second,))
    assert torch.equal(held[0], second)
    assert torch.equal(first, torch.arange(6.0)), "it has moved out"
    graphs._buffered((first,))
    assert torch.equal(held[0], first)
    assert torch.equal(second, torch.arange(6.0) + 10)
    del first
    room = graphs.allocate(place, (6,), second)
    room.copy_(torch.arange(6.0) + 20)
    assert graphs._buffered((room,))[0][0].data_ptr() == room.data_ptr() == buffers[0].tensor.data_ptr()
    graphs._buffered((second,))
    assert torch.equal(held[0], second)
    assert torch.equal(room, torch.arange(6.0) + 20)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_recorded_steps_on_a_gpu_agree_with_float32_and_with_themselves():
    args = {"resolution": 64, "in_channels": 8, "out_channels": 8, "model_channels": 128, "cond_channels": 64,
            "num_blocks": 2, "num_heads": 2, "qk_rms_norm": True, "io_block_channels": [128]}  # fmt: skip
    made = loading.build("SLatFlowModel", args)
    state = {
        key: torch.randn(v.shape, generator=generator(1)) * (0.3 if v.ndim < 2 else v[0].numel() ** -0.5)
        for key, v in made.state_dict().items()
    }
    device = torch.device("cuda")
    half, exact = (
        loading.fill(loading.build("SLatFlowModel", args), state, state.__getitem__, device, t)
        for t in (torch.float16, torch.float32)
    )
    with torch.inference_mode():
        for seed in (1, 2, 1):  # the first object comes back to its recording after another has used it
            coords = voxels(seed, 24, 0.2).to(device)
            conditions = [torch.randn(9, 64, generator=generator(seed)).to(device), torch.zeros(9, 64, device=device)]
            start = torch.randn(len(coords), 8, generator=generator(seed)).to(device)
            replayed, plain = (flow.bind(coords, conditions, [600.0, 200.0]) for flow in (half, exact))
            for step, chosen in ((0, (0, 1)), (1, (0,)), (0, (0, 1))):
                found, wanted = replayed(start, step, chosen), plain(start, step, chosen)
                assert float((found - wanted).norm() / wanted.norm()) < 3e-3
                assert torch.equal(found, replayed(start, step, chosen))
            if seed == 2:  # two runs in turn
                other = half.bind(coords, [conditions[0] + 1, conditions[1]], [600.0, 200.0])
                assert not torch.equal(other(start, 0, (0, 1)), replayed(start, 0, (0, 1)))
                assert torch.equal(replayed(start, 0, (0, 1)), found)

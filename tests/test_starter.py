"""The starter's training: the trained models are the product's, and every stage runs in its smallest form."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from starter import forward, models, picture, world
from starter.sizes import TINY

from app.stages.scene import parse
from app.trellis.dino import Dino

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's, of models being written and read


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """With random weights everywhere: weights that start at zero would hide differences."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.fixture
def coords() -> torch.Tensor:
    """Voxels of two objects, rows (b, x, y, z), sorted."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.cat([torch.full((150, 1), -1), torch.randint(16, (150, 3), generator=generator)], dim=1)
    rows[:, 0] = (torch.arange(150) >= 60).long()
    return torch.unique(rows, dim=0)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_image_encoder_that_is_trained_is_the_one_that_is_used():
    encoder: Dino = filled(models.image_encoder(TINY))
    images = torch.rand(2, 3, TINY.seen, TINY.seen)
    same(forward.encode(encoder, images), encoder(images))


def test_the_structure_models_that_are_trained_are_those_that_are_used():
    flow = filled(models.trellis_model("sparse_structure_flow_model", TINY))
    decoder = filled(models.trellis_model("sparse_structure_decoder", TINY))
    z, t, context = torch.randn(2, 8, 4, 4, 4), torch.tensor([0.3, 0.9]), torch.randn(2, 5, TINY.width)
    same(forward.structure_velocity(flow, z, t, context), flow(z, 1000 * t, context))
    same(forward.structure_velocity(flow, z, t, 0 * context), flow(z, 1000 * t, 0 * context))
    same(forward.decode_structure(decoder, z), decoder(z))


def test_the_latent_flow_that_is_trained_is_the_one_that_is_used(coords):
    flow = filled(models.trellis_model("slat_flow_model", TINY))
    x, t, context = torch.randn(len(coords), 8), torch.tensor([0.3, 0.9]), torch.randn(2, 5, TINY.width)
    found = forward.latent_velocity(flow, x, t, context, forward.tables(coords, 2, 16))
    same(found, flow(coords, x, 1000 * t, context))


def test_the_gaussian_decoder_that_is_trained_is_the_one_that_is_used(coords):
    decoder = filled(models.trellis_model("slat_decoder_gs", TINY))
    latents = torch.randn(len(coords), 8)
    found = forward.decode_latents(decoder, coords, latents, forward.partitions(coords, TINY.window, 16))
    used = [decoder(coords[coords[:, 0] == b, 1:], latents[coords[:, 0] == b]) for b in (0, 1)]
    same(found, torch.cat(used))


def test_gradients_of_gathering_are_those_of_indexing(coords, monkeypatch):
    flow = filled(models.trellis_model("slat_flow_model", TINY)).requires_grad_(True)
    decoder = filled(models.trellis_model("slat_decoder_gs", TINY)).requires_grad_(True)
    x, t, context = torch.randn(len(coords), 8), torch.tensor([0.3, 0.9]), torch.randn(2, 5, TINY.width)
    weights = torch.randn(len(coords), 1)

    def gradients() -> list[torch.Tensor]:
        velocity = forward.latent_velocity(flow, x, t, context, forward.tables(coords, 2, 16))
        raw = forward.decode_latents(decoder, coords, x, forward.partitions(coords, TINY.window, 16))
        loss = (weights * velocity).sum() + (weights * raw).sum()
        return list(torch.autograd.grad(loss, [*flow.parameters(), *decoder.parameters()], allow_unused=True))

    ours = gradients()
    monkeypatch.setattr(forward, "gather", lambda x, index, _back: F.pad(x, (0, 0, 0, 1))[index])
    for mine, plain in zip(ours, gradients(), strict=True):
        assert (mine is None) == (plain is None)
        if mine is not None:
            same(mine, plain)


def test_an_object_is_the_same_in_the_volume_and_as_a_splat():
    made = world.make(parse("a blue rocket"), np.random.default_rng(3), TINY)
    assert made.points.min() >= 0
    assert made.points.max() < 1
    assert np.ptp(made.points, axis=0).max() == pytest.approx(world.SIDE, abs=0.01)
    x, y, z = made.splat.means.T + 0.5  # +Y up; the volume is +Z up
    assert np.allclose(np.sort(made.points[:, 2]), np.sort(y), atol=1e-5)
    assert np.allclose(np.sort(made.points[:, 0]), np.sort(x), atol=1e-5)
    assert np.allclose(np.sort(made.points[:, 1]), np.sort(1 - z), atol=1e-5)
    cells = np.floor(made.points * TINY.resolution).astype(int)
    keys = (cells[:, 0] * TINY.resolution + cells[:, 1]) * TINY.resolution + cells[:, 2]
    assert (np.diff(keys) >= 0).all()


def test_the_tokenizer_knows_every_wording_of_every_prompt():
    random, tokenizer = Random(0), picture.t5_tokenizer(TINY)
    for number in range(200):
        scene = world.random_scene(np.random.default_rng(number))
        text = world.paraphrased(str(scene), random)
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert len(ids) <= TINY.max_tokens
        assert parse(text) == scene
    assert tokenizer.unk_token_id in tokenizer("a red dragon").input_ids


@pytest.mark.slow
def test_every_stage_runs_in_its_smallest_form_and_carries_on(tmp_path, monkeypatch):
    script = Path(__file__).parent.parent / "scripts/train_starter"
    loader = importlib.machinery.SourceFileLoader("train_starter", str(script))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("train_starter", loader))
    loader.exec_module(module)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train_starter", *arguments, "--tiny", "--folder", str(tmp_path)])
        module.main()

    def figures(stage: str) -> dict:
        return json.loads((tmp_path / f"{stage}.json").read_text())

    run("all")
    for stage in module.SHARES:
        assert figures(stage)["steps"] == 3
        assert all(file.stat().st_size < 16e6 for file in tmp_path.glob(f"{stage}.*.safetensors"))
    assert figures("evaluate")["gaussians"] > 0
    assert figures("chain")["each"][0]["prompt"]
    run("flows", "--resume")
    assert figures("flows")["steps"] == 6
    run("write")  # the models still load
    run("evaluate")

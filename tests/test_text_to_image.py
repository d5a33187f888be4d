"""Text to image: tiny models of the classes of three published ones, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import _random_models as random_models
import numpy as np
import pytest
import torch

from app.errors import BadWeights, ConfigError, StageFailed
from app.stages import text_to_image
from app.stages.text_to_image import ImageParams, TextToImage

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' and transformers' own

PARAMS = ImageParams("tiny", "{prompt}, whole", steps=2, size=64, dtype="float32", max_tokens=64)
PIPELINES = {
    "FLUX.1-schnell": lambda: random_models.flux_1("tiny"),
    "FLUX.2-klein-4B": random_models.flux_2_klein,
    "Z-Image-Turbo": random_models.z_image,
}


@pytest.fixture(scope="module", params=list(PIPELINES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    """Written in diffusers' layout and loaded from there, as fetched models are."""
    folder = tmp_path_factory.mktemp("models") / request.param
    random_models.write_text_to_image(folder, PIPELINES[request.param], 0, torch.float32)
    return text_to_image.load(PARAMS, folder)


def test_the_same_seed_and_words_give_the_same_picture_and_others_another(loaded):
    steps: list[tuple[int, int]] = []
    first = loaded.run("a red ball", 1, lambda done, of: steps.append((done, of)))
    assert (first.image.size, first.image.mode, first.seed, first.model) == ((64, 64), "RGB", 1, "tiny")
    assert steps == [(1, 2), (2, 2)]
    assert np.array_equal(first.image, loaded.run("a red ball", 1).image)
    assert not np.array_equal(first.image, loaded.run("a red ball", 2).image)
    assert not np.array_equal(first.image, loaded.run("a teapot", 1).image)


def test_the_global_generator_is_neither_read_nor_moved(loaded):
    before = torch.get_rng_state()
    loaded.run("a red ball", 1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_prompt_is_inserted_into_the_template_unchanged(loaded):
    told = loaded.arguments("{a} 100% {prompt}", 0, lambda *_: None)
    assert told["prompt"] == "{a} 100% {prompt}, whole"
    assert told["max_sequence_length"] == 64


def test_a_value_that_is_not_finite_is_no_picture(loaded):
    weights = next(loaded.models["vae"].decoder.conv_out.parameters())
    kept = weights.data.clone()
    weights.data.fill_(torch.nan)
    with pytest.raises(StageFailed, match="tiny drew values that are not finite"):
        loaded.run("a red ball", 1)
    weights.data.copy_(kept)


@pytest.mark.parametrize(
    ("kind", "wanted", "tokens"),
    [
        ("Flux2KleinPipeline", "auto", 512),
        ("Flux2KleinPipeline", 512, 512),
        ("FluxPipeline", "auto", 256),
        ("FluxPipeline", 77, 77),
        ("ZImagePipeline", "auto", 256),
        ("SomeOtherPipeline", 512, 512),
    ],
)
def test_each_pipeline_gets_the_tokens_that_it_needs(tmp_path, kind, wanted, tokens):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert text_to_image.text_tokens(wanted, tmp_path) == tokens


@pytest.mark.parametrize("wanted", [16, 256, 511])
def test_klein_takes_512_tokens_and_no_other_number(tmp_path, wanted):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    with pytest.raises(ConfigError, match=rf"image.max_tokens = {wanted}: .* needs 512: set image.max_tokens"):
        text_to_image.text_tokens(wanted, tmp_path)


def test_the_padding_of_klein_changes_its_picture(tmp_path):
    """Why the number is fixed."""
    random_models.write_text_to_image(tmp_path, random_models.flux_2_klein, 0, torch.float32)
    pictures = [
        np.asarray(text_to_image.load(replace(PARAMS, max_tokens=tokens), tmp_path).run("a red ball", 1).image)
        for tokens in (64, 128)
    ]
    assert not np.array_equal(*pictures)


@pytest.fixture
def flux(tmp_path: Path) -> Path:
    random_models.write_text_to_image(tmp_path / "flux", PIPELINES["FLUX.1-schnell"], 0, torch.float32)
    return tmp_path / "flux"


def _edit_index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        change(index)
        (folder / "model_index.json").write_text(json.dumps(index))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json: cannot be read"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "names no class of diffusers"),
        (
            _edit_index(lambda index: index.update(_class_name=["own_code", "Pipeline"])),
            "code of their own are not run",
        ),
        (_edit_index(lambda index: index.update(_class_name="NoSuchPipeline")), "cannot be loaded"),
        (_edit_index(lambda index: index.update(_class_name="AudioLDM2Pipeline")), "cannot be loaded|no text-to-image"),
        (lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"no"), "cannot be loaded"),
        (lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").unlink(), "cannot be loaded"),
    ],
    ids=["no index", "no object", "own code", "unknown class", "another kind", "broken weights", "no weights"],
)
def test_a_folder_that_is_no_pipeline_says_so(flux, damage, message):
    damage(flux)
    with pytest.raises(BadWeights, match=message):
        text_to_image.load(PARAMS, flux)


def test_pickled_weights_are_not_read(flux):
    weights = flux / "vae/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BadWeights):
        text_to_image.load(PARAMS, flux)

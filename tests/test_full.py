"""Profile full, from prompt or picture to judged files, with tiny random models: all is real but the weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import _random_models as random_models
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from app.certificate import read_certificate
from app.checking import certified_config
from app.commands.main import main
from app.config import Config, load_config
from app.generators.shapes import SHAPES_CLIP
from app.stages import full
from app.trellis.graphs import GraphCache

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's, of models being written and read


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    random_models.write_all(folder, "tiny")
    return folder


@pytest.fixture
def run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command line on the tiny models, with the small scorer."""
    variables = random_models.settings(models) | {
        "SPLATGATE__SCORE__MODEL": f"local-dir:{SHAPES_CLIP}",
        "SPLATGATE__SCORE__PRETRAINED": "",
        "SPLATGATE__IMAGE__SIZE": "64",
        "SPLATGATE__RENDER__SIZE": "64",
        "SPLATGATE__CUTOUT__MAX_SHARE": "1",
        "SPLATGATE__CUTOUT__MIN_SHARE": "0",
        "SPLATGATE__SERVE__DATA": str(tmp_path / "data"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def document(result: Result) -> dict:
    return json.loads(result.stdout)


def rocket(path: Path, *, cut_out: bool) -> Path:
    image = Image.new("RGBA", (96, 64), (0, 0, 0, 0) if cut_out else (200, 200, 200, 255))
    ImageDraw.Draw(image).polygon([(48, 4), (66, 60), (30, 60)], fill=(30, 60, 220, 255))
    (image if cut_out else image.convert("RGB")).save(path)
    return path


def test_a_prompt_becomes_judged_files_with_a_valid_certificate(run, tmp_path):
    result = run("generate", "a blue rocket", "-o", tmp_path / "a", "--json")
    assert result.exit_code == 3, result.stderr  # random models: a refusal is the right answer
    certificate = document(result)["certificate"]
    assert certificate["profile"] == "full"
    assert not certificate["stand_in"]
    assert [model["role"] for model in certificate["models"]] == [
        *("text_to_image", "cutout", "image_features", "image_to_splat", "scorer")
    ]
    assert all(len(model["weights_sha256"]) == 64 for model in certificate["models"])
    assert [asset["name"] for asset in certificate["assets"]] == ["asset.ply", "asset.spz", "picture.png"]
    assert Image.open(tmp_path / "a/picture.png").size == (64, 64)
    assert "Drawing the picture" not in result.stdout
    checked = run("check", tmp_path / "a/certificate.json", tmp_path / "a/asset.ply", "--json")
    assert checked.exit_code == 0, checked.output


@pytest.mark.usefixtures("run")
def test_the_same_seed_gives_the_same_picture_and_splat_and_another_seed_others():
    chain = full.load(load_config())
    steps = []
    first, again, other = (
        chain.draw("a blue rocket", seed, lambda done, of: steps.append((done, of))) for seed in (5, 5, 6)
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)] * 3
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    splats = [chain.build("", picture, 5) for picture in (first, again)]
    assert np.array_equal(splats[0].means, splats[1].means)
    assert np.array_equal(splats[0].opacity_logits, splats[1].opacity_logits)


def test_sampler_settings_of_the_command_line_are_in_the_certificate_and_the_log(run, tmp_path):
    options = ("--preset", "app", "--structure-steps", 3, "--latent-interval", 0.25, 0.75, "--oversample", 2)
    result = run("generate", "a blue rocket", *options, "-o", tmp_path / "a", "--json")
    assert result.exit_code == 3, result.stderr
    assert document(result)["certificate"]["samplers"] == {
        "structure": {"steps": 3, "guidance": 7.5, "interval": [0.5, 1.0], "rescale": 3.0},
        "latent": {"steps": 12, "guidance": 3.0, "interval": [0.25, 0.75], "rescale": 3.0},
        "oversample": 2,
    }
    assert "TRELLIS: structure 3 steps, guidance 7.5 in [0.5, 1]" in result.stderr
    assert run("check", tmp_path / "a/certificate.json", tmp_path / "a/asset.ply").exit_code == 0
    certificate = read_certificate(tmp_path / "a/certificate.json")
    settings = certified_config(certificate, load_config()).trellis
    assert (settings.structure_steps, settings.latent_interval, settings.oversample) == (3, (0.25, 0.75), 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--structure-steps", "201"), "give a whole number from 1 to 200"),
        (("--latent-interval", "0.8", "0.2"), "--latent-interval: give [low, high]"),
        (("--structure-steps", "11"), "structure_steps = 11: limits.max_steps is 10"),
        (("--profile", "shapes", "--preset", "app"), "profile 'shapes' has no samplers"),
    ],
)
def test_sampler_settings_that_cannot_be_used_are_refused_before_anything_is_loaded(run, options, words, monkeypatch):
    monkeypatch.setenv("SPLATGATE__LIMITS__MAX_STEPS", "10")
    result = run("generate", "a blue rocket", *options)
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "loading" not in result.stderr


def test_flows_of_another_folder_take_the_place_of_the_models_own(run, tmp_path, monkeypatch):
    image = rocket(tmp_path / "rocket.png", cut_out=True)
    own = document(run("generate", "--image", image, "-o", tmp_path / "own", "--json"))["certificate"]
    random_models.write_trellis(tmp_path / "flows", "tiny", seed=77)
    monkeypatch.setenv("SPLATGATE__TRELLIS__FLOWS", str(tmp_path / "flows"))
    result = run("generate", "--image", image, "--preset", "few-step", "-o", tmp_path / "other", "--json")
    other = document(result)["certificate"]
    assert [each["model"] for each in other["models"] if each["role"] == "image_to_splat"] == [
        "TRELLIS-image-large",
        "flows",
    ]
    assert other["samplers"]["latent"] == {"steps": 2, "guidance": 1.0, "interval": [0.5, 1.0], "rescale": 1.0}
    assert other["gaussians"] != own["gaussians"]
    assert "with flows flows" in result.stderr
    (tmp_path / "flows/ckpts/slat_flow_img_dit_L_64l8p2_fp16.safetensors").unlink()
    assert "slat_flow_img_dit_L_64l8p2_fp16.safetensors" in run("generate", "--image", image).stderr


def test_without_a_prompt_the_views_are_scored_against_the_picture(run, tmp_path):
    image = rocket(tmp_path / "rocket.png", cut_out=True)
    result = run("generate", "--image", image, "-o", tmp_path / "a", "--json")
    certificate = document(result)["certificate"]
    assert certificate["prompt"] == ""
    assert [metric["name"] for metric in certificate["metrics"]] == ["likeness"]
    assert "text_to_image" not in [model["role"] for model in certificate["models"]]
    assert "3D render likeness to the given picture: 0." in result.stderr
    assert np.array_equal(Image.open(tmp_path / "a/picture.png"), Image.open(image))
    asset = tmp_path / "a/asset.ply"
    assert run("check", tmp_path / "a/certificate.json", asset).exit_code == 0
    rocket(tmp_path / "a/picture.png", cut_out=False)
    changed = run("check", tmp_path / "a/certificate.json", asset)
    assert changed.exit_code == 1
    assert "not the picture of the certificate" in changed.stderr


def test_a_gate_that_was_laxer_about_pictures_is_found_out(run, tmp_path, monkeypatch):
    image = rocket(tmp_path / "rocket.png", cut_out=True)
    run("generate", "--image", image, "-o", tmp_path / "a")
    monkeypatch.setenv("SPLATGATE__VALIDATE__IMAGE_THRESHOLD", "0.71")
    assert differing(run, tmp_path / "a") == ["gate, as strict as here"]
    monkeypatch.setenv("SPLATGATE__VALIDATE__IMAGE_THRESHOLD", "0.69")
    monkeypatch.setenv("SPLATGATE__VALIDATE__THRESHOLD", "0.9")  # of words, which there were none
    assert differing(run, tmp_path / "a") == []


def differing(run, folder: Path) -> list[str]:
    checks = document(run("check", folder / "certificate.json", folder / "asset.ply", "--json"))["checks"]
    return [check["claim"] for check in checks if not check["agrees"]]


def test_with_a_prompt_the_views_are_scored_against_the_prompt(run, tmp_path):
    image = rocket(tmp_path / "rocket.png", cut_out=False)
    result = run("generate", "a blue rocket", "--image", image, "-o", tmp_path / "a", "--json")
    certificate = document(result)["certificate"]
    assert certificate["prompt"] == "a blue rocket"
    assert [metric["name"] for metric in certificate["metrics"]] == ["clip"]


def test_a_picture_of_nothing_is_refused_with_the_reason_and_the_next_seed_is_tried(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATGATE__CUTOUT__MIN_SHARE", "1")
    result = run("generate", "a blue rocket", "--attempts", "2", "-o", tmp_path / "a", "--json")
    assert result.exit_code == 3
    verdict = document(result)["verdict"]
    assert verdict["outcome"] == "refused"
    assert "no object was found" in verdict["reasons"][0]
    assert "attempt 1 of 2 refused" in result.stderr
    assert not (tmp_path / "a").exists()


def test_neither_words_nor_picture_is_an_error(run):
    result = run("generate")
    assert result.exit_code == 2
    assert "give a PROMPT" in result.stderr


def test_a_path_that_holds_no_model_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATGATE__IMAGE__MODEL", str(tmp_path / "nothing"))
    result = run("generate", "a blue rocket")
    assert result.exit_code == 1
    assert "there is nothing there" in result.stderr


@pytest.mark.parametrize(
    ("mode", "device", "moved", "recorded"),
    [("resident", "cuda", True, True), ("offload", "cuda", True, False), ("resident", "cpu", False, False)],
)
def test_the_scorer_is_recorded_only_where_its_weights_stay_on_the_gpu(mode, device, moved, recorded, monkeypatch):
    """A CUDA graph of offloaded weights, or of weights on the CPU, would give other scores."""
    parts = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(full.memory, "place_weights", lambda given, *_: parts.extend(given) or mode)
    scorer = SimpleNamespace(device=torch.device(device), model=torch.nn.Linear(2, 2), graphs="of the last mode")
    full.Full.place_weights(SimpleNamespace(image=SimpleNamespace(models={})), scorer, Config())
    assert [part.name for part in parts] == ["scorer"] * moved
    assert isinstance(scorer.graphs, GraphCache) is recorded
    assert recorded or scorer.graphs is None

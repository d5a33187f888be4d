"""The registry of generators, and that those of docs/extending.md need no change elsewhere."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from extending import example

from app import generators
from app.commands.main import main
from app.config import Config, load_config
from app.errors import BadInput, BadPrompt, ConfigError, Unavailable
from app.generators import GENERATORS, ProfileName
from app.serve import plan
from app.web.request_validation import decode_picture, validate_prompt
from app.weights.manifest import needed, own_paths


@pytest.fixture
def ball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    module = example("app/generators/ball.py", tmp_path, monkeypatch)
    stages = example("app/stages/ball.py", tmp_path, monkeypatch)
    monkeypatch.setattr("app.stages.ball", stages, raising=False)
    monkeypatch.setitem(GENERATORS, "ball", module.GENERATOR)
    return Config.model_validate({"profile": {"name": "ball"}})


@pytest.mark.usefixtures("ball")
def test_the_documented_generator_makes_a_splat_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATGATE__PROFILE__NAME", "ball")
    monkeypatch.setenv("SPLATGATE__VALIDATE__MIN_GAUSSIANS", "20_000")
    made = CliRunner().invoke(main, ["generate", "a red ball", "-o", str(tmp_path / "out"), "--json"])
    assert made.exit_code == 0, made.output
    certificate = json.loads((tmp_path / "out/certificate.json").read_text())
    assert (certificate["profile"], certificate["stand_in"], certificate["gaussians"]) == ("ball", True, 20_000)
    assert [model["role"] for model in certificate["models"]] == ["generator", "scorer"]
    arguments = [str(tmp_path / "out" / name) for name in ("certificate.json", "asset.ply")]
    assert CliRunner().invoke(main, ["check", *arguments]).exit_code == 0
    assert "makes balls only" in CliRunner().invoke(main, ["generate", "a red cube"]).stderr


def test_the_documented_generator_is_known_to_the_web_process(ball: Config) -> None:
    with pytest.raises(BadPrompt, match="it makes balls only"):
        validate_prompt("a red cube", ball)
    with pytest.raises(BadInput, match=r"profile 'ball' generates from prompts only.* profile 'full'"):
        decode_picture("iVBORw0KGgo", ball)
    assert [child.name for child in plan(ball, {})] == ["web", "engine cpu"]
    assert needed(ball) == ()


def test_the_documented_variant_needs_its_own_folders_and_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = example("app/generators/mine.py", tmp_path, monkeypatch)
    monkeypatch.setitem(GENERATORS, "mine", variant.GENERATOR)
    config = Config.model_validate({"profile": {"name": "mine"}})
    folder = "/srv/weights"
    assert own_paths(config) == tuple(f"{folder}/{name}" for name in ("picture", "u2net.onnx", "trellis", "encoder"))
    assert [model.role for model in needed(config)] == ["scorer"]
    assert config.with_generator_settings().image.steps == 8
    monkeypatch.setattr("app.serve.gpus", tuple)
    with pytest.raises(Unavailable, match=r"profile 'mine' needs an NVIDIA GPU.*'shapes'"):
        plan(config, {})


def test_an_unknown_profile_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"profile\.name = 'flux'.*no such profile: use one of full, shapes"):
        load_config(Path(__file__).parent.parent / "config.toml", {"SPLATGATE__PROFILE__NAME": "flux"})


def test_a_generator_fixes_its_own_keys_and_leaves_the_others() -> None:
    config = Config.model_validate({"score": {"model": "ViT-B-32", "aggregate": "max"}})
    found = config.with_generator_settings()
    assert found.score.model.startswith("local-dir:")
    assert found.score.aggregate == "max"
    assert found.with_generator_settings() == found


@pytest.mark.parametrize("name", list(GENERATORS))
def test_every_name_that_a_generator_gives_is_there(name: str) -> None:
    generator = GENERATORS[name]
    assert generator.name == name
    for function in filter(None, (generator.load, generator.check_prompt)):
        assert callable(generators.generator.resolve(function))
    tree = Config().model_dump(by_alias=True)
    assert all(key in tree[section] for section, key in (key.split(".") for key in generator.models))
    Config.model_validate({"profile": {"name": name}}).with_generator_settings()


def test_profile_names_in_the_schema_are_those_of_the_registry() -> None:
    from pydantic import TypeAdapter

    assert TypeAdapter(ProfileName).json_schema()["enum"] == list(GENERATORS)

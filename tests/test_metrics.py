"""The registry of metrics, and that the metric of docs/extending.md needs no change elsewhere."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from extending import example

from app.commands.main import main
from app.generators.generator import resolve
from app.metrics import METRICS, score_of
from app.metrics.metric import Metric
from app.splat.files import write_splat
from app.stages.measurement import parts
from app.stages.shapes import Shapes, ShapesParams

SMALL = {"SPLATGATE__SHAPES__GAUSSIANS": "2_000", "SPLATGATE__VALIDATE__MIN_GAUSSIANS": "2_000"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def coverage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metric:
    module = example("app/metrics/coverage.py", tmp_path, monkeypatch)
    stages = example("app/stages/coverage.py", tmp_path, monkeypatch)
    monkeypatch.setattr("app.stages.coverage", stages, raising=False)
    monkeypatch.setitem(METRICS, "coverage", module.METRIC)
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    return module.METRIC


@pytest.mark.usefixtures("coverage")
def test_the_documented_metric_is_measured_certified_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLATGATE__VALIDATE__THRESHOLDS", "{ coverage = 0.01 }")
    made = run("generate", "a red ball", "-o", tmp_path / "out")
    assert made.exit_code == 0, made.output
    assert "Share of the views that is covered: 0." in made.stdout
    certificate = json.loads((tmp_path / "out/certificate.json").read_text())
    names = [metric["name"] for metric in certificate["metrics"]]
    assert names == ["clip", "coverage"]
    assert [len(metric["per_view"]) for metric in certificate["metrics"]] == [4, 4]
    paths = tmp_path / "out/certificate.json", tmp_path / "out/asset.spz"
    assert run("check", *paths).exit_code == 0
    certificate["metrics"][1]["value"] += 0.1
    paths[0].write_text(json.dumps(certificate))
    assert run("check", *paths).exit_code == 3
    del certificate["metrics"][1]
    paths[0].write_text(json.dumps(certificate))
    assert run("check", *paths).exit_code == 3, "this host asks for a metric that the certificate does not have"


@pytest.mark.usefixtures("coverage")
def test_the_documented_metric_refuses_with_its_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATGATE__VALIDATE__THRESHOLDS", "{ coverage = 0.99 }")
    write_splat(tmp_path / "ball.ply", Shapes(ShapesParams(2_000)).build("a red ball", None, 0))
    refused = run("validate", tmp_path / "ball.ply", "--prompt", "a red ball", "--json")
    assert refused.exit_code == 3
    verdict = json.loads(refused.stdout)
    assert verdict["reason_codes"] == ["below_threshold"]
    assert verdict["reasons"][0].startswith("coverage score 0.")
    assert verdict["metrics"]["clip"]["value"] == verdict["score"]["value"]
    assert verdict["metrics"]["coverage"]["threshold"] == 0.99


def test_a_metric_for_which_lower_is_better_refuses_what_is_over_its_threshold() -> None:
    fog = Metric("fog", "fog", "Fog", "app.stages.fog:compute", higher_is_better=False)
    assert fog.passes(0.1, 0.2)
    assert not fog.passes(0.3, 0.2)
    assert not fog.passes(float("nan"), 0.2)
    assert fog.is_as_strict(0.1, 0.2)
    assert not fog.is_as_strict(0.3, 0.2)


@pytest.mark.parametrize(
    ("prompt", "picture", "measured"),
    [(True, False, {"clip"}), (True, True, {"clip"}), (False, True, {"likeness"}), (False, False, set())],
)
def test_without_a_prompt_the_views_are_compared_with_the_picture(
    prompt: bool, picture: bool, measured: set[str]
) -> None:
    there = parts(prompt=prompt, picture=picture)
    assert {name for name, metric in METRICS.items() if metric.applies(there)} == measured


def test_the_score_is_the_value_of_the_first_metric_in_the_registry() -> None:
    assert score_of({"likeness": 0.9, "clip": 0.3}) == 0.3
    assert score_of({"likeness": 0.9}) == 0.9
    assert score_of({}) is None


@pytest.mark.parametrize("name", list(METRICS))
def test_every_name_that_a_metric_gives_is_there(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    for function in filter(None, (metric.load, metric.compute)):
        assert callable(resolve(function))

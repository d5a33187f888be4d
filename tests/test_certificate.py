"""Certificates of format 1, written by older releases, are still accepted; those of splats without a shape check."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.certificate import read_certificate
from app.checking import check
from app.config import Config
from app.errors import BadFile
from app.generators import GENERATORS
from app.outputs import write_outputs
from app.pipeline import GenerationRequest, generate, load_stages
from app.splat.model import Splat
from app.stages.picture import Picture

OLD = Path(__file__).parent / "data" / "certificate-1"
"""Written by commit e48542d: one judged against its prompt, one against its picture."""

HERE = {"validate": {"min_gaussians": 2_000}}
PICTURE = HERE | {"score": dict(GENERATORS["shapes"].settings["score"])}


def agreed(folder: Path, settings: dict[str, Any]) -> dict[str, bool]:
    certificate = read_certificate(folder / "certificate.json")
    return {
        each.claim: each.agrees for each in check(certificate, folder / "asset.spz", Config.model_validate(settings))
    }


@pytest.mark.parametrize(("name", "settings", "metric"), [("prompt", HERE, "clip"), ("picture", PICTURE, "likeness")])
def test_a_certificate_of_format_1_still_checks(name: str, settings: dict[str, Any], metric: str) -> None:
    found = agreed(OLD / name, settings)
    assert all(found.values()), found
    assert {metric, f"{metric}, weights", f"{metric}, front", "gate, as strict as here", "verdict"} <= found.keys()


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda tree: tree["score"].update(value=tree["score"]["value"] + 0.1), "clip"),
        (lambda tree: tree["views"][0].update(score=0.99), "clip, front"),
        (lambda tree: tree["gate"].update(threshold=-1.0), "gate, as strict as here"),
        (lambda tree: tree["gate"].update(min_gaussians=1_999), "gate, as strict as here"),
        (lambda tree: tree["gate"].update(enabled=False), "gate, as strict as here"),
        (lambda tree: tree["models"][1].update(weights_sha256="0" * 64), "clip, weights"),
        (lambda tree: tree.update(score=None), "metrics"),
        (lambda tree: tree["verdict"].update(outcome="refused"), "verdict"),
    ],
)
def test_a_forged_certificate_of_format_1_is_detected(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], claim: str
) -> None:
    folder = shutil.copytree(OLD / "prompt", tmp_path / "forged")
    tree = json.loads((folder / "certificate.json").read_text())
    change(tree)
    (folder / "certificate.json").write_text(json.dumps(tree))
    assert not agreed(folder, HERE)[claim]


@pytest.mark.parametrize("change", [{"views": 3}, {"gate": None}, {"score": "high"}, {"surprise": 1}, {"models": [1]}])
def test_a_broken_certificate_of_format_1_is_one_clear_error(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(json.loads((OLD / "prompt/certificate.json").read_text()) | change))
    with pytest.raises(BadFile, match="is not a certificate of ours"):
        read_certificate(path)


SMALL = {
    "validate": {"threshold": -1.0, "min_gaussians": 1_000},
    "shapes": {"gaussians": 3_000},
    "render": {"size": 64, "device": "cpu"},
}
"""A gate that refuses nothing but a splat without a shape."""


class Collapsing:
    """The generator, whose positions are lost: all on one point."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def build(self, prompt: str, picture: Picture | None, seed: int) -> Splat:
        splat = self.inner.build(prompt, picture, seed)
        return replace(splat, means=np.full_like(splat.means, 0.25))


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a splat on one point, with its certificate."""
    config, folder = Config.model_validate(SMALL), tmp_path_factory.mktemp("collapsed")
    stages = load_stages(config)
    stages = replace(stages, generator=Collapsing(stages.generator))
    attempt = generate(GenerationRequest("a blue rocket"), 0, 1, stages, config, lambda _stage: None)
    write_outputs(attempt, folder, config, datetime.now(UTC))
    return folder


def checked(folder: Path, name: str, change: dict[str, Any]) -> dict[str, bool]:
    tree = json.loads((folder / "certificate.json").read_text())
    for key, value in change.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    (folder / "changed.json").write_text(json.dumps(tree))
    found = check(read_certificate(folder / "changed.json"), folder / name, Config.model_validate(SMALL))
    return {each.claim: each.agrees for each in found}


@pytest.mark.parametrize("name", ["asset.ply", "asset.spz"])
def test_the_certificate_of_a_splat_on_one_point_checks(collapsed: Path, name: str) -> None:
    certificate = read_certificate(collapsed / "certificate.json")
    assert certificate.findings_left == ("uniform_position",)
    assert certificate.verdict.outcome == "refused"
    assert certificate.verdict.reason_codes == ("uniform_position",)
    found = checked(collapsed, name, {})
    assert all(found.values()), found


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"verdict": {"outcome": "passed", "reasons": [], "reason_codes": []}}, "verdict"),
        ({"findings_left": []}, "findings left"),
        ({"findings_left": ["stray_position"]}, "findings left"),
    ],
)
def test_a_forged_certificate_of_a_splat_on_one_point_is_detected(
    collapsed: Path, change: dict[str, Any], claim: str
) -> None:
    found = checked(collapsed, "asset.ply", change)
    assert [name for name, agrees in found.items() if not agrees] == [claim]


def test_a_finding_that_is_not_there_is_detected(tmp_path: Path) -> None:
    """uniform_position in the certificate of a healthy splat."""
    folder = shutil.copytree(OLD / "prompt", tmp_path / "forged")
    tree = json.loads((folder / "certificate.json").read_text())
    (folder / "certificate.json").write_text(json.dumps(tree | {"findings_left": ["uniform_position"]}))
    assert not agreed(folder, HERE)["findings left"]

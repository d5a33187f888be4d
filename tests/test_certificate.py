"""Certificates of format 1, written by older releases, are still accepted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.certificate import read_certificate
from app.checking import check
from app.config import Config
from app.errors import BadFile
from app.generators import GENERATORS

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

"""`splatgate models` and `splatgate doctor` on the command line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_hub import FakeHub, serving

from app.commands.main import main
from app.weights.manifest import find

TRELLIS = find("TRELLIS-image-large")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    for name in TRELLIS.files:
        path = tmp_path / "hub" / TRELLIS.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(50_000) if path.suffix == ".safetensors" else b"{}")
    with serving(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path, server: FakeHub) -> dict[str, str]:
    return {
        "SPLATGATE__MODELS__FOLDER": str(tmp_path / "models"),
        "SPLATGATE__MODELS__ENDPOINT": server.url,
        "SPLATGATE__SERVE__DATA": str(tmp_path / "data"),
        "COLUMNS": "200",
    }


def run(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


def document(result: Result) -> dict:
    return json.loads(result.stdout)


def states(environment: dict[str, str]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in document(run(environment, "models", "list", "--json"))["models"]}


def test_a_model_of_pickles_is_not_fetched_and_the_command_says_how_it_gets_here(
    environment: dict[str, str], server: FakeHub
) -> None:
    result = run(environment, "models", "fetch", "MDT-dist")
    assert result.exit_code == 1
    for words in ("licence of its weights is not stated", "pickles", "scripts/convert_checkpoint --model MDT-dist"):
        assert words in result.stderr
    assert "not fetched, see docs/full-profile.md: MDT-dist" in run(environment, "models", "list").stdout
    flows = environment | {"SPLATGATE__TRELLIS__FLOWS": "MDT-dist", "SPLATGATE__PROFILE__NAME": "full"}
    missing = run(flows, "generate", "a chair").stderr
    assert "MDT-dist: distilled flows for TRELLIS, as an option, 2.3 GB, licence not stated" in missing
    assert "dinov2-with-registers-large ViT-L-14-openai && scripts/convert_checkpoint --model MDT-dist" in missing
    assert not server.requests


def test_fetch_list_and_verify_tell_the_same(environment: dict[str, str]) -> None:
    assert states(environment)[TRELLIS.name] == "missing"
    result = run(environment, "models", "fetch", TRELLIS.name)
    assert result.exit_code == 0, result.output
    assert "TRELLIS-image-large: fetched 200 kB" in result.stdout
    assert "licence mit" in result.stderr
    assert "(100%)" in result.stderr
    assert states(environment)[TRELLIS.name] == "verified"
    again = run(environment, "models", "fetch", TRELLIS.name)
    assert "already present, verified" in again.stdout
    assert document(run(environment, "models", "verify", "--json")) == {"verified": [TRELLIS.name], "problems": {}}
    row = document(run(environment, "models", "list", "--json"))["models"][5]
    assert (row["name"], row["commit"], row["needed"]) == (TRELLIS.name, TRELLIS.revision, True)


def test_the_table_shows_licence_size_and_what_needs_an_account(environment: dict[str, str]) -> None:
    table = run(environment, "models", "list").stdout
    line = next(line for line in table.splitlines() if "FLUX.1-schnell" in line)
    assert line.split()[:1] == ["*"]
    for words in ("apache-2.0", "~33.7 GB", "missing", "741f7c3"):
        assert words in line
    assert "gated, fetched only with an account that has accepted the conditions: FLUX.1-schnell" in table


def test_verify_without_models_fails(environment: dict[str, str]) -> None:
    result = run(environment, "models", "verify")
    assert (result.exit_code, result.stdout) == (1, "no models have been fetched: run splatgate models fetch\n")


def test_verify_finds_what_was_changed_and_exits_with_1(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, "models", "fetch", TRELLIS.name)
    path = tmp_path / "models" / TRELLIS.name / "pipeline.json"
    path.write_bytes(b"[]")
    result = run(environment, "models", "verify", "--json")
    assert result.exit_code == 1
    assert "has changed" in document(result)["problems"][TRELLIS.name]
    assert states(environment)[TRELLIS.name] == "broken"
    assert "has changed" in run(environment, "models", "list").stdout


def test_errors_are_one_line_and_json_where_asked(environment: dict[str, str]) -> None:
    result = run(environment, "models", "fetch", "u2net", "--json")
    assert result.exit_code == 1
    assert document(result)["error"]["kind"] == "FetchFailed"
    assert "tomjackson2023/rembg is not on the hub" in result.stderr
    assert run(environment, "models", "fetch", "nothing").exit_code == 1


def test_offline_refuses_to_fetch(environment: dict[str, str], server: FakeHub) -> None:
    result = run(environment | {"SPLATGATE__MODELS__OFFLINE": "true"}, "models", "fetch", TRELLIS.name)
    assert result.exit_code == 1
    assert "models.offline = true" in result.stderr
    assert server.requests == []


def test_the_doctor_finds_profile_shapes_fit_and_touches_no_network(
    environment: dict[str, str], server: FakeHub
) -> None:
    result = run(environment, "doctor", "--profile", "shapes")
    assert result.exit_code == 0, result.output
    assert "profile shapes can run here" in result.stdout
    assert server.requests == []


def test_the_doctor_says_what_profile_full_lacks_and_the_remedy(environment: dict[str, str]) -> None:
    result = run(environment | {"SPLATGATE__VALIDATE__ENABLED": "false"}, "doctor", "--profile", "full", "--json")
    assert result.exit_code == 1
    report = document(result)
    facts = {(fact["area"], fact["what"]): fact for fact in report["facts"]}
    assert report["works"] is False
    assert facts["settings", "validation"]["found"] == "OFF"
    assert facts["models", "u2net"]["problem"] == "splatgate models fetch u2net   (about 176 MB, licence apache-2.0)"
    assert facts["models", "u2net"]["blocking"]
    assert ("models", "ViT-L-14-openai") not in facts
    assert facts["versions", "torch"]["found"] != "not installed"
    assert {"driver"} <= {what for area, what in facts if area == "gpu"}

"""`splatgate generate`: complete folders or none, batches of prompts, and the errors of wrong calls."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app import outputs, pipeline
from app.commands.main import main
from app.commands.output_folder import complete_folder

WHOLE = ["asset.ply", "asset.spz", "certificate.json", "views.png"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHAPES__GAUSSIANS": 3_000, "RENDER__SIZE": 64, "VALIDATE__MIN_GAUSSIANS": 1_000}.items():
        monkeypatch.setenv(f"SPLATGATE__{name}", str(value))


def run(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["generate", *(str(argument) for argument in arguments)], input=given)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ---- whole or not at all ---------------------------------------------------------------------------------------------


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "write_picture", interrupt)
    result = run("a red ball", "-o", tmp_path / "out" / "ball")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert names(tmp_path / "out") == []


def test_an_interrupted_write_leaves_the_earlier_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ball"
    assert run("a red ball", "-o", folder).exit_code == 0
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_picture", interrupt)
        assert run("a blue cone", "-o", folder).exit_code == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run("a blue cone", "-o", folder).exit_code == 0
    assert json.loads((folder / "certificate.json").read_text())["prompt"] == "a blue cone"
    assert names(folder) == sorted([*WHOLE, "notes.txt"])
    assert names(tmp_path) == ["ball"]


def test_ctrl_c_waits_until_the_files_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    move = Path.replace

    def slow_move(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", slow_move)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out")
    assert names(tmp_path / "out") == WHOLE
    assert names(tmp_path) == ["out"]


def fill(folder: Path) -> None:
    with complete_folder(folder) as temporary:
        for name in WHOLE:
            (temporary / name).touch()


# ---- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [(), ("",), ("a red ball", "--prompts", "-"), ("--prompts", "-", "--image", "chair.png")]
)
def test_a_call_without_one_source_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, given="a red ball")
    assert result.exit_code == 2
    assert "give a PROMPT" in result.stderr


# ---- many prompts ----------------------------------------------------------------------------------------------------


def test_each_prompt_gets_a_folder_and_a_second_run_does_only_what_is_new(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_bytes("\ufeff# first\r\na red ball\r\n\r\n  a blue cone \r\nA red ball\r\n".encode())
    first = run("--prompts", prompts, "-o", out, "--seed", "3")
    assert first.exit_code == 0, first.output
    assert names(out) == ["a-blue-cone-3", "a-red-ball-3"]
    assert names(out / "a-blue-cone-3") == WHOLE
    assert "2 prompts: 2 passed" in first.stdout
    made = (out / "a-red-ball-3" / "asset.ply").stat().st_mtime_ns
    prompts.write_text("a red ball\na blue cone\na green box\n")
    second = run("--prompts", prompts, "-o", out, "--seed", "3", "--json")
    rows = json.loads(second.stdout)["results"]
    assert [(row["prompt"], row["seconds"] is None) for row in rows] == [
        ("a red ball", True),
        ("a blue cone", True),
        ("a green box", False),
    ]
    assert (out / "a-red-ball-3" / "asset.ply").stat().st_mtime_ns == made


def test_other_settings_are_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--prompts", "-", "-o", tmp_path, given="a red ball\n").exit_code == 0
    monkeypatch.setenv("SPLATGATE__VALIDATE__THRESHOLD", "0.99")
    result = run("--prompts", "-", "-o", tmp_path, given="a red ball\n")
    assert result.exit_code == 3
    assert "1 prompt: 1 refused" in result.stdout
    assert "a red ball: " in result.stdout


def test_an_interrupted_batch_shows_what_is_done_and_continues_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, loads, generate, load = (
        "a red ball\na blue cone\na green box\n",
        [],
        pipeline.generate,
        pipeline.load_stages,
    )

    def load_and_count(*arguments: object) -> object:
        loads.append(1)
        return load(*arguments)

    def stop_at_the_cone(request: pipeline.GenerationRequest, *rest: object) -> object:
        return interrupt() if "cone" in request.prompt else generate(request, *rest)

    monkeypatch.setattr(pipeline, "load_stages", load_and_count)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "generate", stop_at_the_cone)
        result = run("--prompts", "-", "-o", tmp_path, given=prompts)
    assert result.exit_code == 130
    assert "3 prompts: 1 passed, 2 not done; run the same command again" in result.stdout
    assert names(tmp_path) == ["a-red-ball-0"]
    assert run("--prompts", "-", "-o", tmp_path, given=prompts).exit_code == 0
    assert names(tmp_path) == ["a-blue-cone-0", "a-green-box-0", "a-red-ball-0"]
    assert len(loads) == 2, "once a run"
    assert run("--prompts", "-", "-o", tmp_path, given=prompts).exit_code == 0
    assert len(loads) == 2, "there was nothing left to do"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a red ball\na purple dragon\n\na\x00b\n", ["line 2: ", "'dragon' is unknown", "line 4: "]),
        ("\n# nothing\n", ["has no prompts"]),
    ],
)
def test_wrong_lines_are_named_before_anything_is_loaded(tmp_path: Path, given: str, words: list[str]) -> None:
    result = run("--prompts", "-", "-o", tmp_path / "out", given=given)
    assert result.exit_code == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"a caf\xe9\n")
    result = run("--prompts", tmp_path / "prompts.txt")
    assert result.exit_code == 1
    assert "prompts.txt: is not UTF-8 text" in result.stderr

"""The command line: files written, output, exit codes."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from plyfile import PlyData

from app.commands.main import main
from app.commands.output_folder import folder_name
from app.splat.files import read_splat, write_splat
from app.stages import shapes
from app.stages.shapes import ShapesParams


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def document(result: Result) -> dict:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("made")
    return folder, run("generate", "--profile", "shapes", "a blue rocket", "-o", folder, "--seed", "0")


@pytest.fixture(scope="module")
def judged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_small(monkeypatch)
        assert run("generate", "--profile", "shapes", "a blue rocket", "-o", folder, "--seed", "0").exit_code == 0
    return folder


@pytest.fixture
def judged(judged_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passed, small enough to be checked many times, with the settings that it passed with."""
    set_small(monkeypatch)
    return judged_folder


def set_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHAPES__GAUSSIANS": 3_000, "RENDER__SIZE": 96, "VALIDATE__MIN_GAUSSIANS": 1_000}.items():
        monkeypatch.setenv(f"SPLATGATE__{name}", str(value))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "ball.ply"
    write_splat(path, shapes.Shapes(ShapesParams(3_000)).build("a red ball", None, 0))
    return path


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda _path, _mode: False
    )  # the user who runs the tests may be allowed to write everywhere
    result = run("generate", "a blue rocket", "-o", "/nowhere/out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: /nowhere/out: cannot write to /; choose another folder with -o" in result.stderr
    assert "Loading" not in result.stderr


def test_generate_passes_and_writes_the_four_files(made: tuple[Path, Result]) -> None:
    folder, result = made
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["asset.ply", "asset.spz", "certificate.json", "views.png"]
    assert len(PlyData.read(folder / "asset.ply")["vertex"]) >= 150_000
    assert picture(folder / "views.png").shape == (518, 4 * 518, 3)


def test_generate_says_what_operators_look_for(made: tuple[Path, Result]) -> None:
    log = made[1].stderr
    for words in (
        "CLIP validator ready (threshold=0.2)",
        "Validation: ON",
        "No opacity corruption detected (200,000 gaussians)",
        "[4/4] Validating with CLIP...",
        "DIAGNOSTIC - 3D Render CLIP score: 0.",
        "VALIDATION PASSED: CLIP=0.",
        "Final stats: 200,000 gaussians, 13.0MB",
    ):
        assert words in log


def test_the_stand_in_is_labelled_everywhere(made: tuple[Path, Result]) -> None:
    folder, result = made
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["stand_in"] is True
    assert certificate["profile"] == "shapes"
    assert "stand-in" in certificate["models"][0]["model"]
    assert "stand-in" in result.stdout
    assert "stand-in" in result.stderr


@pytest.mark.parametrize("name", ["asset.ply", "asset.spz"])
def test_certificate_matches_its_files(judged: Path, name: str) -> None:
    result = run("check", judged / "certificate.json", judged / name)
    assert result.exit_code == 0, result.output
    assert "NO MATCH" not in result.stdout


def test_inspect_tells_each_fault_once_and_exits_with_4_if_asked(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ply"
    splat = read_splat(small, 10_000)
    write_splat(broken, replace(splat, opacity_logits=np.full(len(splat), -9.0, np.float32)))
    result = run("inspect", broken)
    assert result.exit_code == 0
    assert result.output.count("uniform") == 2, "its kind and its message"
    assert "corruption" not in result.stderr
    assert [run("inspect", "--strict", path).exit_code for path in (broken, small)] == [4, 0]
    assert run("inspect", "--strict", "--json", broken).exit_code == 4


@pytest.mark.parametrize("std", [0.001, 5.0])
def test_certificate_is_checked_with_its_own_settings_of_the_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, std: float
) -> None:
    """With 5 the scales of every splat count as uniform."""
    set_small(monkeypatch)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SPLATGATE__DIAGNOSE__UNIFORM_SCALE_STD", str(std))
        elsewhere.setenv("SPLATGATE__REPAIR__ENABLED", "false")
        assert run("generate", "a blue rocket", "-o", tmp_path).exit_code in (0, 3)
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert bool(certificate["findings_left"]) == (std == 5.0)
    result = run("check", tmp_path / "certificate.json", tmp_path / "asset.ply", "--json")
    checks = {each["claim"]: each for each in document(result)["checks"]}
    assert checks["findings left"]["agrees"]
    assert checks["diagnosis settings, here"]["found"] == "uniform_scale_std 0.01"
    assert result.exit_code == 0


def test_certificate_does_not_match_another_file(judged: Path, small: Path) -> None:
    result = run("check", judged / "certificate.json", small, "--json")
    assert result.exit_code == 3
    assert document(result)["matches"] is False


def test_certificate_with_a_better_score_than_the_truth_is_found_out(judged: Path, tmp_path: Path) -> None:
    certificate = json.loads((judged / "certificate.json").read_text())
    certificate["metrics"][0]["value"] += 0.1
    forged = tmp_path / "certificate.json"
    forged.write_text(json.dumps(certificate))
    result = run("check", forged, judged / "asset.ply", "--json")
    assert result.exit_code == 3
    assert [claim["claim"] for claim in document(result)["checks"] if not claim["agrees"]] == ["clip"]


def test_certificate_of_another_prompt_is_found_out(judged: Path, tmp_path: Path) -> None:
    forged = tmp_path / "certificate.json"
    forged.write_text((judged / "certificate.json").read_text().replace("a blue rocket", "a green house"))
    result = run("check", forged, judged / "asset.ply", "--json")
    assert result.exit_code == 3
    assert {claim["claim"] for claim in document(result)["checks"] if not claim["agrees"]} >= {"clip", "verdict"}


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", "{" * 1000, '{"format": "other"}', "\x00"])
def test_a_file_that_is_no_certificate_is_named(small: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "certificate.json"
    file.write_text(text)
    result = run("check", file, small)
    assert result.exit_code == 1
    assert "certificate.json" in result.stderr
    assert "Traceback" not in result.output


def test_wrong_prompt_is_refused_with_exit_3(judged: Path) -> None:
    result = run("validate", judged / "asset.ply", "--prompt", "a red table", "--profile", "shapes", "--json")
    assert result.exit_code == 3
    assert document(result)["outcome"] == "refused"
    assert "below the threshold" in document(result)["reasons"][0]


def test_too_few_gaussians_are_refused_whatever_the_score(small: Path) -> None:
    result = run("validate", small, "--prompt", "a red ball", "--profile", "shapes", "--json")
    assert result.exit_code == 3
    assert document(result)["reasons"] == ["3,000 Gaussians are fewer than 150,000"]


def test_validation_off_is_loud_and_never_passed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATGATE__VALIDATE__ENABLED", "false")
    result = run("validate", small, "--prompt", "a red ball", "--json")
    assert result.exit_code == 0
    assert document(result)["outcome"] == "not validated"
    assert all("VALIDATION OFF" in line for line in result.stderr.splitlines())
    assert result.stderr


def test_unknown_prompt_is_refused_with_what_is_known(tmp_path: Path) -> None:
    result = run("generate", "--profile", "shapes", "a red dragon", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "dragon" in document(result)["error"]["message"]
    assert "rocket" in result.stderr
    assert not (tmp_path / "out").exists()


def test_profile_full_says_plainly_what_is_missing(tmp_path: Path) -> None:
    result = run("generate", "--profile", "full", "a red dragon", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "splatgate models fetch FLUX.1-schnell u2net TRELLIS-image-large" in result.stderr
    assert "FLUX.1-schnell: the picture, by default, 33.7 GB, licence apache-2.0" in result.stderr
    assert "use profile 'shapes', which needs none" in result.stderr


def test_refused_attempts_go_on_with_the_next_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_small(monkeypatch)
    monkeypatch.setenv("SPLATGATE__VALIDATE__MIN_GAUSSIANS", "1_000_000")
    result = run("generate", "--profile", "shapes", "a ball", "--attempts", "2", "-o", tmp_path, "--json")
    certificate = document(result)["certificate"]
    assert result.exit_code == 3
    assert certificate["verdict"]["outcome"] == "refused"
    assert "trying again with the next seed" in result.stderr
    assert (tmp_path / "asset.ply").is_file()
    first = document(run("generate", "--profile", "shapes", "a ball", "-o", tmp_path, "--json"))["certificate"]
    second = document(run("generate", "--profile", "shapes", "a ball", "--seed", "1", "-o", tmp_path, "--json"))
    scores = {each["seed"]: each["metrics"][0]["value"] for each in (first, second["certificate"])}
    assert certificate["seed"] == max(scores, key=scores.__getitem__)


def test_inspect_shows_statistics_and_findings(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ply"
    splat = read_splat(small, 10_000)
    splat.opacity_logits[:] = -9.2103
    write_splat(broken, splat)
    result = run("inspect", broken)
    assert result.exit_code == 0
    assert "uniform_opacity" in result.stdout
    assert "opacity_logits" in result.stdout
    assert {f["kind"] for f in document(run("inspect", broken, "--json"))["findings"]} >= {"uniform_opacity"}


def test_repair_makes_it_visible_again(small: Path, tmp_path: Path) -> None:
    broken, repaired = tmp_path / "broken.ply", tmp_path / "repaired.spz"
    splat = read_splat(small, 10_000)
    splat.opacity_logits[:] = -9.2103
    write_splat(broken, splat)
    result = run("repair", broken, "-o", repaired, "--json")
    assert result.exit_code == 0
    assert document(result)["repairs"]["repairs"]
    seen = [
        document(run("render", path, "-o", tmp_path / "views.png", "--size", "64", "--json"))["coverage"]
        for path in (small, broken, repaired)
    ]
    assert seen[1] == 0
    assert seen[2] == pytest.approx(seen[0], rel=0.1)


def test_healthy_file_comes_back_bit_for_bit(small: Path, tmp_path: Path) -> None:
    result = run("repair", small, "-o", tmp_path / "same.ply")
    assert result.exit_code == 0
    assert (tmp_path / "same.ply").read_bytes() == small.read_bytes()
    assert "unchanged" in result.stdout


def test_render_takes_lists_that_begin_with_a_minus(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "views.png"
    result = run("render", small, "-o", out, "--size", "64", "--azimuth", "0,90,180,315", "--pitch=-15,-15,0,-60")
    assert result.exit_code == 0, result.output
    assert picture(out).shape == (64, 256, 3)
    assert (picture(out) < 250).any()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--azimuth", "0,1", "--pitch", "0,1,2"],
        ["--azimuth", "a"],
        ["--azimuth", "nan"],
        ["--size", "0"],
        ["--radius", "nan"],
        ["--fov", "nan"],
        ["--size", "4096", "--azimuth", ",".join(map(str, range(64)))],
        ["--device", "tpu"],
    ],
)
def test_bad_render_options_are_usage_errors(small: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = run("render", small, "-o", tmp_path / "views.png", *arguments)
    assert result.exit_code == 2
    assert not (tmp_path / "views.png").exists()


@pytest.mark.parametrize("command", [["inspect"], ["render", "-o", "out.png"], ["repair", "-o", "out.ply"]])
@pytest.mark.parametrize("content", [b"", b"hello\n", b"ply\n", bytes(range(256))])
def test_garbage_is_one_clear_line(tmp_path: Path, command: list[str], content: bytes) -> None:
    file = tmp_path / "garbage.ply"
    file.write_bytes(content)
    result = run(command[0], file, *(tmp_path / word if word.startswith("out") else word for word in command[1:]))
    assert result.exit_code == 1
    assert "garbage.ply" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["garbage.ply"]


@pytest.mark.parametrize("change", [{"stand_in": False}, {"gaussians": 3_001}, {"findings_left": ["nonfinite"]}])
def test_every_checked_claim_counts(judged: Path, tmp_path: Path, change: dict) -> None:
    assert not matches(judged, tmp_path, lambda certificate: certificate.update(change))


def test_per_view_scores_and_a_laxer_gate_are_found_out(judged: Path, tmp_path: Path) -> None:
    assert not matches(judged, tmp_path, lambda certificate: certificate["metrics"][0]["per_view"].__setitem__(0, 0.99))
    assert not matches(judged, tmp_path, lambda certificate: certificate["metrics"][0].update(threshold=-1.0))
    assert not matches(judged, tmp_path, lambda certificate: certificate["gate"].update(min_gaussians=999))
    assert not matches(judged, tmp_path, lambda certificate: certificate["assets"][0].update(bytes=1))
    assert matches(judged, tmp_path, lambda certificate: certificate.update(seed=77))  # cannot be seen from a file


def matches(folder: Path, scratch: Path, change: Callable[[dict], None]) -> bool:
    certificate = json.loads((folder / "certificate.json").read_text())
    change(certificate)
    (scratch / "certificate.json").write_text(json.dumps(certificate))
    return document(run("check", scratch / "certificate.json", folder / "asset.ply", "--json"))["matches"]


@pytest.mark.parametrize(
    ("key", "value"), [("size", 100_000), ("radius", -1.0), ("radius", 1e300), ("background", [9, 9, 9])]
)
def test_absurd_certificate_is_refused_before_anything_is_drawn(
    judged: Path, tmp_path: Path, key: str, value: object
) -> None:
    certificate = json.loads((judged / "certificate.json").read_text())
    certificate["render"][key] = value
    (tmp_path / "certificate.json").write_text(json.dumps(certificate))
    result = run("check", tmp_path / "certificate.json", judged / "asset.ply")
    assert result.exit_code == 1
    assert f"render.{key}" in result.stderr


def test_check_takes_the_file_under_any_name(judged: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.dat"
    copy.write_bytes((judged / "asset.spz").read_bytes())
    assert run("check", judged / "certificate.json", copy).exit_code == 0


def test_output_that_cannot_be_made_is_one_line(small: Path, tmp_path: Path) -> None:
    result = run("generate", "--profile", "shapes", "a ball", "-o", small)
    assert (result.exit_code, "takes a folder" in result.stderr) == (1, True)
    for target in ("/dev/null", str(tmp_path)):
        result = run("convert", small, f"{target}")
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
    result = run("render", small, "-o", small)
    assert result.exit_code == 2
    assert read_splat(small, 10_000)


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.ply"
    os.mkfifo(pipe)
    for arguments in (("inspect", pipe), ("check", pipe, pipe)):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "pipe" in result.stderr


def test_repair_goes_by_content_not_by_suffix(small: Path, tmp_path: Path) -> None:
    """An SPZ that is called .ply becomes a PLY where a PLY is asked for."""
    run("convert", small, tmp_path / "ball.spz")
    (tmp_path / "ball.spz").rename(tmp_path / "liar.ply")
    assert run("repair", tmp_path / "liar.ply", "-o", tmp_path / "out.ply").exit_code == 0
    assert (tmp_path / "out.ply").read_bytes().startswith(b"ply\n")


@pytest.mark.parametrize("prompt", ["   ", "a" * 3_000, "\udcff", "a [/red] ball", "\n\x00"])
def test_odd_prompts_are_one_clear_line(tmp_path: Path, prompt: str) -> None:
    result = run("generate", "--profile", "shapes", prompt, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert not (tmp_path / "out").exists()


def test_default_folders_do_not_collide() -> None:
    assert folder_name("a blue rocket", 7) == "a-blue-rocket-7"
    assert (
        len(
            {
                folder_name(prompt, 0)
                for prompt in ("a red ball", "a red, ball", "赤いボール", "青いボール", "A red ball")
            }
        )
        == 4
    )


def test_convert_there_and_back(small: Path, tmp_path: Path) -> None:
    assert run("convert", small, tmp_path / "ball.spz").exit_code == 0
    assert run("convert", tmp_path / "ball.spz", tmp_path / "again.ply").exit_code == 0
    assert read_splat(tmp_path / "again.ply", 10_000).means == pytest.approx(read_splat(small, 10_000).means, abs=1e-3)


@pytest.mark.parametrize("command", [["convert"], ["repair", "-o"]])
def test_what_lies_beyond_the_reach_of_spz_stays_a_ply(small: Path, tmp_path: Path, command: list[str]) -> None:
    """A splat in a much larger unit is not broken; only the smaller format cannot hold it."""
    splat, source = read_splat(small, 10_000), tmp_path / "large.ply"
    write_splat(source, replace(splat, means=1e7 * splat.means))
    result = run(command[0], source, *command[1:], tmp_path / "out.spz")
    assert result.exit_code == 1
    assert re.search(r"^error: means: .* beyond SPZ.s reach of 4,194,304: .* or write a .ply$", result.stderr, re.M)
    assert not (tmp_path / "out.spz").exists()
    assert run(command[0], source, *command[1:], tmp_path / "out.ply").exit_code == 0


def test_bad_config_is_named(tmp_path: Path, small: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[validate]\ntreshold = 1\n")
    result = run("--config", file, "inspect", small)
    assert result.exit_code == 1
    assert "validate.treshold" in result.stderr


def test_help_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "splatgate generate --profile shapes" in run("--help").stdout
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("baseURL = 'of another program'")  # is no reason not to help
    for command in main.commands:
        assert run(command, "--help").exit_code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_to_the_shells_that_the_readme_names(shell: str) -> None:
    script = CliRunner(env={"_SPLATGATE_COMPLETE": f"{shell}_source"}).invoke(main, prog_name="splatgate")
    assert script.exit_code == 0
    assert "splatgate" in script.stdout

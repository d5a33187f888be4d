"""`inspect`, `repair`, `convert` and `render` on files as users have them."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from healthy import ASSETS, asset, ball

from app.commands.main import main
from app.config import Config, RenderConfig
from app.splat.blank import blank_views, why_blank
from app.splat.cameras import IDENTITY, Placement, judge_placement, judging_views
from app.splat.files import read_splat, write_splat
from app.splat.model import SH_C0, Splat
from app.splat.ply import encode_ply
from app.splat.raster import render

LIMIT = 100_000


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scaled(splat: Splat, factor: float) -> Splat:
    log_scales = splat.log_scales + np.float32(np.log(factor))
    return replace(splat, means=np.float32(factor) * splat.means, log_scales=log_scales)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_splat(tmp_path / "a.ply", ball(2_000))
    return tmp_path / "a.ply"


def test_another_unit_is_a_hint_and_extent_rescales_it_once(tmp_path: Path) -> None:
    write_splat(tmp_path / "cm.ply", scaled(ball(2_000), 0.01))
    assert "hint: other_unit" in run("inspect", tmp_path / "cm.ply").stdout
    assert "(unchanged)" in run("repair", tmp_path / "cm.ply", "-o", tmp_path / "same.ply").stdout
    assert (tmp_path / "same.ply").read_bytes() == (tmp_path / "cm.ply").read_bytes()
    assert run("repair", tmp_path / "cm.ply", "-o", tmp_path / "b.ply", "--extent", "1.5").exit_code == 0
    assert np.ptp(read_splat(tmp_path / "b.ply", LIMIT).means, axis=0).max() == pytest.approx(1.5, rel=1e-5)
    assert "hint: " not in run("inspect", tmp_path / "b.ply").stdout
    assert "(unchanged)" in run("repair", tmp_path / "b.ply", "-o", tmp_path / "c.ply", "--extent", "1.5").stdout
    assert (tmp_path / "c.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


ITS_OWN = 0.0
"""The extent that the asset had before."""


@pytest.mark.parametrize("extent", [1.5, ITS_OWN])
@pytest.mark.parametrize("longest", [0.02, 1_000.0])
@pytest.mark.parametrize("name", [ASSETS[0], pytest.param(ASSETS[1], marks=pytest.mark.slow)])
def test_an_asset_in_another_unit_looks_as_before_when_it_is_rescaled(
    tmp_path: Path, name: str, longest: float, extent: float
) -> None:
    """Its own extent restores what the judge saw. With 1.5 the judge's placement no longer changes the opacities."""
    original = asset(name)
    size = float(np.ptp(original.means, axis=0).max())
    write_splat(tmp_path / "unit.ply", scaled(original, longest / size))
    target = ("-o", tmp_path / "out.ply", "--extent", f"{extent or size:.9g}")
    assert run("repair", tmp_path / "unit.ply", *target).exit_code == 0
    judged = judge_placement(original)
    expected = judged if extent == ITS_OWN else replace(judged, opacity_factor=1.0)
    rescaled = read_splat(tmp_path / "out.ply", 1_000_000)
    views = [pictures(original, expected), pictures(rescaled, judge_placement(rescaled))]
    assert psnr(*views) >= 40
    assert psnr(views[0], pictures(scaled(original, longest / size), judge_placement(rescaled))) < 25


def pictures(splat: Splat, placement: Placement) -> np.ndarray:
    cameras = judging_views(RenderConfig(size=128))
    return render(splat, cameras, placement=placement, background=(1, 1, 1), device="cpu").images


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Decibels, of the worst view."""
    return float(-10 * np.log10(np.square(first - second).mean(axis=(1, 2, 3)).max() + 1e-12))


def test_colours_of_a_hint_are_turned_into_coefficients_if_asked(tmp_path: Path) -> None:
    """0 to 1 may also be a pale object, which has to stay as it is."""
    colours = np.random.default_rng(0).uniform(0.3, 0.7, (2_000, 1, 3)).astype(np.float32)
    rgb = replace(ball(2_000), sh=colours)
    write_splat(tmp_path / "rgb.ply", rgb)
    assert "hint: rgb_unit" in (told := run("inspect", tmp_path / "rgb.ply").stdout)
    assert "repair --rgb" in told
    assert "(unchanged)" in run("repair", tmp_path / "rgb.ply", "-o", tmp_path / "same.ply").stdout
    assert run("repair", tmp_path / "rgb.ply", "-o", tmp_path / "b.ply", "--rgb").exit_code == 0
    np.testing.assert_allclose(0.5 + SH_C0 * read_splat(tmp_path / "b.ply", LIMIT).sh, colours, atol=1e-6)
    again = run("repair", tmp_path / "b.ply", "-o", tmp_path / "c.ply", "--rgb")
    assert again.exit_code == 1
    assert "no hint rgb_unit" in again.stderr
    assert not (tmp_path / "c.ply").exists()


@pytest.mark.parametrize("command", ["repair", "convert"])
def test_up_turns_the_axis_that_points_up_to_plus_y(command: str, file: Path, tmp_path: Path) -> None:
    target = ["-o", tmp_path / "b.ply"] if command == "repair" else [tmp_path / "b.ply"]
    assert run(command, file, *target, "--up", "z").exit_code == 0
    before, after = read_splat(file, LIMIT).means, read_splat(tmp_path / "b.ply", LIMIT).means
    np.testing.assert_array_equal(after[:, 1], before[:, 2])


def test_a_file_changed_in_transfer_is_an_error_and_nothing_is_written(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for command in (("repair", file, "-o", tmp_path / "b.ply"), ("convert", file, tmp_path / "b.ply")):
        result = run(*command)
        assert result.exit_code == 1
        assert "changed in transfer" in result.stderr
        assert not (tmp_path / "b.ply").exists()


def test_a_file_that_has_lost_most_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    splat = ball(1_000)
    splat.means[:700] = np.nan
    write_splat(tmp_path / "a.ply", splat)
    result = run("repair", tmp_path / "a.ply", "-o", tmp_path / "b.ply")
    assert (result.exit_code, (tmp_path / "b.ply").exists()) == (1, False)
    assert "repair.max_lost = 0.5" in result.stderr


def test_convert_says_what_spz_loses(tmp_path: Path) -> None:
    dark = ball(300)
    dark.sh[:, 0] = -8
    write_splat(tmp_path / "a.ply", dark)
    assert (
        "lost in spz: colours: 900 of 900 are clamped" in run("convert", tmp_path / "a.ply", tmp_path / "a.spz").stdout
    )
    document = json.loads(run("convert", tmp_path / "a.ply", tmp_path / "a.spz", "--json").stdout)
    assert len(document["losses"]) == 1
    assert json.loads(run("convert", tmp_path / "a.ply", tmp_path / "b.ply", "--json").stdout)["losses"] == []


def test_convert_does_not_advise_a_repair_that_does_not_help(tmp_path: Path) -> None:
    far = ball(300)
    far = scaled(far, 1e8)
    write_splat(tmp_path / "a.ply", far)
    result = run("convert", tmp_path / "a.ply", tmp_path / "a.spz")
    assert result.exit_code == 1
    assert "repair --extent 1.5" in result.stderr
    assert run("repair", tmp_path / "a.ply", "-o", tmp_path / "b.ply", "--extent", "1.5").exit_code == 0
    assert run("convert", tmp_path / "b.ply", tmp_path / "b.spz").exit_code == 0


def test_notes_of_the_reader_are_shown(tmp_path: Path) -> None:
    flat = ball(300)
    flat.log_scales[:, 2] = -np.inf
    (tmp_path / "a.ply").write_bytes(encode_ply(flat))
    assert "note: 2D Gaussians: read as discs" in run("inspect", tmp_path / "a.ply").stdout
    assert json.loads(run("inspect", tmp_path / "a.ply", "--json").stdout)["notes"]
    assert "note: 2D Gaussians" in run("repair", tmp_path / "a.ply", "-o", tmp_path / "b.ply").stdout
    assert np.isfinite(read_splat(tmp_path / "b.ply", LIMIT).log_scales).all()


def test_a_file_that_is_no_splat_is_reported_without_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_text("<!DOCTYPE html>")
    code = (
        "import sys; from app.commands.main import main\n"
        f"try: main(['repair', {str(tmp_path / 'a.ply')!r}, '-o', {str(tmp_path / 'b.ply')!r}])\n"
        "except SystemExit as end: print(end.code, [m for m in ('torch', 'numba', 'open_clip') if m in sys.modules])"
    )
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.process_time() - start < 5
    assert done.stdout.strip() == "1 []"


# ------------------------------------------------------------------------------- blank views

SETTINGS = RenderConfig(size=64, device="cpu")


def blank(splat: Splat) -> str:
    placement = judge_placement(splat)
    views = render(splat, judging_views(SETTINGS), placement=placement, device="cpu")
    return str(blank_views(splat, views, SETTINGS) or "")


def stray(splat: Splat) -> Splat:
    splat.means[0] = 60
    return splat


@pytest.mark.parametrize(
    ("splat", "why"),
    [
        (stray(ball(2_000)), "a few Gaussians far away make the bounding box 60"),
        (scaled(ball(2_000), 1e-4), "the placement multiplies opacities by 5.84e-05"),
        (replace(ball(2_000), opacity_logits=np.full(2_000, -9.2)), "nine tenths of its opacities are below 0.0001"),
        (scaled(replace(ball(2_000), means=np.full((2_000, 3), 0.25)), 0.01), "nearly all Gaussians lie on one point"),
        (replace(ball(2_000), means=ball(2_000).means + np.float32([50, 0, 0])), "the object lies off the centre"),
        (replace(ball(2_000), quats=np.zeros((2_000, 4))), "each has a lost value"),
    ],
    ids=["stray", "unit", "opacities", "one point", "off centre", "lost"],
)
def test_blank_views_say_why(splat: Splat, why: str) -> None:
    assert why in blank(splat)


def test_views_that_show_something_are_not_blank() -> None:
    assert blank(ball(2_000)) == ""
    assert "no known cause" in why_blank(ball(2_000), IDENTITY)


def test_render_says_that_the_views_are_blank(tmp_path: Path) -> None:
    write_splat(tmp_path / "a.ply", scaled(ball(2_000), 1e-4))
    result = run("render", tmp_path / "a.ply", "-o", tmp_path / "a.png", "--size", "64", "--device", "cpu")
    assert "the views are blank" in result.stdout


def test_the_verdict_says_that_the_views_are_blank_before_the_score() -> None:
    from app.stages.measurement import Measurement, Subject
    from app.validation import Validator, validate

    splat = scaled(ball(60_000), 1e-4)
    views = render(splat, judging_views(SETTINGS), placement=judge_placement(splat), device="cpu")

    class Low(Validator):
        def measure(self, subject: Subject, config: Config) -> dict[str, Measurement]:  # noqa: ARG002
            return {"clip": Measurement(-0.277)}

    _, verdict = validate(Subject(splat, views, "a ball", None), Low({}), Config())
    assert [reason.code for reason in verdict.reasons] == ["blank_views", "too_few_gaussians", "below_threshold"]
    small = scaled(ball(60_000), 0.01)
    views = render(small, judging_views(SETTINGS), placement=judge_placement(small), device="cpu")
    _, verdict = validate(Subject(small, views, "a ball", None), Low({}), Config())
    assert verdict.reasons[0].code == "other_unit"
    strays = ball(60_000)
    strays.means[0] = 5
    views = render(strays, judging_views(SETTINGS), placement=judge_placement(strays), device="cpu")
    _, verdict = validate(Subject(strays, views, "a ball", None), Low({}), Config())
    assert verdict.reasons[0].code == "stray_position", "not the unit, which --extent would rescale"
    collapsed = replace(splat, means=np.full((60_000, 3), 1.0))
    _, verdict = validate(Subject(collapsed, views, "a ball", None), Low({}), Config())
    assert verdict.outcome == "refused"
    assert verdict.reasons[0].code == "uniform_position"

"""The turntable file: its format, and that it shows the splat from all sides, the right way up."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from app import turntable
from app.commands.main import main
from app.config import Config
from app.errors import BadFile
from app.splat.files import write_splat
from app.splat.model import Splat
from app.splat.raster import prepare
from app.splat.scene import Scene
from app.stages import shapes
from app.stages.shapes import ShapesParams
from app.turntable import write_turntable

SMALL = {"size": 96, "seconds": 1.0, "fps": 8}


@pytest.fixture(scope="module")
def splat() -> Splat:
    return shapes.Shapes(ShapesParams(4_000)).build("a red mug on a green box", None, 0)


@pytest.fixture(scope="module")
def film(splat: Splat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "turntable.mp4"
    write_turntable(path, splat, Config(), **SMALL)
    return path


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_the_video_is_h264_in_yuv420p_of_the_requested_size_length_and_rate(film: Path) -> None:
    with av.open(str(film)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height, video.average_rate, video.frames) == (96, 96, 8, 8)
        assert float(video.duration * video.time_base) == pytest.approx(1.0)


def test_the_index_comes_before_the_pictures_so_that_it_plays_while_it_loads(film: Path) -> None:
    content = film.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_every_frame_is_another_view_and_the_loop_closes_without_a_repeat(film: Path) -> None:
    shown = frames(film)
    steps = [np.abs(a - b).mean() for a, b in itertools.pairwise([*shown, shown[0]])]
    assert min(steps) > 0.5


def test_the_background_is_white_and_the_top_is_up(film: Path) -> None:
    front = frames(film)[0]
    assert front[:4].min() > 240
    red, green = (front[..., channel] > front[..., other] + 60 for channel, other in ((0, 1), (1, 0)))
    assert np.argwhere(red)[:, 0].mean() < np.argwhere(green)[:, 0].mean()


def test_the_same_splat_gives_the_same_bytes(film: Path, splat: Splat, tmp_path: Path) -> None:
    """With other memory in use each time: with its macroblock tree, x264 gave other bytes one time in four."""
    kept = []
    for number in range(12):
        kept.append(np.full(997 * (number + 1), number))
        write_turntable(tmp_path / "again.mp4", splat, Config(), **SMALL)
        assert (tmp_path / "again.mp4").read_bytes() == film.read_bytes(), f"copy {number}"


def test_progress_rises_to_one(splat: Splat, tmp_path: Path) -> None:
    told: list[float] = []
    write_turntable(tmp_path / "a.mp4", splat, Config(), **SMALL, on_progress=told.append)
    assert told == sorted(told)
    assert (len(told), told[-1]) == (8, 1.0)


@pytest.mark.parametrize("wrong", [{"size": 97}, {"size": 4096}, {"seconds": 0.0}, {"fps": 0}])
def test_values_out_of_range_are_refused(splat: Splat, tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_turntable(tmp_path / "a.mp4", splat, Config(), **wrong)


def test_an_unusable_folder_is_named_and_an_interrupted_video_leaves_nothing(splat: Splat, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="missing"):
        write_turntable(tmp_path / "missing" / "a.mp4", splat, Config(), **SMALL)

    def stop(_done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_turntable(tmp_path / "a.mp4", splat, Config(), **SMALL, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_films_a_file(splat: Splat, tmp_path: Path) -> None:
    write_splat(tmp_path / "mug.ply", splat)
    arguments = ["turntable", str(tmp_path / "mug.ply"), "-o", str(tmp_path / "mug.mp4"), "--size", "64"]
    result = CliRunner().invoke(main, [*arguments, "--seconds", "0.5", "--fps", "4"])
    assert result.exit_code == 0, result.output
    assert frames(tmp_path / "mug.mp4").shape == (2, 64, 64, 3)


def test_the_command_refuses_another_suffix_and_an_odd_size(tmp_path: Path) -> None:
    for options, word in ((["-o", "a.gif"], "mp4"), (["-o", "a.mp4", "--size", "65"], "even")):
        result = CliRunner().invoke(main, ["turntable", str(tmp_path / "mug.ply"), *options])
        assert (result.exit_code, word in result.output) == (2, True), result.output


def test_the_splat_is_prepared_once_for_all_frames(
    splat: Splat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Splat] = []

    def recorded(splat: Splat, *rest: object, **more: object) -> Scene:
        prepared.append(splat)
        return prepare(splat, *rest, **more)

    monkeypatch.setattr(turntable, "prepare", recorded)
    write_turntable(tmp_path / "a.mp4", splat, Config(), **SMALL)
    assert prepared == [splat]

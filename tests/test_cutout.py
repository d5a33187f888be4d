"""The cutout, with real ONNX models of a few bytes: one whose object is whatever is dark, one that finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from app.errors import BadWeights, StageFailed
from app.stages import cutout
from app.stages.cutout import Cutout, CutoutParams

SIDES = {"u2net": 320, "birefnet-general": 1024}


def model(path: Path, side: int, weight: float) -> Path:
    """A convolution: the mask is `weight` times the sum of the channels."""
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [weight] * 3)
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])
        for name, channels in (("x", 3), ("y", 1))
    ]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "mask", shapes[:1], shapes[1:], [kernel])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(made, path)
    return path


@pytest.fixture(params=list(SIDES))
def dark(request: pytest.FixtureRequest, tmp_path: Path) -> Cutout:
    """Its object is whatever is dark."""
    return cutout.load(CutoutParams(request.param), model(tmp_path / "m.onnx", SIDES[request.param], -1.0))


def disc(size: tuple[int, int] = (200, 160), radius: int = 40) -> Image.Image:
    image = Image.new("RGB", size, "white")
    x, y = size[0] // 2, size[1] // 2
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=(20, 10, 30))
    return image


def test_loading_compiles_nothing(tmp_path):
    """In a process that has not imported rembg, because numba keeps compiled functions."""
    lines = (
        "import sys, numba",
        "from pathlib import Path",
        "from app.stages import cutout",
        f"cutout.load(cutout.CutoutParams('u2net'), Path({str(model(tmp_path / 'm.onnx', 320, 1.0))!r}))",
        "assert 'pymatting' in sys.modules, 'rembg does without: so can we'",
        "assert hasattr(numba.njit(lambda x: x), 'signatures'), 'what comes later is compiled'",
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, check=True)
    assert not (tmp_path / "numba").exists()


def test_the_object_stays_and_the_rest_is_see_through(dark):
    cut = dark.run(disc())
    assert (cut.mode, cut.size) == ("RGBA", (200, 160))
    assert np.array_equal(np.asarray(cut)[..., :3], disc())  # colours are not touched
    alpha = np.asarray(cut)[..., 3]
    assert alpha[80, 100] > cutout.SOLID  # shrinking the mask leaves a small wave in it
    assert alpha[5, 5] == 0
    assert abs((alpha > 127).mean() - np.pi * 40**2 / (200 * 160)) < 0.01


def with_alpha(image: Image.Image, alpha: np.ndarray | int) -> Image.Image:
    made = image.copy()
    made.putalpha(Image.fromarray(np.broadcast_to(np.uint8(alpha), image.size[::-1]).copy()))
    return made


def inside(image: Image.Image, radius: int = 40) -> np.ndarray:
    """The pixels of `disc`."""
    width, height = image.size
    rows, columns = np.ogrid[:height, :width]
    return (columns - width // 2) ** 2 + (rows - height // 2) ** 2 < radius**2


def rounded(size: tuple[int, int], radius: int) -> np.ndarray:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rounded_rectangle([0, 0, size[0] - 1, size[1] - 1], radius, fill=255)
    return np.asarray(mask)


def one_pixel(size: tuple[int, int], value: int) -> np.ndarray:
    alpha = np.full(size[::-1], 255, np.uint8)
    alpha[-1, 7] = value
    return alpha


@pytest.mark.parametrize("alpha", [255, 205])
def test_a_picture_that_is_cut_out_already_stays_as_it_is(dark, alpha):
    image = disc()
    cut = with_alpha(image, np.where(inside(image), alpha, 0))
    assert dark.run(cut) is cut


@pytest.mark.parametrize(
    "alpha",
    [
        255,
        one_pixel((200, 160), 254),
        one_pixel((200, 160), 0),
        rounded((200, 160), 12),
        np.pad(np.full((156, 196), 255), 2),  # a thin frame
        204,
        7,
        0,
        np.where(inside(disc()), 204, 0),  # cut out, then made see-through
        np.where(inside(disc()), 128, 3),
        np.where(np.arange(200) < 193, 255, 0),  # a stripe at the side
    ],
    ids=lambda alpha: f"{np.shape(alpha)}, {np.max(alpha)}, {(np.asarray(alpha) > 204).mean():.3f}",
)
def test_alpha_that_leaves_no_object_is_no_cutout(dark, alpha):
    found = np.asarray(dark.run(with_alpha(disc(), alpha)))[..., 3]
    assert found[80, 100] > cutout.SOLID
    assert found[5, 5] == 0
    assert abs((found > 127).mean() - np.pi * 40**2 / (200 * 160)) < 0.01


def test_the_shares_that_count_are_the_configured_ones(tmp_path):
    image = disc()
    cut = with_alpha(image, np.where(inside(image, 20), 255, 0))  # 4 %
    weights = model(tmp_path / "m.onnx", 320, -1.0)
    assert cutout.load(CutoutParams(min_share=0.03), weights).run(cut) is cut
    assert cutout.load(CutoutParams(max_share=0.05), weights).run(cut) is cut
    with pytest.raises(StageFailed, match=r"no object was found: 3\.\d%"):
        cutout.load(CutoutParams(min_share=0.039), weights).run(cut)
    assert cutout.load(CutoutParams(max_share=0.5), weights).run(with_alpha(image, rounded(image.size, 12))) is not cut


def test_what_is_see_through_is_laid_on_white(dark):
    image = disc().convert("RGBA")
    pixels = np.asarray(image).copy()
    pixels[~inside(image)] = (0, 0, 0, 0)  # black, as most programs leave it
    pixels[inside(image), 3] = 150
    cut = dark.run(Image.fromarray(pixels))
    assert cut.getpixel((5, 5)) == (255, 255, 255, 0)
    assert cut.getpixel((100, 80))[:3] == (20, 10, 30)


def test_nothing_found_ends_the_attempt_with_a_reason(dark):
    with pytest.raises(StageFailed, match=r"no object was found: 0\.\d% of the picture, cutout.min_share is 1.0%"):
        dark.run(disc(radius=4))
    with pytest.raises(StageFailed, match=r"no object was found: 0\.0%"):
        dark.run(Image.new("RGB", (64, 64), "white"))  # the same answer everywhere


def test_everything_taken_for_the_object_ends_it_too(dark):
    image = Image.new("RGB", (200, 200), (20, 10, 30))
    image.putpixel((0, 0), (255, 255, 255))
    ImageDraw.Draw(image).rectangle([0, 0, 12, 12], fill="white")
    with pytest.raises(StageFailed, match=r"the whole picture was taken for the object: 9\d\.\d%"):
        dark.run(image)


def test_nothing_is_downloaded_and_home_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "home"))
    loaded = cutout.load(CutoutParams(), model(tmp_path / "m.onnx", 320, -1.0))
    loaded.run(disc())
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [None, b"", b"no onnx at all"])
def test_invalid_weights_are_reported(tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadWeights, match=r"m.onnx: (the cutout's weights are missing|cannot be loaded)"):
        cutout.load(CutoutParams(), path)

"""The cutout, by real ONNX models of a few bytes: one that takes what is dark for the object, one that sees nothing."""

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
    """Takes what is dark for the object."""
    return cutout.load(CutoutParams(request.param), model(tmp_path / "m.onnx", SIDES[request.param], -1.0))


def disc(size: tuple[int, int] = (200, 160), radius: int = 40) -> Image.Image:
    image = Image.new("RGB", size, "white")
    x, y = size[0] // 2, size[1] // 2
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=(20, 10, 30))
    return image


def test_loading_it_compiles_nothing(tmp_path):
    """In a process that has not imported rembg: numba would leave there what it compiled."""
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


def test_a_picture_that_is_cut_out_already_stays_as_it_is(dark):
    image = disc()
    image.putalpha(Image.new("L", image.size, 7))
    assert dark.run(image) is image


def test_alpha_that_hides_nothing_is_no_cutout(dark):
    assert np.asarray(dark.run(disc().convert("RGBA")))[5, 5, 3] == 0


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


def test_nothing_is_downloaded_and_home_is_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "home"))
    loaded = cutout.load(CutoutParams(), model(tmp_path / "m.onnx", 320, -1.0))
    loaded.run(disc())
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [None, b"", b"no onnx at all"])
def test_weights_that_are_none_say_so(tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadWeights, match=r"m.onnx: (the cutout's weights are missing|cannot be loaded)"):
        cutout.load(CutoutParams(), path)

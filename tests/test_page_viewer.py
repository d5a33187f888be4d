"""The viewer of the page in a real Chromium: it draws what the judge saw, and its controls work.

SPLATGATE_TEST_SPLATS: a folder with more PLY and SPZ files to hold against the judged view.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium_page import Visit, at_rest, browser, needs_chromium, needs_viewer, pixels, serving, visit
from playwright.sync_api import Locator, Page, Route

from app.config import Config
from app.splat.cameras import judge_placement, judging_views
from app.splat.files import read_splat
from app.splat.model import Splat
from app.splat.ply import encode_ply
from app.splat.raster import render
from app.splat.spz import encode_spz
from app.stages import shapes

__all__ = ["browser", "visit"]  # fixtures

pytestmark = [pytest.mark.e2e, needs_chromium, needs_viewer]

SIDE = 512
FAITHFUL = 38.0
"""dB between the viewer and the judged view."""

PROMPTS = ("a red mug on a wooden table", "a blue rocket", "a green chair next to a white box")
FOLDER = os.environ.get("SPLATGATE_TEST_SPLATS", "")
FILES = sorted(path for path in Path(FOLDER).iterdir() if path.suffix in (".ply", ".spz")) if FOLDER else []
ID = "0" * 32


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"serve": {"data": str(tmp_path)}, "render": {"size": SIDE}})


@pytest.fixture
def url(config: Config) -> Iterator[str]:
    yield from serving(config)


@cache
def splat_of(name: str) -> Splat:
    if name in PROMPTS:
        return shapes.Shapes(shapes.ShapesParams(100_000)).build(name, None, 0)
    return read_splat(Path(name), 4_000_000)


def show(page: Page, url: str, splat: Splat, name: str = "asset.ply") -> Locator:
    """Opens a result whose file is this splat. The canvas, SIDE pixels of the style sheet wide."""
    job: dict[str, Any] = {
        **{"id": ID, "kind": "generate", "prompt": "a splat", "seed": 0, "attempts": 1, "profile": "shapes"},
        **{"priority": 10, "sequence": 1, "source": None, "size": None, "state": "DONE", "stage": "", "fraction": 1.0},
        **{"attempt": 1, "created": 1e9, "started": 1e9, "finished": 1e9, "deadline": None, "outcome": "passed"},
        **{"reasons": [], "reason_codes": [], "score": 0.3, "scores": [0.3], "gaussians": len(splat), "error": ""},
        **{
            "engine": None,
            "version": 1,
            "starred": False,
            "assets": [name],
            "position": None,
            "eta": None,
            "trellis": {},
        },
    }
    data = encode_spz(splat) if name.endswith(".spz") else encode_ply(splat)

    def answer(route: Route) -> None:
        if route.request.url.endswith(name):
            route.fulfill(body=data, content_type="application/octet-stream")
        else:
            route.fulfill(body=json.dumps(job), content_type="application/json")

    page.route(f"**/v1/jobs/{ID}**", answer)
    page.goto(f"{url}#job={ID}")
    page.reload()
    canvas = page.get_by_role("application", name="a splat")
    style = {
        "position": "fixed",
        "inset": "0 auto auto 0",
        "maxWidth": "none",
        "border": "0",
        "borderRadius": "0",
        "zIndex": "9",
    }
    size = {"width": f"{SIDE}px", "height": f"{SIDE}px"}
    canvas.locator("..").evaluate("(frame, style) => Object.assign(frame.style, style)", style | size)
    return canvas


def judged(splat: Splat, config: Config, view: int = 0) -> np.ndarray:
    camera = judging_views(config.render)[view]
    views = render(splat, [camera], placement=judge_placement(splat, config.render.extent), device="cpu")
    return 255 * np.clip(views.images[0], 0, 1)


def on_screen(canvas: Locator) -> np.ndarray:
    """The canvas as the screen shows it, averaged to SIDE x SIDE."""
    seen = at_rest(canvas)
    ratio = seen.shape[0] // SIDE
    assert seen.shape[:2] == (ratio * SIDE, ratio * SIDE)
    return seen.reshape(SIDE, ratio, SIDE, ratio, 3).mean(axis=(1, 3))


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(20 * np.log10(255) - 10 * np.log10(max(np.mean((a - b) ** 2), 1e-6)))


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("name", [*PROMPTS, *map(str, FILES)])
def test_the_viewer_shows_what_the_judge_saw(url: str, config: Config, visit: Visit, name: str, ratio: int) -> None:
    splat = splat_of(name)
    page = visit(url, viewport={"width": 1280, "height": 800}, device_scale_factor=ratio)
    canvas = show(page, url, splat)
    found = decibels(on_screen(canvas), judged(splat, config))
    print(f"{Path(name).name}, device pixel ratio {ratio}: {found:.1f} dB")
    assert found >= FAITHFUL


def test_an_spz_looks_like_the_ply(url: str, config: Config, visit: Visit) -> None:
    splat = splat_of(PROMPTS[0])
    canvas = show(visit(url), url, splat, "asset.spz")
    assert decibels(on_screen(canvas), judged(splat, config)) >= FAITHFUL


def test_controls_move_the_camera_and_change_the_picture(url: str, visit: Visit) -> None:
    splat = splat_of(PROMPTS[1])
    page = visit(url)
    canvas = show(page, url, splat)
    front = at_rest(canvas)

    page.get_by_label("Background").select_option("black")
    assert at_rest(canvas)[2, 2].tolist() == [0, 0, 0]
    page.get_by_label("Background").select_option("grey")
    assert at_rest(canvas)[2, 2].tolist() == [128, 128, 128]
    page.get_by_label("Background").select_option("checker")
    assert len(np.unique(at_rest(canvas)[:48, :48].reshape(-1, 3), axis=0)) == 2
    page.get_by_label("Background").select_option("white")
    assert decibels(at_rest(canvas), front) > 50

    moves = {
        "drag": lambda: drag(page, canvas, 90, 20),
        "right drag": lambda: drag(page, canvas, 60, 0, button="right"),
        "wheel": lambda: wheel(page, canvas, -300),
        "key": lambda: canvas.press("ArrowLeft"),
        "shifted key": lambda: canvas.press("Shift+ArrowUp"),
    }
    for name, move in moves.items():
        move()
        assert decibels(at_rest(canvas), front) < 30, name
        canvas.press("Home")
        assert decibels(at_rest(canvas), front) > 50, name

    page.get_by_label("Colours").select_option("file")
    page.get_by_label("Colours").select_option("judged")
    assert decibels(at_rest(canvas), front) > 50

    with page.expect_download() as saved:
        page.get_by_role("button", name="Screenshot").click()
    picture = pixels(Path(saved.value.path()).read_bytes())
    assert decibels(picture, front) > 50


def test_zoom_is_in_proportion_to_the_wheel(url: str, visit: Visit) -> None:
    page = visit(url)
    canvas = show(page, url, splat_of(PROMPTS[1]))
    at_rest(canvas)
    wheel(page, canvas, -20)
    wheel(page, canvas, -20)
    twice = at_rest(canvas)
    canvas.press("Home")
    at_rest(canvas)
    wheel(page, canvas, -40)
    assert decibels(at_rest(canvas), twice) > 45


def test_rotation_goes_on_until_the_splat_is_touched(url: str, visit: Visit) -> None:
    page = visit(url)
    canvas = show(page, url, splat_of(PROMPTS[1]))
    front = at_rest(canvas)
    rotate = page.get_by_role("button", name="Rotate")
    rotate.click()
    assert rotate.get_attribute("aria-pressed") == "true"
    while decibels(pixels(canvas.screenshot()), front) > 30:
        page.wait_for_timeout(100)
    canvas.click()
    assert rotate.get_attribute("aria-pressed") == "false"
    at_rest(canvas)


def drag(page: Page, canvas: Locator, right: float, down: float, button: Any = "left") -> None:
    box = canvas.bounding_box()
    assert box
    x, y = box["x"] + 200, box["y"] + 200
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + right, y + down, steps=3)
    page.mouse.up(button=button)


def wheel(page: Page, canvas: Locator, delta: float) -> None:
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, delta)

"""The page in a real Chromium, for the tests of the page: fixtures, and an application to serve it."""

from __future__ import annotations

import importlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import _chromium
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from werkzeug.serving import make_server

from app.config import Config
from app.jobs.client import Jobs
from app.web import create_app

pages = importlib.import_module("app.web.pages")  # app.web has a blueprint of that name

DESKTOP = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"}
PATIENCE = 90_000.0  # milliseconds: longer than any wait here takes on two busy cores

needs_chromium = pytest.mark.skipif(
    not _chromium.PATH.exists(), reason=f"no {_chromium.PATH}: apt-get install chromium"
)
needs_viewer = pytest.mark.skipif(not pages.VIEWER.is_file(), reason="no viewer is installed: run scripts/page")

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium.PATH, args=_chromium.FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """visit(url, **options of the context) -> the page. The test fails on any word in the console, on a breach
    of the Content-Security-Policy, and on a request to another host; allowed: what the console may say."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def visit(url: str, allowed: str = "\0", **options: object) -> Page:
        context = browser.new_context(**DESKTOP | options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc

        def listen(words: str) -> None:
            if allowed not in words:
                complaints.append(words)

        page.on("console", lambda message: listen(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: listen(f"error: {error}"))
        page.on("request", lambda request: urlsplit(request.url).netloc in (host, "") or listen(f"asked {request.url}"))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[str]:
    """The web application alone, on a real port and a real database; no engine."""
    yield from serving(Config.model_validate({"serve": {"data": str(tmp_path)}}))


def serving(config: Config, clock: Callable[[], float] = time.time) -> Iterator[str]:
    jobs = Jobs(config, clock)
    app = create_app(config, jobs)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(30)
    server.server_close()
    jobs.close()


def submit(page: Page, prompt: str) -> None:
    """Types a prompt and presses Enter."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Enter")


def pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) in 0..255 of a PNG."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def at_rest(canvas: Locator) -> np.ndarray:
    """The canvas once two screenshots of it are the same: a splat is sorted in the background."""
    expect(canvas).to_have_attribute("data-state", "shown")
    seen = pixels(canvas.screenshot())
    for _ in range(40):
        canvas.page.wait_for_timeout(150)
        before, seen = seen, pixels(canvas.screenshot())
        if np.array_equal(before, seen):
            return seen
    raise AssertionError("the viewer does not come to rest")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1_000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)

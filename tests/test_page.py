"""The page as a person uses it, in a real Chromium: what is typed, watched, turned, read aloud, and on a phone.

Skipped where Debian's chromium is missing. Every test also fails on a word in the browser's console, on a breach of the
Content-Security-Policy, and on a request to any other host.
"""

import importlib
import io
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import _chromium
import numpy as np
import pytest
from _serving import service
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright
from werkzeug.serving import make_server

from app.config import Config
from app.jobs.client import Jobs
from app.web import create_app
from app.web.auth import new_token, token_hash

pages = importlib.import_module("app.web.pages")  # app.web has a blueprint of that name
PASSES = "a red mug on a wooden table"
REFUSED = "a tiny blue cylinder on a huge tree"
DESKTOP = {"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"}
PATIENCE = 90_000.0  # milliseconds: longer than any wait here takes on two busy cores

needs_viewer = pytest.mark.skipif(not pages.VIEWER.is_file(), reason="no viewer is installed: run scripts/page")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not _chromium.PATH.exists(), reason=f"no {_chromium.PATH}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium.PATH, args=_chromium.FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """visit(url, **options of the browser's context) -> the page, watched; allowed: words that the console may say."""
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


# ---- the whole product -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`splatgate serve` as a user starts it, with small splats. The URL of the page."""
    small = {"SHAPES__GAUSSIANS": 20_000, "VALIDATE__MIN_GAUSSIANS": 10_000}
    film = {"TURNTABLE__SIZE": 96, "TURNTABLE__SECONDS": 0.5}
    with service(tmp_path_factory.mktemp("served"), **small, **film) as url:
        yield f"{url}/"


LISTEN = """() => {
  const now = document.getElementById("now");
  const listen = () => window.said.push(now.querySelector("[role=status]").textContent);
  window.said = [];
  new MutationObserver(listen).observe(now, { childList: true, subtree: true });
}"""


def order(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.keyboard.press("Enter")


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((128, 128)), dtype=float)


def shot(canvas: Locator) -> np.ndarray:
    """The canvas once two looks at it are the same: the splat is sorted anew in the background."""
    seen = picture(canvas.screenshot())
    for _ in range(40):
        canvas.page.wait_for_timeout(150)
        before, seen = seen, picture(canvas.screenshot())
        if distance(before, seen) < 0.01:
            return seen
    raise AssertionError("the viewer does not come to rest")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def judged_front(page: Page, address: str) -> np.ndarray:
    views = page.request.get(address).body()
    with Image.open(io.BytesIO(views)) as image:
        side = io.BytesIO()
        image.crop((0, 0, image.height, image.height)).save(side, "PNG")
    return picture(side.getvalue())


@needs_viewer
def test_a_prompt_is_typed_watched_and_its_splat_turned(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product, viewport={"width": 700, "height": 520})  # a small canvas: it is drawn in software
    expect(page.locator("#readiness")).to_have_text("Ready")
    page.evaluate(LISTEN)
    order(page, PASSES)
    now = page.get_by_role("region", name=PASSES)
    expect(now.get_by_role("status")).to_contain_text("Passed, score 0.")
    said = " | ".join(page.evaluate("window.said"))
    assert (
        "Rendering 4 views..." in said or "Validating with CLIP..." in said
    )  # the longest two; a short one may pass unseen
    page.get_by_role("button", name="Look at it").click()

    canvas = page.get_by_role("application", name=PASSES)
    expect(canvas).to_have_attribute("data-state", "shown")
    front = shot(canvas)
    card = page.locator("#cards .card img").first.get_attribute("src")
    judged = judged_front(page, product + str(card))
    assert distance(front, judged) < 6  # of 255: as the judge saw it,
    assert distance(front, judged[::-1]) > 3 * distance(front, judged)  # not upside down,
    assert distance(front, judged[:, ::-1]) > 1.5 * distance(front, judged)  # and not mirrored

    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 240, box["y"] + 140, steps=4)
    page.mouse.up()
    turned = shot(canvas)
    assert distance(front, turned) > 5
    page.mouse.wheel(0, -300)
    assert distance(turned, shot(canvas)) > 2
    canvas.focus()
    page.keyboard.press("Home")
    assert distance(front, shot(canvas)) < 1
    page.keyboard.press("ArrowLeft")
    assert distance(front, shot(canvas)) > 2


def test_a_refused_result_says_why_in_the_gallery_and_in_full(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product)
    order(page, REFUSED)
    card = page.locator(".card", has_text=REFUSED)
    expect(card.locator(".badge")).to_have_text("refused")
    expect(card).to_contain_text("under the threshold 0.2")
    page.get_by_label("Passed").check()
    expect(card).to_have_count(0)
    page.get_by_label("Refused").check()
    card.click()
    dialog = page.get_by_role("dialog", name=REFUSED)
    expect(dialog.locator("li", has_text="under the threshold 0.2")).to_be_visible()
    names = dialog.locator("figcaption").all_inner_texts()
    assert [name.split()[0] for name in names] == ["front", "side", "top", "angled"]
    assert all(float(name.split()[1]) < 1 for name in names)
    files = {link.get_attribute("href").rpartition("/")[2] for link in dialog.locator("a[download]").all()}
    assert files >= {"asset.ply", "asset.spz", "certificate.json", "views.png"}


def test_where_the_viewer_fails_a_film_is_made_and_plays(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product, allowed="Failed to load resource")
    page.route("**/vendor/gsplat.js", lambda route: route.abort())
    order(page, "a green cone")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("dialog")).to_contain_text("There is no turntable film of it yet")
    page.get_by_role("button", name="Make a turntable film").click()
    video = page.locator("video")
    expect(video).to_be_visible()
    wait_for(lambda: video.evaluate("video => video.readyState") >= 2)
    assert video.evaluate("video => [video.videoWidth, video.duration]") == [96, 0.5]
    expect(page.get_by_role("link", name="Turntable film")).to_be_visible()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


# ---- without an engine: what is shown while nothing is ready ---------------------------------------------------------


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[str]:
    """The web application alone, on a real port and a real database; no engine."""
    yield from serving(Config.model_validate({"serve": {"data": str(tmp_path)}}))


def serving(config: Config, clock: Callable[[], float] = time.time) -> Iterator[str]:
    jobs = Jobs(config, clock)
    server = make_server("127.0.0.1", 0, create_app(config, jobs), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(30)
    server.server_close()
    jobs.close()


def test_it_says_that_nothing_is_ready_and_queues_and_cancels_all_the_same(
    waiting: str, visit: Callable[..., Page]
) -> None:
    page = visit(waiting)
    expect(page.locator("#readiness")).to_have_text("Not ready yet")
    expect(page.locator("#engines")).to_contain_text("No engine has reported yet")
    order(page, "a blue rocket")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Next to be taken")
    order(page, "a purple tree")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Number 2 in the queue")
    expect(page.locator("#queue-title")).to_have_text("In progress: 2 waiting")
    expect(page.locator("#queue li")).to_contain_text(["a blue rocket", "a purple tree"])
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")
    expect(page.locator(".card", has_text="a purple tree").locator(".badge")).to_have_text("cancelled")


def test_the_queue_is_shown_in_the_order_in_which_it_is_taken(tmp_path: Path, visit: Callable[..., Page]) -> None:
    """Not by the time of the order's making, which ids sort by: here the clock is set back from order to order."""
    times = itertools.count(time.time(), -1.0)
    for url in serving(Config.model_validate({"serve": {"data": str(tmp_path)}}), lambda: next(times)):
        page = visit(url)
        for prompt, priority in (("a blue rocket", 10), ("a purple tree", 10), ("a red cube", 1), ("a green cone", 10)):
            assert page.request.post(f"{url}v1/jobs", data={"prompt": prompt, "priority": priority}).status == 202
        page.reload()
        taken = ["a red cube", "a blue rocket", "a purple tree", "a green cone"]
        expect(page.locator("#queue li")).to_contain_text(taken)


def test_what_cannot_be_made_is_said_and_markup_stays_text(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="422")
    field = page.get_by_label("Prompt")
    order(page, "  ")
    expect(page.get_by_role("alert")).to_have_text("Say first what to make.")
    expect(field).to_be_focused()
    order(page, "<img src=x onerror=alert(1)>")
    expect(page.get_by_role("alert")).to_contain_text("<img src=x")
    assert page.locator("main img").count() == 0


def test_everything_has_a_name_and_the_keyboard_goes_in_reading_order(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    order(page, "a blue rocket")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)[0]") == "H1"
    assert page.locator("html[lang=en]").count() == 1
    page.reload()
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.innerText.trim()"))
    assert stops == ["Skip to the results", "prompt", "Generate", "More", ""]  # then the filter, by its arrow keys
    assert page.evaluate("document.activeElement.name") == "filter"


NAMELESS = """() => [...document.querySelectorAll("input, button, a, img, canvas, video, progress, dialog, section")]
  .filter((each) => each.checkVisibility() && !each.labels?.length && !each.innerText?.trim()
    && each.getAttribute("alt") === null && !each.ariaLabel && !each.getAttribute("aria-labelledby"))
  .map((each) => each.outerHTML)"""


def test_the_dialog_has_an_address_keeps_the_focus_and_gives_it_back(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="404")
    order(page, "a blue rocket")
    page.get_by_role("button", name="Cancel").click()
    card = page.locator(".card")
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="a blue rocket")
    expect(dialog).to_be_visible()
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    assert "#job=" in page.url
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card).to_be_focused()
    expect(page).to_have_url(waiting)
    page.goto(f"{waiting}#job=0")
    page.reload()
    expect(page.get_by_role("dialog")).to_contain_text("no job")


def test_older_results_come_a_page_at_a_time(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    for number in range(30):
        job = page.request.post(f"{waiting}v1/jobs", data={"prompt": "a blue rocket", "seed": number}).json()
        page.request.delete(f"{waiting}v1/jobs/{job['id']}")
    page.reload()
    cards = page.locator(".card")
    expect(cards).to_have_count(24)
    expect(cards.first).to_contain_text("seed 29")
    page.get_by_role("button", name="Show older ones").click()
    expect(cards).to_have_count(30)
    expect(cards.last).to_contain_text("seed 0")
    expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()


def test_what_the_judges_said_is_shown_once_they_have_said_something(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    expect(page.locator("#empty")).to_be_visible()
    section = page.locator("#feedback")
    expect(section).to_be_hidden()
    line = (
        "2026-11-20 10:00:00 | INFO | Feedback from [7]: Score=0.7, AvgScore=0.7, ELO=1500, Reward=0.1, Observations=3"
    )
    page.request.post(f"{waiting}v1/feedback", data=line, headers={"Content-Type": "text/plain"})
    page.reload()
    expect(section).to_contain_text("1 answer, 100 % of 1 accepted")
    section.scroll_into_view_if_needed()
    wait_for(lambda: section.locator("img").evaluate("image => image.naturalWidth") > 0)


def test_progress_comes_back_after_the_server_refused_it(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="503")
    refused = []

    def once(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=503)

    page.route("**/events", once, times=1)
    order(page, "a blue rocket")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Next to be taken")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")
    assert len(refused) == 1


def test_where_pictures_are_taken_one_can_be_given_instead_of_words(tmp_path: Path, visit: Callable[..., Page]) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    for url in serving(Config.model_validate({"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}})):
        page = visit(url)
        page.get_by_text("More").click()
        page.get_by_label("Picture").set_input_files(tmp_path / "red.png")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("region", name="(from a picture)").get_by_role("status")).to_have_text(
            "Next to be taken"
        )
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(waiting: str, visit: Callable[..., Page], scheme: str) -> None:
    page = visit(waiting, color_scheme=scheme)
    order(page, "a blue rocket")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".card")).to_be_visible()
    found = page.evaluate(COLOURS)
    assert len(found) > 12
    weak = [(text, contrast(ink, ground)) for text, ink, ground in found if contrast(ink, ground) < 4.5]
    assert weak == []
    grounds = {ground for _, _, ground in found}
    assert (max(map(luminance, grounds)) > 0.8) == (scheme == "light")


COLOURS = """() => {
  const clear = (colour) => /^rgba\\(.*, 0\\)$/.test(colour);
  const ground = (each) => {
    while (each && clear(getComputedStyle(each).backgroundColor)) each = each.parentElement;
    return each ? getComputedStyle(each).backgroundColor : "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.checkVisibility() && [...each.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((each) => !["SCRIPT", "NOSCRIPT"].includes(each.tagName))
    .map((each) => [each.innerText.slice(0, 40), getComputedStyle(each).color, ground(each)]);
}"""


def luminance(colour: str) -> float:
    """WCAG's relative luminance of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(ink: str, ground: str) -> float:
    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_phone_nothing_is_cut_off_and_fingers_can_hit_it(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    order(page, "a blue rocket")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".card")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all((button.bounding_box() or {})["height"] >= 44 for button in page.locator("button:visible").all())
    page.locator(".card").tap()
    width = page.get_by_role("dialog").evaluate("dialog => [dialog.scrollWidth, dialog.clientWidth]")
    assert width[0] <= width[1] <= 360


def test_with_tokens_the_browser_itself_asks_for_one(tmp_path: Path, visit: Callable[..., Page]) -> None:
    token = new_token()
    (tmp_path / "tokens").write_text(f"{token_hash(token)} a person\n")
    tree = {"serve": {"data": str(tmp_path)}, "auth": {"tokens_file": str(tmp_path / "tokens")}}
    for url in serving(Config.model_validate(tree)):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url, timeout=10)
        page = visit(url, http_credentials={"username": "anyone", "password": token})
        order(page, "a blue rocket")
        expect(page.locator("#now").get_by_role("status")).to_have_text("Next to be taken")  # told by the event stream
        page.context.close()  # before the server, which it would miss


# ---- the document, without a browser ---------------------------------------------------------------------------------


def document(config: Config) -> tuple[str, dict[str, str]]:
    jobs = Jobs(config)
    answer = create_app(config, jobs).test_client().get("/")
    jobs.close()
    return answer.get_data(as_text=True), dict(answer.headers)


def test_the_policy_allows_nothing_inline_nothing_from_outside_and_no_eval(tmp_path: Path) -> None:
    html, headers = document(Config.model_validate({"serve": {"data": str(tmp_path)}}))
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"].split() == ["'self'", "'wasm-unsafe-eval'"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    assert not [word for word in ("http://", "https://", "style=", "onclick=", "<script>", "<style") if word in html]


def test_the_banners_name_the_stand_in_switched_off_validation_and_a_missing_viewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"serve": {"data": str(tmp_path)}}
    monkeypatch.setattr(pages, "VIEWER", tmp_path / "viewer.js")
    html, _ = document(Config.model_validate(data | {"validate": {"enabled": False}}))
    assert all(words in html for words in ("Stand-in.", "Validation is OFF", "No 3D viewer is installed."))
    pages.VIEWER.touch()
    html, _ = document(Config.model_validate(data | {"profile": {"name": "full"}}))
    assert not [words for words in ("Stand-in.", "Validation is OFF", "No 3D viewer is installed.") if words in html]


def test_the_lock_of_the_viewer_pins_content_not_a_host() -> None:
    lock = json.loads((Path(pages.__file__).parent / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package or "hasInstallScript" in package for package in packages.values())

"""The page as a person uses it, in a real Chromium: what is typed, watched, turned, read aloud, and on a phone.

Skipped where Debian's chromium is missing. Every test also fails on a word in the browser's console, on a breach of the
Content-Security-Policy, and on a request to any other host.
"""

import base64
import io
import itertools
import json
import re
import shlex
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import _random_models as random_models
import numpy as np
import pytest
import requests
import sqlalchemy as sa
from _damage import DAMAGES
from _serving import service
from axe_playwright_python.sync_playwright import Axe
from chromium_page import (
    at_rest,
    browser,
    needs_chromium,
    needs_viewer,
    pages,
    pixels,
    serving,
    submit,
    visit,
    wait_for,
    waiting,
)
from PIL import Image
from playwright.sync_api import Page, Route, expect
from service import engine, wait_until, web

from app.config import Config
from app.generators.shapes import SHAPES_CLIP
from app.jobs import tables
from app.jobs.client import Jobs
from app.jobs.records import JobRequest
from app.splat import findings
from app.splat.ply import encode_ply
from app.stages import shapes
from app.web import create_app
from app.web.tokens import new_token, token_hash

__all__ = ["browser", "visit", "waiting"]  # fixtures

PASSES = "a red mug on a wooden table"
REFUSED = "a tiny blue cylinder on a huge tree"

pytestmark = [pytest.mark.e2e, needs_chromium]


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


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def judged_front(page: Page, address: str, height: int, width: int) -> np.ndarray:
    with Image.open(io.BytesIO(page.request.get(address).body())) as image:
        front = image.crop((0, 0, image.height, image.height)).resize((width, height), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        front.save(stream, "PNG")
    return pixels(stream.getvalue())


@needs_viewer
def test_a_prompt_is_typed_watched_and_its_splat_shown(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product, viewport={"width": 700, "height": 520})  # a small canvas: it is drawn in software
    expect(page.locator("#readiness")).to_have_text("Ready")
    page.evaluate(LISTEN)
    seed = page.get_by_label("Seed", exact=True).input_value()
    submit(page, PASSES)
    now = page.get_by_role("region", name=PASSES)
    expect(now.get_by_role("status").first).to_contain_text("Passed, score 0.")
    said = " | ".join(page.evaluate("window.said"))
    assert (
        "Rendering the views…" in said or "Scoring the views…" in said
    )  # the longest two; a short one may pass unseen
    expect(now).to_contain_text(f"seed {seed}")
    assert page.get_by_label("Seed", exact=True).input_value() != seed
    front = at_rest(now.get_by_role("application", name=PASSES))
    card = page.locator("#cards .card img").first.get_attribute("src")
    judged = judged_front(page, product + str(card), *front.shape[:2])
    assert distance(front, judged) < 6  # of 255: as the judge saw it,
    assert distance(front, judged[::-1]) > 3 * distance(front, judged)  # not upside down,
    assert distance(front, judged[:, ::-1]) > 1.5 * distance(front, judged)  # and not mirrored
    now.get_by_role("button", name="side").click()
    assert distance(at_rest(now.get_by_role("application", name=PASSES)), front) > 3
    now.get_by_text("Download").click()
    with page.expect_download() as saved:
        now.get_by_role("link", name="Splat (PLY)", exact=True).click()
    assert saved.value.suggested_filename == f"a-red-mug-on-a-wooden-table-seed{seed}.ply"


def test_a_refused_result_says_why_and_offers_the_next_seeds(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product)
    page.get_by_label("Seed", exact=True).fill("0")
    submit(page, REFUSED)
    card = page.locator(".card", has_text=REFUSED)
    expect(card.locator(".badge")).to_have_text("refused")
    expect(card).to_contain_text("below the threshold 0.2")
    page.locator("#filter").get_by_label("Passed").check()
    expect(card).to_have_count(0)
    page.locator("#filter").get_by_label("Refused").check()
    card.click()
    dialog = page.get_by_role("dialog", name=REFUSED)
    expect(dialog.locator("li", has_text="below the threshold 0.2")).to_be_visible()
    names = dialog.locator(".view").all_inner_texts()
    assert [name.split()[0] for name in names] == ["front", "side", "top", "angled"]
    assert all(float(name.split()[1]) < 1 for name in names)
    files = {str(link.get_attribute("href")).rpartition("/")[2] for link in dialog.locator("a[download]").all()}
    assert files >= {"asset.ply", "asset.spz", "certificate.json", "views.png"}
    dialog.get_by_role("button", name="Try the next 4 seeds").click()
    now = page.get_by_role("region", name=f"“{REFUSED}”, 4 variations")
    expect(now.get_by_role("status")).to_contain_text("Done:")
    tiles = now.locator("li").all_inner_texts()
    assert {tile.split()[-1] for tile in tiles} == {"1", "2", "3", "4"}
    scores = [float(tile.split()[2]) for tile in tiles]
    assert scores == sorted(scores, reverse=True)


def test_a_running_job_is_cancelled_in_its_dialog(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product)
    page.get_by_label("Attempts").fill("20")  # it is refused each time, so it runs long enough
    submit(page, REFUSED)
    page.locator("#queue, #now").get_by_text(re.compile("^Attempt ")).first.wait_for()
    job = page.request.get(f"{product}v1/jobs?state=RUNNING").json()["jobs"][0]["id"]
    page.goto(f"{product}#job={job}")
    page.reload()
    dialog = page.get_by_role("dialog", name=REFUSED)
    expect(dialog.get_by_role("progressbar")).to_be_visible()
    cancel = dialog.get_by_role("button", name="Cancel")
    cancel.focus()
    wait_for(lambda: page.request.get(f"{product}v1/jobs/{job}").json()["attempt"] > 3)
    expect(cancel).to_be_focused()  # progress leaves it alone
    page.keyboard.press("Enter")
    expect(dialog.locator(".badge")).to_have_text("cancelled")
    expect(cancel).to_be_hidden()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()


def test_variations_have_consecutive_seeds_and_are_found_saved_and_deleted_together(
    product: str, visit: Callable[..., Page]
) -> None:
    page = visit(product)
    page.get_by_label("Variations").select_option("2")
    page.get_by_label("Seed", exact=True).fill("41")
    page.get_by_label("Lock").check()
    submit(page, "a red cone")
    now = page.get_by_role("region", name="“a red cone”, 2 variations")
    expect(now.get_by_role("status")).to_contain_text("Done:")
    assert page.get_by_label("Seed", exact=True).input_value() == "41"
    page.get_by_label("Search the results").fill("RED CONE")
    expect(page.locator("#cards .card")).to_have_count(2)
    for seed in (41, 42):
        page.get_by_label(f"Select “a red cone”, seed {seed}").check()
    selection = page.locator("#selection")
    expect(selection).to_contain_text("2 selected")
    with page.expect_download() as saved:
        selection.get_by_role("link", name="Download ZIP").click()
    with zipfile.ZipFile(saved.value.path()) as archive:
        assert sorted(archive.namelist()) == ["a-red-cone-seed41.ply", "a-red-cone-seed42.ply"]
    page.once("dialog", lambda dialog: dialog.accept())
    selection.get_by_role("button", name="Delete").click()
    expect(page.locator("#empty")).to_have_text("No match.")


@needs_viewer
def test_a_splat_is_repaired_and_shown_before_and_after(
    product: str, visit: Callable[..., Page], tmp_path: Path
) -> None:
    whole = shapes.Shapes(shapes.ShapesParams(3_000)).build("a red cube", None, 0)
    name, damage = next(iter(DAMAGES.items()))
    (tmp_path / "broken.ply").write_bytes(encode_ply(damage(whole, np.random.default_rng(0))))
    page = visit(product, viewport={"width": 900, "height": 520})
    field = page.get_by_label("Inspect and repair a splat")
    field.set_input_files(tmp_path / "broken.ply")
    dialog = page.get_by_role("dialog", name="broken.ply")
    expect(dialog.get_by_role("heading", name="Findings")).to_be_visible()
    assert dialog.locator("figcaption").all_inner_texts() == ["Before", "After the repair"], name
    at_rest(dialog.get_by_role("application", name="After the repair"))
    with page.expect_download() as saved:
        dialog.get_by_role("link", name="Download: Splat (PLY)").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"ply")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_label("Kind").select_option("repair")
    expect(page.locator("#cards .card")).to_contain_text(["(a repaired splat)"])
    (tmp_path / "notes.txt").write_text("no splat")
    field.set_input_files(tmp_path / "notes.txt")
    expect(page.locator("#bring-status")).to_contain_text("notes.txt is neither a picture nor a splat")


@needs_viewer
def test_without_a_viewer_a_turntable_video_is_rendered_and_plays(product: str, visit: Callable[..., Page]) -> None:
    page = visit(product, allowed="Failed to load resource")
    page.route("**/vendor/spark.js", lambda route: route.abort())
    submit(page, "a green cone")
    expect(page.locator("#now")).to_contain_text("The 3D viewer does not work here: its files could not be loaded.")
    page.get_by_role("button", name="Make a turntable video").click()
    video = page.locator("video")
    expect(video).to_be_visible()
    wait_for(lambda: video.evaluate("video => video.readyState") >= 2)
    assert video.evaluate("video => [video.videoWidth, video.duration]") == [96, 0.5]
    page.locator("#now").get_by_text("Download").click()
    expect(page.get_by_role("link", name="Turntable video")).to_be_visible()


# ---- without an engine: what is shown while nothing is ready ---------------------------------------------------------


def test_it_says_that_nothing_is_ready_and_queues_and_cancels_all_the_same(
    waiting: str, visit: Callable[..., Page]
) -> None:
    page = visit(waiting)
    expect(page.locator("#readiness")).to_have_text("Not ready yet")
    expect(page.locator("#engines")).to_contain_text("No engine has reported yet")
    submit(page, "a blue rocket")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Next in the queue")
    submit(page, "a purple tree")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Number 2 in the queue")
    expect(page.locator("#queue-title")).to_have_text("In progress: 2 waiting")
    expect(page.locator("#queue li")).to_contain_text(["a blue rocket", "a purple tree"])
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")
    expect(page.locator("#empty")).to_have_text("No results yet. The jobs in progress will appear here.")
    page.locator("#filter").get_by_label("Cancelled").check()
    expect(page.locator(".card", has_text="a purple tree").locator(".badge")).to_have_text("cancelled")


def test_a_waiting_job_is_cancelled_in_its_dialog(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    for prompt in ("a blue rocket", "a purple tree"):
        page.request.post(f"{waiting}v1/jobs", data={"prompt": prompt})
    page.locator("#queue").get_by_role("button", name="a purple tree", exact=True).click()
    dialog = page.get_by_role("dialog", name="a purple tree")
    expect(dialog).to_contain_text("Number 2 in the queue")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog.locator(".badge")).to_have_text("cancelled")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#queue li")).to_have_count(1)


FAILURES = {
    "FAILED": "An error stopped this job.",
    "EXPIRED": "This job did not finish before its deadline.",
    "QUARANTINED": "This job crashed its engine and was given up.",
}


@pytest.mark.parametrize("state", FAILURES)
def test_a_failed_job_says_so_in_plain_words_and_offers_to_try_again(
    tmp_path: Path, visit: Callable[..., Page], state: str
) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}})
    for url in serving(config):
        page = visit(url)
        page.get_by_label("Seed", exact=True).fill("7")
        submit(page, "a blue rocket")
        now = page.get_by_role("region", name="a blue rocket")
        expect(now.get_by_role("status")).to_have_text("Next in the queue")
        fail(config, state, "OutOfMemoryError: CUDA out of memory")
        expect(now.get_by_role("status").first).to_have_text(FAILURES[state])
        expect(now.locator(".problem:visible")).to_have_text(f"{FAILURES[state]} Try it again, or try other seeds.")
        expect(now).to_contain_text("OutOfMemoryError: CUDA out of memory")
        expect(page.locator("#cards .why")).to_have_text(FAILURES[state])
        with page.expect_request(lambda request: request.method == "POST") as sent:
            now.get_by_role("button", name="Try again").click()
        assert sent.value.post_data_json["seed"] == 7
        page.locator("#cards .card").click()
        dialog = page.get_by_role("dialog", name="a blue rocket")
        dialog.get_by_role("button", name="Try the next 4 seeds").click()
        expect(page.get_by_role("region", name="“a blue rocket”, 4 variations")).to_contain_text("seed 11")
        page.locator("#cards .card").click()
        dialog.get_by_role("button", name="Change the prompt").click()
        expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
        assert page.get_by_label("Seed", exact=True).input_value() == "7"
        page.context.close()


def fail(config: Config, state: str, error: str) -> None:
    """Ends all jobs with an error, as an engine would."""
    with closing(Jobs(config)) as jobs, jobs.store.writing() as connection:
        change = sa.update(tables.jobs).values(
            state=state, error=error, finished=time.time(), version=tables.jobs.c.version + 1
        )
        connection.execute(change)


def test_the_stand_in_banner_is_one_line_on_a_phone_and_stays_dismissed(
    waiting: str, visit: Callable[..., Page]
) -> None:
    page = visit(waiting, viewport={"width": 390, "height": 844})
    words = page.get_by_text("Stand-in results.")
    line = words.evaluate("words => parseFloat(getComputedStyle(words).lineHeight)")
    for width in (360, 390, 800, 1180, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        box = page.locator(".banner", has=words).bounding_box()
        assert box, width
        assert box["height"] < 2 * line, width
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    page.get_by_role("button", name="Dismiss").click()
    expect(words).to_be_hidden()
    page.reload()
    expect(words).to_be_hidden()


def test_all_that_waits_is_shown_cancelled_and_comes_back_after_a_reload(
    waiting: str, visit: Callable[..., Page]
) -> None:
    page = visit(waiting)
    for number in range(30):
        page.request.post(f"{waiting}v1/jobs", data={"prompt": "a blue rocket", "seed": number})
    submit(page, "a purple tree")
    expect(page.locator("#queue li")).to_have_count(31)
    expect(page.locator("#queue li").last).to_contain_text("Number 31 in the queue")
    page.reload()
    expect(page.get_by_role("region", name="a purple tree").get_by_role("status")).to_have_text(
        "Number 31 in the queue"
    )
    page.get_by_role("button", name="Cancel: “a blue rocket”").first.click()
    expect(page.locator("#queue li")).to_have_count(30)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator("#queue")).to_be_hidden()
    expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")


def test_a_waiting_job_is_moved_to_the_front_and_keeps_the_focus(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    for prompt in ("a blue rocket", "a red cube", "a green cone"):
        page.request.post(f"{waiting}v1/jobs", data={"prompt": prompt})
    rows = page.locator("#queue li")
    expect(rows).to_contain_text(["a blue rocket", "a red cube", "a green cone"])
    expect(page.get_by_role("button", name="Move to front: “a blue rocket”")).to_be_hidden()
    page.get_by_role("button", name="Cancel: “a red cube”").focus()
    page.get_by_role("button", name="Move to front: “a green cone”").dispatch_event("click")
    expect(rows).to_contain_text(["a green cone", "a blue rocket", "a red cube"])
    expect(rows.first).to_contain_text("Next in the queue")
    expect(page.get_by_role("button", name="Cancel: “a red cube”")).to_be_focused()


def test_a_queue_of_more_than_a_page_is_listed_and_cancelled_as_a_whole(
    tmp_path: Path, visit: Callable[..., Page]
) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}})
    with closing(Jobs(config)) as jobs:
        for seed in range(205):
            jobs.submit(JobRequest(prompt="a blue rocket", seed=seed))
    for url in serving(config):
        page = visit(url)
        rows = page.locator("#queue li")
        expect(rows).to_have_count(200)
        page.get_by_role("button", name="Show 5 more").click()
        expect(rows).to_have_count(205)
        expect(rows.last).to_contain_text("Number 205 in the queue · seed 204")
        page.reload()
        expect(rows).to_have_count(200)
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel all").click()
        expect(page.locator("#queue")).to_be_hidden()
        page.context.close()


def test_another_job_like_one_with_sampler_settings_gets_them_too(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    like = "async (job) => (await import('./static/api.js')).likeJob(job)"
    job: dict[str, object] = {"prompt": "a chair", "attempts": 2, "seed": 5, "trellis": {"preset": "app"}}
    assert page.evaluate(like, job) == {"prompt": "a chair", "attempts": 2, "trellis": {"preset": "app"}}
    assert page.evaluate(like, job | {"trellis": {}}) == {"prompt": "a chair", "attempts": 2}


def test_a_result_that_is_deleted_leaves_the_page(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="404")
    page.locator("#filter").get_by_label("Cancelled").check()
    jobs = [page.request.post(f"{waiting}v1/jobs", data={"prompt": "a blue rocket"}).json()["id"] for _ in range(2)]
    for job in jobs:
        page.request.delete(f"{waiting}v1/jobs/{job}")
    expect(page.locator(".card")).to_have_count(2)
    page.request.delete(f"{waiting}v1/jobs/{jobs[0]}")
    expect(page.locator(".card")).to_have_count(1)
    page.locator(".card").click()
    dialog = page.get_by_role("dialog", name="a blue rocket")
    dialog.get_by_role("button", name="Star").click()
    expect(dialog.get_by_role("button", name="Starred")).to_be_visible()
    page.once("dialog", lambda question: question.accept())
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_be_hidden()
    expect(page.locator(".card")).to_have_count(0)


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
    field = page.get_by_label("Prompt", exact=True)
    submit(page, "  ")
    expect(page.locator("#make-error")).to_have_text("Enter a prompt.")
    expect(field).to_be_focused()
    submit(page, "<img src=x onerror=alert(1)>")
    expect(page.locator("#make-error")).to_contain_text("<img src=x")
    assert page.locator("main img").count() == 0
    field.fill("x" * 2_001)
    expect(page.locator("#prompt-count")).to_have_text("2001 of 2000 characters")
    page.keyboard.press("Enter")
    expect(page.locator("#make-error")).to_contain_text("2000 are allowed")
    assert len(field.input_value()) == 2_001
    field.fill("a blue rocket")
    page.get_by_label("Seed", exact=True).fill("-1")
    page.keyboard.press("Enter")
    expect(page.locator("#make-error")).to_contain_text("Seed:")
    expect(page.get_by_label("Seed", exact=True)).to_be_focused()


DROP = """([type, name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], name));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(type === "drop"
    ? new DragEvent("drop", { dataTransfer: files, ...options })
    : new ClipboardEvent("paste", { clipboardData: files, ...options }));
}"""


@needs_viewer
@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_splat_that_is_dropped_or_pasted_is_inspected(product: str, visit: Callable[..., Page], how: str) -> None:
    page = visit(product)
    ply = encode_ply(shapes.Shapes(shapes.ShapesParams(2_000)).build("a red ball", None, 0))
    page.evaluate(DROP, [how, "ball.ply", base64.b64encode(ply).decode()])
    dialog = page.get_by_role("dialog", name="ball.ply")
    expect(dialog).to_contain_text("No faults found")
    expect(dialog).to_contain_text("2,000 Gaussians.")


def test_results_are_ordered_and_their_neighbours_reached_by_the_arrow_keys(
    waiting: str, visit: Callable[..., Page]
) -> None:
    page = visit(waiting)
    prompts = ["a red cube", "a green tree", "a blue rocket"]
    for prompt in prompts:
        submit(page, prompt)
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")
    page.locator("#filter").get_by_label("Cancelled").check()
    shown = page.locator("#cards .prompt")
    expect(shown).to_have_text(prompts[::-1])
    page.get_by_label("Sort by").select_option("oldest")
    expect(shown).to_have_text(prompts)
    page.locator("#cards .card").first.click()
    for key, prompt in (("ArrowRight", prompts[1]), ("ArrowRight", prompts[2]), ("ArrowLeft", prompts[1])):
        page.keyboard.press(key)
        expect(page.get_by_role("dialog").get_by_role("heading").first).to_have_text(prompt)


def test_a_job_is_taken_up_again_as_a_command_or_in_the_form(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="a blue rocket").or_(page.get_by_role("link", name="a blue rocket")).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue rocket")
    page.get_by_label("Seed", exact=True).fill("7")
    submit(page, "a green tree")
    expect(page).to_have_title("Waiting – Splatgate")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page).to_have_title("Splatgate")
    page.locator("#filter").get_by_label("Cancelled").check()
    page.locator("#cards .card").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Copy as curl").click()
    expect(dialog.get_by_role("status").first).to_contain_text("opied")
    copied = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert copied[0] == "curl"
    assert json.loads(copied[copied.index("-d") + 1]) == {"prompt": "a green tree", "attempts": 1, "seed": 7}
    assert copied[-1] == f"{waiting}v1/jobs"
    dialog.get_by_role("button", name="Reuse prompt and seed").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green tree")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(product: str, visit: Callable[..., Page], scheme: str) -> None:
    """The page with a result and a refusal, a dialog, the HTTP reference, and a page that is not there."""
    page = visit(product, color_scheme=scheme, allowed="404")
    for prompt in (REFUSED, PASSES):
        submit(page, prompt)
        expect(page.get_by_role("region", name=prompt).get_by_role("button", name="Delete")).to_be_visible()
    assert serious(page) == []
    page.locator("button.card").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert serious(page) == []
    for path in ("docs", "nothing-here"):
        page.goto(product + path)
        assert serious(page) == [], path


def serious(page: Page) -> list[tuple[str, str]]:
    """The rules of axe-core that elements of the page break, with the first of them, if a user would be hindered."""
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


def test_everything_has_a_name_and_the_keyboard_goes_in_reading_order(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    submit(page, "a blue rocket")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_visible()
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)[0]") == "H1"
    assert page.locator("html[lang=en]").count() == 1
    page.reload()
    stops = []
    for _ in range(15):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(STOP))
    examples = ["a red mug on a wooden table", "a blue rocket", "a green chair next to a white box"]
    form = ["prompt", "Generate", *examples, "count", "seed", "new-seed", "lock", "attempts", "splat"]
    assert stops == ["Skip to the results", "Dismiss", *form, "Cancel", "filter"]


def cancelled(page: Page) -> None:
    """Makes one cancelled job, and shows it in the list."""
    submit(page, "a blue rocket")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.locator("#filter").get_by_label("Cancelled").check()
    expect(page.locator(".card")).to_be_visible()


STOP = "(({ id, name, innerText }) => id || name || innerText.trim())(document.activeElement)"
NAMELESS = """() => [...document.querySelectorAll("input, button, a, img, canvas, video, progress, dialog, section")]
  .filter((each) => each.checkVisibility() && !each.labels?.length && !each.innerText?.trim()
    && each.getAttribute("alt") === null && !each.ariaLabel && !each.getAttribute("aria-labelledby"))
  .map((each) => each.outerHTML)"""


def test_the_dialog_has_an_address_keeps_the_focus_and_gives_it_back(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="404")
    cancelled(page)
    card = page.locator(".card")
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="a blue rocket")
    expect(dialog).to_be_visible()
    assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    assert "#job=" in page.url
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(card).to_be_focused()
    expect(page).to_have_url(waiting)
    card.click()
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_be_hidden()
    page.go_forward()
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    page.goto(f"{waiting}#job=0")
    page.reload()
    expect(page.get_by_role("dialog")).to_contain_text("no job")


def test_older_results_come_a_page_at_a_time(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting)
    for number in range(30):
        job = page.request.post(f"{waiting}v1/jobs", data={"prompt": "a blue rocket", "seed": number}).json()
        page.request.delete(f"{waiting}v1/jobs/{job['id']}")
    page.reload()
    page.locator("#filter").get_by_label("Cancelled").check()
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
    expect(
        section.get_by_role("img", name="Share accepted by each judge. Judge 7, 1 verdicts, 100 % of 1")
    ).to_be_visible()


def test_progress_comes_back_after_the_server_refused_it(waiting: str, visit: Callable[..., Page]) -> None:
    page = visit(waiting, allowed="503")
    refused = []

    def once(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=503)

    page.route("**/events", once, times=1)
    submit(page, "a blue rocket")
    expect(page.locator("#now").get_by_role("status")).to_have_text("Next in the queue")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#now").get_by_role("status")).to_have_text("Cancelled")
    assert len(refused) == 1


def test_where_pictures_are_taken_one_can_be_given_instead_of_words(tmp_path: Path, visit: Callable[..., Page]) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    for url in serving(Config.model_validate({"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}})):
        page = visit(url)
        page.get_by_label("Picture").set_input_files(tmp_path / "red.png")
        preview = page.get_by_alt_text("The picture red.png")
        expect(preview).to_have_js_property("naturalWidth", 64)
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("region", name="(from a picture)").get_by_role("status")).to_have_text(
            "Next in the queue"
        )
        page.context.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web process and an engine of profile full, with tiny random models. The URL of the page."""
    folder = tmp_path_factory.mktemp("full")
    random_models.write_all(folder / "models", "tiny")
    tiny = {
        name.removeprefix("SPLATGATE__"): value for name, value in random_models.settings(folder / "models").items()
    }
    scorer = {"SCORE__MODEL": f"local-dir:{SHAPES_CLIP}", "SCORE__PRETRAINED": "", "RENDER__SIZE": 64}
    settings = tiny | scorer | {"CUTOUT__MIN_SHARE": 0, "CUTOUT__MAX_SHARE": 1}
    with web(folder, **settings) as running, engine(folder, **settings):
        ready = f"{running.url}/readyz"
        wait_until(lambda: requests.get(ready, timeout=5).ok, "an engine is ready", (folder / "engine.log").read_text)
        yield f"{running.url}/"


@pytest.mark.filterwarnings("ignore")  # of models being written
def test_the_cutout_of_a_picture_is_shown_and_nothing_of_it_is_kept(
    full: str, visit: Callable[..., Page], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    page = visit(full)
    page.get_by_label("Picture").set_input_files(tmp_path / "red.png")
    cutout = page.get_by_alt_text("The object that was cut out")
    expect(cutout).to_have_js_property("naturalWidth", 64)
    wait_for(lambda: page.request.get(f"{full}v1/jobs?kind=cutout").json()["jobs"] == [])
    page.get_by_role("button", name="Remove").click()
    expect(cutout).to_have_count(0)


@pytest.mark.filterwarnings("ignore")  # of models being written
@pytest.mark.parametrize("given", [True, False])
def test_next_seeds_come_with_the_picture_that_was_given_and_not_with_one_that_was_drawn(
    full: str, visit: Callable[..., Page], tmp_path: Path, given: bool
) -> None:
    picture = Image.new("RGB", (64, 48), "white")
    picture.paste("blue", (20, 10, 44, 40))
    picture.save(tmp_path / "box.png")
    page = visit(full)
    if given:
        page.get_by_label("Picture").set_input_files(tmp_path / "box.png")
        expect(page.get_by_alt_text("The object that was cut out")).to_be_visible()
    submit(page, "" if given else "a red cube")
    again = page.locator("#now").get_by_role("button", name=re.compile("^(Try the next 4 seeds|Next seed)$"))
    expect(again).to_be_visible()
    with page.expect_request(lambda request: request.method == "POST") as sent:
        again.click()
    assert sent.value.post_data_json.get("picture", "").startswith("data:image/png;base64,") == given
    for job in page.request.get(f"{full}v1/jobs?state=QUEUED&state=RUNNING").json()["jobs"]:
        page.request.post(f"{full}v1/jobs/{job['id']}/cancel")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(waiting: str, visit: Callable[..., Page], scheme: str) -> None:
    page = visit(waiting, color_scheme=scheme)
    cancelled(page)
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
    cancelled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    buttons = page.locator("button:visible:not(.link, .small)")
    assert all((button.bounding_box() or {})["height"] >= 44 for button in buttons.all())
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
        submit(page, "a blue rocket")
        expect(page.locator("#now").get_by_role("status")).to_have_text("Next in the queue")  # told by the event stream
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
    assert all(words in html for words in ("Stand-in results.", "Validation is OFF", "No 3D viewer is installed."))
    pages.VIEWER.touch()
    html, _ = document(Config.model_validate(data | {"profile": {"name": "full"}}))
    assert not [
        words for words in ("Stand-in results.", "Validation is OFF", "No 3D viewer is installed.") if words in html
    ]


def test_every_kind_of_finding_has_plain_words() -> None:
    words = (Path(pages.__file__).parent / "static" / "words.js").read_text()
    known = re.findall(r"^  (\w+):", words.partition("const FINDINGS = {")[2].partition("};")[0], re.MULTILINE)
    assert known == list(get_args(findings.Kind))


def test_the_lock_of_the_viewer_pins_content_not_a_host() -> None:
    lock = json.loads((Path(pages.__file__).parent / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package or "hasInstallScript" in package for package in packages.values())

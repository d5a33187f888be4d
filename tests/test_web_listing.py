"""The list of jobs, filtered and ordered by the server; stars; removal; several files as one ZIP."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from PIL import Image

from app.config import Config
from app.jobs.client import Jobs
from app.jobs.tables import jobs as table
from app.web import create_app
from app.web.context import current_decoder


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}}))
    yield jobs
    jobs.close()


@pytest.fixture
def client(jobs: Jobs) -> Iterator[FlaskClient]:
    app = create_app(jobs.config, jobs)
    yield app.test_client()
    with app.app_context():
        current_decoder().close()


def submit(client: FlaskClient, prompt: str, **fields: Any) -> str:
    return str(client.post("/v1/jobs", json={"prompt": prompt} | fields).json["id"])


def finish(jobs: Jobs, id: str, outcome: str = "passed", score: float | None = None, state: str = "DONE") -> None:
    values = {"state": state, "outcome": outcome if state == "DONE" else None, "score": score, "finished": 1.0}
    with jobs.store.writing() as connection:
        connection.execute(sa.update(table).where(table.c.id == id).values(**values))


def prompts(client: FlaskClient, query: str) -> list[str]:
    return [job["prompt"] for job in client.get(f"/v1/jobs?{query}").json["jobs"]]


@pytest.fixture
def listed(client: FlaskClient, jobs: Jobs) -> FlaskClient:
    """Five jobs: passed, refused, failed, cancelled, waiting."""
    finish(jobs, submit(client, "a Red mug"), "passed", 0.3)
    finish(jobs, submit(client, "a red car"), "refused", 0.1)
    finish(jobs, submit(client, "100% cotton"), state="FAILED")
    client.post(f"/v1/jobs/{submit(client, 'a tree_house')}/cancel")
    submit(client, "a treehouse")
    return client


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a treehouse", "a tree_house", "100% cotton", "a red car", "a Red mug"]),
        ("order=oldest&limit=2", ["a Red mug", "a red car"]),
        ("order=score&limit=2", ["a Red mug", "a red car"]),
        ("outcome=passed", ["a Red mug"]),
        ("outcome=passed&outcome=refused", ["a red car", "a Red mug"]),
        ("state=FAILED&state=CANCELLED", ["a tree_house", "100% cotton"]),
        ("kind=turntable", []),
        ("q=RED", ["a red car", "a Red mug"]),
        ("q=%25", ["100% cotton"]),
        ("q=e_h", ["a tree_house"]),
        ("state=&outcome=&kind=&q=", ["a treehouse", "a tree_house", "100% cotton", "a red car", "a Red mug"]),
        ("starred=true", []),
    ],
)
def test_a_list_is_filtered_and_ordered(listed: FlaskClient, query: str, expected: list[str]) -> None:
    assert prompts(listed, query) == expected


@pytest.mark.parametrize("order", ["newest", "oldest", "score", "queue"])
def test_pages_in_every_order_follow_each_other_without_gap_or_repeat(listed: FlaskClient, order: str) -> None:
    whole = prompts(listed, f"order={order}")
    seen, before = [], ""
    while before is not None:
        page = listed.get(f"/v1/jobs?order={order}&limit=2{before and f'&before={before}'}").json
        seen += [job["prompt"] for job in page["jobs"]]
        before = page["next"]
    assert seen == whole
    assert len(whole) == 5


def test_the_queue_is_listed_in_the_order_in_which_it_runs(client: FlaskClient) -> None:
    for prompt, priority in (("second", 10), ("third", 10), ("first", 1)):
        submit(client, prompt, priority=priority)
    assert prompts(client, "state=QUEUED&order=queue") == ["first", "second", "third"]


@pytest.mark.parametrize("query", ["state=LAZY", "outcome=good", "kind=film", "order=random", f"q={'x' * 201}"])
def test_a_filter_that_is_unknown_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json["detail"]


def test_delete_cancels_what_waits_and_then_removes_it_with_its_files(client: FlaskClient, jobs: Jobs) -> None:
    id = submit(client, "", picture=png())
    assert client.get(f"/v1/jobs/{id}/picture.png").status_code == 200
    assert client.delete(f"/v1/jobs/{id}").json["state"] == "CANCELLED"
    assert client.get(f"/v1/jobs/{id}").status_code == 200
    assert client.delete(f"/v1/jobs/{id}").json["state"] == "CANCELLED"
    assert client.get(f"/v1/jobs/{id}").status_code == 404
    assert client.delete(f"/v1/jobs/{id}").status_code == 404
    assert jobs.assets.jobs() == []


def test_cancelling_a_job_that_has_ended_removes_nothing(client: FlaskClient, jobs: Jobs) -> None:
    id = submit(client, "a red mug")
    finish(jobs, id)
    assert client.post(f"/v1/jobs/{id}/cancel").json["state"] == "DONE"
    assert client.get(f"/v1/jobs/{id}").json["state"] == "DONE"


def test_a_star_is_set_and_cleared(client: FlaskClient) -> None:
    id = submit(client, "a red mug")
    assert client.get(f"/v1/jobs/{id}").json["starred"] is False
    assert client.patch(f"/v1/jobs/{id}", json={"starred": True}).json["starred"] is True
    assert prompts(client, "starred=true") == ["a red mug"]
    assert client.patch(f"/v1/jobs/{id}", json={"starred": False}).json["starred"] is False
    assert client.patch(f"/v1/jobs/{'0' * 32}", json={"starred": True}).status_code == 404
    assert client.patch(f"/v1/jobs/{id}", json={"starred": "yes"}).status_code == 422
    assert client.patch(f"/v1/jobs/{id}", json={"prompt": "x"}).status_code == 422
    assert client.patch(f"/v1/jobs/{id}", data="{").status_code == 415


def test_several_files_come_as_one_zip(client: FlaskClient) -> None:
    ids = [submit(client, "a red mug", picture=png(color), seed=7) for color in ("red", "blue")]
    other = submit(client, "nothing yet")
    query = "&".join(f"id={id}" for id in (*ids, other, ids[0]))
    answer = client.get(f"/v1/archive?{query}&name=picture.png")
    assert answer.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == ["a-red-mug-seed7-picture.png", f"{ids[1]}-a-red-mug-seed7-picture.png"]
        assert [archive.read(name) for name in names] == [base64.b64decode(png(each)) for each in ("red", "blue")]
    assert client.get(f"/v1/archive?id={other}").status_code == 404
    assert client.get("/v1/archive").status_code == 422


def png(color: str = "red") -> str:
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), color).save(picture, "PNG")
    return base64.b64encode(picture.getvalue()).decode()


def test_a_cutout_needs_a_picture_and_takes_no_prompt(client: FlaskClient) -> None:
    png = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(png, "PNG")
    picture = base64.b64encode(png.getvalue()).decode()
    assert client.post("/v1/jobs", json={"kind": "cutout", "picture": picture}).json["kind"] == "cutout"
    for body in ({}, {"prompt": "a blue rocket"}, {"prompt": "a blue rocket", "picture": picture}):
        refused = client.post("/v1/jobs", json={"kind": "cutout"} | body)
        assert refused.status_code == 422
        assert "cutout" in refused.json["detail"]

"""The web application with a real database and without an engine: what it accepts, refuses, shows and stores."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from loguru import logger
from PIL import Image

from app.child import PIPE_VARIABLE, ReadyPipe
from app.config import Config
from app.jobs.client import Jobs
from app.jobs.histograms import BOUNDS
from app.jobs.records import JobRequest
from app.web import create_app
from app.web.assets import download_name

ROCKET = {"prompt": "a blue rocket"}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"serve": {"data": str(tmp_path)}})


@pytest.fixture
def jobs(config: Config) -> Iterator[Jobs]:
    jobs = Jobs(config)
    yield jobs
    jobs.close()


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


@pytest.fixture
def client(config: Config, jobs: Jobs) -> FlaskClient:
    return create_app(config, jobs).test_client()


def test_a_job_is_taken_and_shown(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json=ROCKET | {"seed": 7, "priority": 3})
    assert answer.status_code == 202
    shown = client.get(answer.headers["Location"])
    assert shown.status_code == 200
    assert shown.json == answer.json
    expected = {"prompt": "a blue rocket", "seed": 7, "priority": 3, "state": "QUEUED", "position": 1, "eta": None}
    assert {key: shown.json[key] for key in expected} == expected


def test_the_same_key_and_body_is_the_same_job(client: FlaskClient) -> None:
    first, second = (client.post("/v1/jobs", json=ROCKET, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    assert len(client.get("/v1/jobs").json["jobs"]) == 1


def test_the_same_key_and_another_body_is_refused(client: FlaskClient) -> None:
    client.post("/v1/jobs", json=ROCKET, headers={"Idempotency-Key": "k"})
    answer = client.post("/v1/jobs", json=ROCKET | {"seed": 1}, headers={"Idempotency-Key": "k"})
    assert _problem(answer, 422)["type"] == "/docs#KeyReused"


def test_pages_follow_each_other_without_gap_or_repeat(client: FlaskClient) -> None:
    made = [client.post("/v1/jobs", json=ROCKET | {"seed": seed}).json["id"] for seed in range(5)]
    seen, before = [], ""
    while before is not None:
        page = client.get(f"/v1/jobs?limit=2{before and f'&before={before}'}").json
        seen += [job["id"] for job in page["jobs"]]
        before = page["next"]
    assert seen == made[::-1]


def test_a_waiting_job_is_cancelled_at_once(client: FlaskClient) -> None:
    id = client.post("/v1/jobs", json=ROCKET).json["id"]
    assert client.delete(f"/v1/jobs/{id}").json["state"] == "CANCELLED"
    assert [job["id"] for job in client.get("/v1/jobs?state=CANCELLED").json["jobs"]] == [id]


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}, "jobs": {"max_queued": 1}})
    jobs = Jobs(config)
    client = create_app(config, jobs).test_client()
    client.post("/v1/jobs", json=ROCKET)
    answer = client.post("/v1/jobs", json=ROCKET)
    jobs.close()
    assert _problem(answer, 429)["retryable"]
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "x" * 2_001}, "2,001"),
        ({"prompt": "a blue\x00rocket"}, "U+0000"),
        ({"prompt": "a blue\x1brocket"}, "U+001B"),
        ({"prompt": "a purple wombat"}, "wombat"),
        ({"prompt": 5}, "prompt"),
        (ROCKET | {"seed": "7"}, "seed"),
        (ROCKET | {"seed": -1}, "seed"),
        (ROCKET | {"attempts": 0}, "attempts"),
        (ROCKET | {"priority": 101}, "priority"),
        (ROCKET | {"deadline_seconds": 0}, "deadline_seconds"),
        (ROCKET | {"profile": "full"}, "full"),
        (ROCKET | {"sed": 7}, "sed"),
        (ROCKET | {"format": "spz"}, "format"),
        (ROCKET | {"kind": "validate"}, "kind"),
        (ROCKET | {"source": "0" * 32}, "source"),
        ({"kind": "turntable"}, "source"),
        (ROCKET | {"picture": "!!"}, "picture"),
        ([1], "body"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_name(client: FlaskClient, body: Any, named: str) -> None:
    problem = _problem(client.post("/v1/jobs", json=body), 422)
    assert named in problem["detail"]
    assert client.get("/v1/jobs").json["jobs"] == []


def test_a_job_keeps_the_sampler_settings_that_it_was_given(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}, "limits": {"max_steps": 50}}
    )
    jobs = Jobs(config)
    client = create_app(config, jobs).test_client()
    given = {"preset": "app", "structure_guidance": 9, "latent_interval": [0.25, 1.0], "oversample": 3}
    answer = client.post("/v1/jobs", json=ROCKET | {"trellis": given})
    assert answer.status_code == 202, answer.text
    assert client.get(f"/v1/jobs/{answer.json['id']}").json["trellis"] == given
    assert client.post("/v1/jobs", json=ROCKET).json["trellis"] == {}
    for wrong, named in (
        ({"structure_steps": 51}, "limits.max_steps is 50"),
        ({"structure_steps": 201}, "trellis.structure_steps"),
        ({"structure_steps": "12"}, "trellis.structure_steps"),
        ({"oversample": "3"}, "trellis.oversample"),
        ({"latent_interval": [0.9, 0.1]}, "trellis.latent_interval"),
        ({"preset": "fast"}, "trellis.preset"),
        ({"model": "other"}, "trellis.model"),
    ):
        assert named in _problem(client.post("/v1/jobs", json=ROCKET | {"trellis": wrong}), 422)["detail"], wrong
    jobs.close()


def test_a_prompt_of_two_lines_is_no_control_character(client: FlaskClient) -> None:
    assert client.post("/v1/jobs", json={"prompt": "a blue\trocket\n"}).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("GET", "/v1/nothing", 404, {}),
        ("GET", "/nothing", 404, {}),
        ("GET", "/v1/jobs/7", 404, {}),
        ("GET", f"/v1/jobs/{'0' * 32}", 404, {}),
        ("DELETE", f"/v1/jobs/{'0' * 32}", 404, {}),
        ("GET", f"/v1/jobs/{'0' * 32}/events", 404, {}),
        ("GET", f"/v1/jobs/{'0' * 32}/asset.ply", 404, {}),
        ("GET", f"/v1/jobs/{'0' * 32}/passwd", 404, {}),
        ("GET", f"/v1/jobs/{'0' * 32}/..%2f..%2fsplatgate.db", 404, {}),
        ("PUT", "/v1/jobs", 405, {}),
        ("PATCH", "/v1/stats", 405, {}),
        ("POST", "/v1/jobs", 415, {"data": "prompt=a blue rocket"}),
        ("POST", "/v1/jobs", 400, {"data": "{", "content_type": "application/json"}),
        ("POST", "/v1/jobs", 400, {"data": b"\xff\xfe{", "content_type": "application/json"}),
        ("GET", "/v1/jobs?limit=0", 422, {}),
        ("GET", "/v1/jobs?limit=many", 422, {}),
        ("GET", "/v1/jobs?state=LAZY", 422, {}),
        ("GET", "/v1/jobs?before=x", 404, {}),
        ("POST", "/v1/jobs", 422, {"json": ROCKET, "headers": {"Idempotency-Key": "k" * 256}}),
        ("POST", "/v1/validate", 422, {"data": {"prompt": "a blue rocket"}}),
        ("POST", "/v1/validate", 422, {"data": {"splat": (io.BytesIO(b"ply\nbroken"), "x.ply"), "prompt": "a ball"}}),
        ("POST", "/v1/repair", 422, {"data": {"splat": (io.BytesIO(b""), "x.ply")}}),
        ("POST", "/v1/repair", 422, {"data": b"--x\r\n", "content_type": "multipart/form-data; boundary=x"}),
        ("POST", "/generate/", 422, {"data": {}}),
        ("POST", "/generate/", 422, {"data": {"prompt": "a blue rocket", "seed": "seven"}}),
        ("POST", "/generate/", 422, {"data": {"prompt": "iVBORw0KGgoAAAA"}}),
    ],
)
def test_every_error_is_a_problem(
    client: FlaskClient, method: str, path: str, status: int, options: dict[str, Any]
) -> None:
    problem = _problem(client.open(path, method=method, **options), status)
    assert problem["instance"] == path.partition("?")[0].replace("%2f", "/")
    anchor = problem["type"].removeprefix("/docs#")
    ours = 'id="' + anchor + '"' in client.get("/docs").text
    assert ours or anchor in ("NotFound", "MethodNotAllowed", "UnsupportedMediaType", "BadRequest")


@pytest.mark.parametrize(
    ("method", "path", "listed"),
    [
        ("GET", "/v1/jobs?stat=DONE", "limit, before, state"),
        ("GET", f"/v1/jobs/{'0' * 32}?limit=1", "it takes none"),
        ("GET", "/v1/stats?since=2026-01-01", "it takes none"),
        ("POST", "/generate/?seed=7", "it takes none"),
        ("GET", "/v1/feedback/report?from=2026-01-01", "since, split"),
    ],
)
def test_an_unknown_query_parameter_is_refused_by_name(
    client: FlaskClient, method: str, path: str, listed: str
) -> None:
    detail = _problem(client.open(path, method=method), 422)["detail"]
    assert repr(path.partition("?")[2].partition("=")[0]) in detail
    assert listed in detail


def test_the_page_and_the_metrics_ignore_their_query(client: FlaskClient) -> None:
    assert client.get("/?from=mail").status_code == 200
    assert client.get("/metrics?name=x").status_code == 200


def test_a_browser_gets_a_page_for_an_address_with_nothing_and_a_program_a_problem(client: FlaskClient) -> None:
    page = client.get("/nothing", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "<code>/nothing</code>" in page.text
    for path, accept in (("/nothing", "*/*"), ("/nothing", "application/json"), ("/v1/nothing", "text/html")):
        _problem(client.get(path, headers={"Accept": accept}), 404)


def test_every_operation_in_the_documentation_has_a_curl_command(client: FlaskClient) -> None:
    text = html.unescape(client.get("/docs").text)
    example = json.dumps({"prompt": "a blue rocket", "seed": 1})
    assert f"curl -H 'Content-Type: application/json' -d '{example}' http://localhost/v1/jobs" in text
    assert "curl -X DELETE http://localhost/v1/jobs/ID" in text
    assert 'curl -F splat=@asset.ply -F prompt="a blue rocket" http://localhost/v1/validate' in text
    assert "curl http://localhost/v1/jobs/ID/asset.ply" in text
    assert "curl -X POST http://localhost/v1/jobs/ID/cancel" in text
    assert text.count("<pre ") == text.count("<section>")


def test_a_405_says_what_is_allowed(client: FlaskClient) -> None:
    assert {"GET", "POST"} <= set(client.put("/v1/jobs").headers["Allow"].split(", "))


def test_a_failure_of_the_server_shows_no_traceback(
    client: FlaskClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    def fail(_limit: int, *_rest: Any) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(jobs, "list_jobs", fail)
    answer = client.get("/v1/jobs")
    problem = _problem(answer, 500)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert any(problem["id"] in line and "the secret" in line for line in log)


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}, "limits": {"max_body_mb": 1}})
    client = create_app(config, Jobs(config)).test_client()
    answer = client.post("/v1/jobs", json={"prompt": "x" * 2**20})
    _problem(answer, 413)


@pytest.mark.parametrize(
    ("width", "height", "named"),
    [
        (41, 41, "limits.max_picture_pixels is 1,600"),
        (20, 80, "56 a side are the most"),
        (31, 31, "32 a side are the least"),
    ],
)
def test_a_picture_that_no_engine_would_take_is_refused_at_once(
    tmp_path: Path, width: int, height: int, named: str
) -> None:
    with _of_pictures(tmp_path) as client:
        found = client.post("/v1/jobs", json={"picture": _png(width, height)})
        assert f"the picture: has {width} x {height} pixels" in _problem(found, 422)["detail"]
        assert named in found.json["detail"]
        assert (
            _problem(client.post("/generate/", data={"prompt": _png(width, height)}), 422)["detail"]
            == found.json["detail"]
        )
        assert client.get("/v1/jobs").json["jobs"] == []


@pytest.mark.parametrize(
    ("form", "end", "named"),
    [("PNG", -40, "is broken"), ("GIF", None, "give a PNG or JPEG file"), ("WEBP", None, "give a PNG or JPEG file")],
)
def test_a_picture_that_cannot_be_read_is_refused_at_once(
    tmp_path: Path, form: str, end: int | None, named: str
) -> None:
    with _of_pictures(tmp_path) as client:
        data = base64.b64decode(_png(40, 40, form))[:end]
        answer = client.post("/v1/jobs", json={"picture": base64.b64encode(data).decode()})
        assert named in _problem(answer, 422)["detail"]


@contextmanager
def _of_pictures(folder: Path) -> Iterator[FlaskClient]:
    """A client of a service that makes splats of pictures of at most 1,600 pixels."""
    settings = {"serve": {"data": str(folder)}, "profile": {"name": "full"}, "limits": {"max_picture_pixels": 1_600}}
    config = Config.model_validate(settings)
    jobs = Jobs(config)
    try:
        yield create_app(config, jobs).test_client()
    finally:
        jobs.close()


def test_a_picture_is_kept_and_given_back(tmp_path: Path) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}})
    jobs = Jobs(config)
    client = create_app(config, jobs).test_client()
    id = client.post("/v1/jobs", json={"picture": f"data:image/png;base64,{_png(40, 40)}"}).json["id"]
    stored = client.get(f"/v1/jobs/{id}/picture.png")
    jobs.close()
    assert (stored.mimetype, stored.data) == ("image/png", base64.b64decode(_png(40, 40)))
    assert stored.headers["Content-Disposition"] == f'inline; filename="splat-{id[:12]}-seed0-picture.png"'


@pytest.mark.parametrize(
    ("prompt", "name", "saved"),
    [
        ("a blue rocket", "asset.ply", "a-blue-rocket-seed1.ply"),
        ("a blue rocket", "views.png", "a-blue-rocket-seed1-views.png"),
        ("Ein schönes Haus!", "certificate.json", "ein-schones-haus-seed1-certificate.json"),
        ('"../../etc"; x', "asset.spz", "etc-x-seed1.spz"),
        ("一个红色的杯子", "asset.ply", "splat-0123456789ab-seed1.ply"),
        ("", "asset.ply", "splat-0123456789ab-seed1.ply"),
        ("word " * 100, "asset.ply", "-".join(["word"] * 12) + "-seed1.ply"),
    ],
)
def test_a_download_is_named_after_the_prompt_and_the_seed(jobs: Jobs, prompt: str, name: str, saved: str) -> None:
    job = replace(jobs.submit(JobRequest(prompt="a blue rocket", seed=1)), prompt=prompt, id="0123456789ab" + "0" * 20)
    assert download_name(job, name) == saved


def test_ranges_and_etags_of_a_file(tmp_path: Path) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}, "profile": {"name": "full"}})
    jobs = Jobs(config)
    client = create_app(config, jobs).test_client()
    path = f"/v1/jobs/{client.post('/v1/jobs', json={'picture': _png(50, 50)}).json['id']}/picture.png"
    data, etag = base64.b64decode(_png(50, 50)), client.get(path).headers["ETag"]

    def ranged(value: str, **headers: str) -> Any:
        return client.get(path, headers={"Range": value} | headers)

    assert (ranged("bytes=3-9").status_code, ranged("bytes=3-9").data) == (206, data[3:10])
    assert ranged("bytes=3-9").headers["Content-Range"] == f"bytes 3-9/{len(data)}"
    assert ranged("bytes=-5").data == data[-5:]
    assert ranged("bytes=5-").data == data[5:]
    beyond = ranged(f"bytes={len(data)}-")
    assert _problem(beyond, 416)
    assert beyond.headers["Content-Range"] == f"bytes */{len(data)}"
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert ranged("bytes=3-9", **{"If-Range": '"another"'}).data == data
    head = client.head(path)
    assert (head.status_code, head.content_length, head.data) == (200, len(data), b"")
    jobs.close()


def test_events_tell_every_change_and_end_with_the_job(client: FlaskClient, jobs: Jobs) -> None:
    id = client.post("/v1/jobs", json=ROCKET).json["id"]
    stream = client.get(f"/v1/jobs/{id}/events")
    assert stream.mimetype == "text/event-stream"
    events = iter(stream.response)
    first = next(events)
    cancel = threading.Timer(0.1, lambda: jobs.cancel(id))
    cancel.start()
    rest = "".join(_text(part) for part in events)
    cancel.join()
    stream.close()
    assert '"state":"QUEUED"' in _text(first)
    assert rest.count("event: job") == 1
    assert '"state":"CANCELLED"' in rest


def test_events_go_on_after_the_last_one_seen(client: FlaskClient, jobs: Jobs) -> None:
    id = client.post("/v1/jobs", json=ROCKET).json["id"]
    before, after = jobs.get(id).version, jobs.cancel(id).version
    again = client.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": str(before)})
    assert again.text.startswith(f"id: {after}\n")
    assert client.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": str(after)}).status_code == 204


def test_not_ready_says_why(client: FlaskClient) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["ready"], answer.json["engines"]) == (503, False, [])
    assert "no engine" in answer.json["why"]
    assert client.get("/livez").status_code == 200


def test_scores_of_words_and_of_pictures_are_told_apart_by_their_buckets() -> None:
    for threshold in (Config().validation.threshold, Config().validation.image_threshold):
        assert threshold in BOUNDS["score"]
        assert sum(threshold < bound < threshold + 0.2 for bound in BOUNDS["score"]) >= 3


def test_live_only_while_the_supervisor_lives(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = ReadyPipe()
    monkeypatch.setenv(PIPE_VARIABLE, str(os.dup(pipe.writing)))
    assert client.get("/livez").status_code == 200
    pipe.close()
    assert "supervisor" in _problem(client.get("/livez"), 503)["detail"]
    os.close(int(os.environ[PIPE_VARIABLE]))


def test_every_answer_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/docs", "/v1/jobs", "/v1/nothing", "/metrics", "/livez", "/openapi.json", "/static/docs.css"):
        headers = client.get(path, buffered=True).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        assert "unsafe-inline" not in headers["Content-Security-Policy"], path


def test_the_docs_name_every_endpoint(client: FlaskClient) -> None:
    schema, page = client.get("/openapi.json").json, client.get("/docs").text
    paths = {"/generate/", "/generate_video/", "/v1/jobs", "/v1/validate", "/v1/repair", "/v1/stats", "/readyz"}
    assert paths <= set(schema["paths"])
    for path in schema["paths"]:
        assert path in page


def _problem(answer: Any, status: int) -> dict[str, Any]:
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= set(problem)
    return problem


@cache
def _png(width: int, height: int, form: str = "PNG") -> str:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(stream, form)
    return base64.b64encode(stream.getvalue()).decode()


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode()

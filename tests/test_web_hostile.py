"""Requests that no client of ours sends: they cost little, and are answered as what they are."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path

import numpy as np
import pytest
from flask import g
from flask.testing import FlaskClient
from healthy import ball
from PIL import Image
from service import Service, web

from app.config import Config
from app.jobs.client import Jobs
from app.splat.ply import encode_ply
from app.splat.spz import encode_spz
from app.web import create_app
from app.web.limits import SLOTS

ROCKET = {"prompt": "a blue rocket"}


def client_of(tmp_path: Path, **sections: dict[str, object]) -> Iterator[FlaskClient]:
    config = Config.model_validate({"serve": {"data": str(tmp_path)}} | sections)
    jobs = Jobs(config)
    yield create_app(config, jobs).test_client()
    jobs.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    yield from client_of(tmp_path)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[FlaskClient]:
    """Of a service that makes pictures into splats, and whose one place for uploads is taken."""
    limits = {"max_uploads": 1, "body_seconds": 0.1}
    for client in client_of(tmp_path, limits=limits, profile={"name": "full"}):
        assert client.application.extensions[SLOTS].acquire(blocking=False)
        yield client


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # without an engine
    with web(tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest.mark.parametrize("origin", ["http://[", "null", "//", "http://localhost@evil.example"])
def test_an_origin_that_is_no_address_is_another_site(client: FlaskClient, origin: str) -> None:
    assert client.post("/v1/jobs", json=ROCKET, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("last", ["9" * 5_000, "9" * 19, "²", "-1", "1e3"])
def test_an_event_id_that_is_none_is_named(client: FlaskClient, last: str) -> None:
    job = client.post("/v1/jobs", json=ROCKET).json["id"]
    answer = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 422
    assert "Last-Event-ID" in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/livez", 405), ("GET", "/livez", 200), ("POST", "/no", 404)]
)
def test_nobody_waits_for_a_body_that_no_view_wants(service: Service, method: str, path: str, status: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf".encode())
        answer = HTTPResponse(client)
        answer.begin()
        assert answer.status == status, "not 408, after limits.body_seconds"


def test_small_files_take_turns_too_because_they_may_unpack_to_gigabytes(crowded: FlaskClient) -> None:
    from test_spz import random_splat

    splat = encode_spz(random_splat())
    for path in ("/v1/validate", "/v1/repair"):
        answer = crowded.post(path, data=ROCKET | {"splat": (io.BytesIO(splat), "a.spz")})
        assert (answer.status_code, "limits.max_uploads" in answer.json["detail"]) == (503, True)


@pytest.mark.parametrize("path", ["/v1/validate", "/v1/repair"])
@pytest.mark.parametrize("where", [1e30, np.inf])
def test_a_splat_that_is_nowhere_is_the_callers_to_mend(client: FlaskClient, path: str, where: float) -> None:
    splat = replace(ball(20), means=np.full((20, 3), where))
    answer = client.post(path, data=ROCKET | {"splat": (io.BytesIO(encode_ply(splat)), "a.ply")})
    assert (answer.status_code, "position" in answer.json["detail"]) == (422, True)


def test_pictures_take_turns_too(crowded: FlaskClient) -> None:
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    assert crowded.post("/v1/jobs", json={"picture": text}).status_code == 503
    assert crowded.post("/generate/", data={"prompt": text}).status_code == 503
    assert crowded.post("/v1/jobs", json=ROCKET).status_code == 202, "words need no place"


def test_a_place_is_free_again_whatever_the_upload_was(client: FlaskClient) -> None:
    places = client.application.extensions[SLOTS]
    for data in (b"no splat", b"ply\nformat"):
        answer = client.post("/v1/repair", data={"splat": (io.BytesIO(data), "a.ply")})
        assert answer.status_code == 422
    assert places._value == places._initial_value


def test_a_wait_counts_from_the_begin_of_its_request(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow upload, or the first of two jobs, has used up some of what the caller waits."""
    monkeypatch.setattr(Jobs, "wait", lambda *_: pytest.fail("the caller has left long ago"))
    client.application.before_request(_an_hour_ago)
    assert client.post("/generate/", data=ROCKET).status_code == 504


def _an_hour_ago() -> None:
    g.began -= 3_600


def test_json_for_the_worker_is_told_where_json_goes(client: FlaskClient) -> None:
    answer = client.post("/generate/", json=ROCKET)
    assert answer.status_code == 422
    assert "/v1/jobs" in answer.json["detail"]

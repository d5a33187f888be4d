"""Malformed and hostile requests: they cost little and get the right error."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import pytest
import requests
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
    """A client of a service that takes pictures, whose only upload slot is taken."""
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
def test_an_invalid_event_id_is_named(client: FlaskClient, last: str) -> None:
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
def test_a_splat_without_a_usable_position_is_the_callers_error(client: FlaskClient, path: str, where: float) -> None:
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


def test_json_sent_to_the_worker_gets_a_hint(client: FlaskClient) -> None:
    answer = client.post("/generate/", json=ROCKET)
    assert answer.status_code == 422
    assert "/v1/jobs" in answer.json["detail"]


LONG = "x" * (2**20 + 1)
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/jobs", f'{{"prompt": "{LONG}"}}', "application/json"),
        ("/v1/feedback", f'[{{"text": "{LONG}"}}]', "Application/JSON; charset=utf-8"),
        ("/generate/", f"prompt={LONG}", FORM),
        ("/generate_video/", f"prompt={LONG}", f"{FORM}; charset=utf-8"),
    ],
)
def test_json_and_forms_over_their_limit_are_refused(tmp_path: Path, path: str, body: str, kind: str) -> None:
    for client in client_of(tmp_path, limits={"max_form_mb": 1}):
        answer = client.post(path, data=body, content_type=kind)
        assert (answer.status_code, "limits.max_form_mb is 1" in answer.json["detail"]) == (413, True)


def test_a_field_of_a_multipart_form_is_limited_and_a_file_in_it_is_not(tmp_path: Path) -> None:
    for client in client_of(tmp_path, limits={"max_form_mb": 1}):
        for name, status in (("prompt", 413), ('splat"; filename="a.ply', 422)):
            part = f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{LONG}\r\n--B--\r\n'
            answer = client.post("/v1/repair", data=part, content_type="multipart/form-data; boundary=B")
            assert answer.status_code == status, "422: it was read, and is no splat"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/generate/", b"a&" * 40_000, FORM),
        ("/generate/", b"prompt=" + b"%41" * 1_100_000, FORM),
        ("/v1/jobs", b'{"prompt": [' + b"{}," * 300_000 + b"{}]}", "application/json"),
        ("/v1/feedback", b"[" * 300_000 + b"," * 300_000, "application/json"),
    ],
)
def test_small_bodies_that_parse_to_a_hundred_times_their_size_are_refused(
    client: FlaskClient, path: str, body: bytes, kind: str
) -> None:
    answer = client.post(path, data=body, content_type=kind)
    assert (answer.status_code, answer.content_type) == (413, "application/problem+json")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/feedback"])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_that_is_nested_too_deeply_is_the_callers_mistake(
    client: FlaskClient, path: str, opened: bytes, closed: bytes
) -> None:
    body = opened * 100_000 + b"1" + closed * 100_000
    assert client.post(path, data=body, content_type="application/json").status_code == 400


def test_large_forms_take_turns(crowded: FlaskClient) -> None:
    assert crowded.post("/generate/", data={"prompt": "x" * 100_000}).status_code == 503


@pytest.mark.parametrize(("path", "status"), [("/v1/jobs", 413), ("/no", 404), ("/livez", 405)])
def test_a_large_body_that_nobody_wants_keeps_nobody_waiting(service: Service, path: str, status: int) -> None:
    """Receiving 100 MB that is refused took half a minute, during which nothing else was answered."""
    headers = {"Content-Type": "application/json"}
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(requests.post, service.url + path, data=b" " * 100_000_000, headers=headers, timeout=60)
        waits = [requests.get(f"{service.url}/livez", timeout=60).elapsed.total_seconds() for _ in range(20)]
    assert sent.result().status_code == status
    assert max(waits) < 2


def test_a_connection_is_used_again_after_a_body_that_nobody_wants(service: Service) -> None:
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=20)) as client:
        for _ in range(2):
            client.request("POST", "/no", b"x" * 3_000_000)
            answer = client.getresponse()
            assert (answer.status, answer.will_close) == (404, False)
            answer.read()


def test_a_connection_is_closed_after_a_chunk_that_is_none(service: Service) -> None:
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as client:
        head = "Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
        client.sendall(f"POST /no HTTP/1.1\r\n{head}GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    assert received.count(b"HTTP/1.1 ") == 1, received


def test_the_body_of_a_request_that_takes_none_is_not_looked_at(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    assert requests.get(f"{service.url}/v1/stats", data=b"[" * 200_000, headers=headers, timeout=20).status_code == 200

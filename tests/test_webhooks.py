"""Webhooks to a real HTTP receiver: what arrives, what is retried, and what is never sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from service import wait_until, web

from app.config import Config
from app.errors import BadInput, ConfigError
from app.jobs import tables, webhooks
from app.jobs.client import Jobs
from app.jobs.records import JobRequest
from app.jobs.webhooks import MAX_ATTEMPTS, pause
from app.web import create_app, webhook_request
from app.web.webhook_delivery import WebhookDelivery
from app.web.webhook_request import NotDelivered, send
from app.webhooks import WebhooksConfig, is_public, read_key

KEY = bytes(range(32))
DAY = 86_400.0


class Receiver(ThreadingHTTPServer):
    """Keeps the requests that it gets. answer: handles one of them."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                answer(self)

            def log_message(self, *_words: object) -> None:
                pass

        receiver = self
        super().__init__(("127.0.0.1", 0), Handler)

    def verify_request(self, *_request: object) -> bool:
        self.connections += 1
        return True

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


ACCEPT = status(204)


@contextmanager
def receiving(answer: Callable[[BaseHTTPRequestHandler], None] = ACCEPT) -> Iterator[Receiver]:
    receiver = Receiver(answer)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.shutdown()
    receiver.server_close()
    thread.join(10)


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


def settings(folder: Path, *origins: str, private: bool = True) -> Config:
    (folder / "key").write_text(f"whsec_{base64.b64encode(KEY).decode()}\n")
    section = {"origins": origins, "private": private, "secret_file": str(folder / "key")}
    return Config.model_validate({"serve": {"data": str(folder)}, "webhooks": section})


def ended(jobs: Jobs, url: str) -> str:
    """A job that has ended, and whose webhook is due."""
    id = jobs.submit(JobRequest(prompt="a blue rocket", webhook_url=url)).id
    jobs.cancel(id)
    return id


def left(jobs: Jobs) -> list[tuple[str, int]]:
    """The webhooks that are still pending, with their attempts."""
    with jobs.store.reading() as connection:
        return [(row.job, row.attempts) for row in connection.execute(sa.select(tables.webhooks))]


def tallies(jobs: Jobs) -> dict[str, int]:
    return {tally.label: tally.count for tally in jobs.statistics.stats().tallies if tally.what == "webhook"}


def test_an_ended_job_is_posted_once_with_a_signature_that_verifies(tmp_path: Path) -> None:
    with receiving() as receiver, closing(Jobs(settings(tmp_path, receiver.origin))) as jobs:
        delivery = WebhookDelivery(jobs)
        waiting = jobs.submit(JobRequest(prompt="a red mug", webhook_url=f"{receiver.origin}/other")).id
        id = ended(jobs, f"{receiver.origin}/hook?who=me")
        assert delivery.deliver_due() == 1
        ((path, headers, body),) = receiver.got
        document = json.loads(body)
        assert path == "/hook?who=me"
        assert headers["content-type"] == "application/json"
        assert (document["type"], document["data"]["id"], document["data"]["state"]) == ("job.ended", id, "CANCELLED")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["webhook-id"] == id
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        assert delivery.deliver_due() == 0
        assert (left(jobs), tallies(jobs)) == ([(waiting, 0)], {"delivered": 1})


def test_a_failed_webhook_is_tried_again_later_and_by_another_process(tmp_path: Path) -> None:
    answers = iter([500, 404, 200])
    with receiving(lambda handler: status(next(answers))(handler)) as receiver:
        config, clock = settings(tmp_path, receiver.origin), Clock()
        with closing(Jobs(config, clock)) as jobs:
            id = ended(jobs, receiver.origin)
            assert WebhookDelivery(jobs).deliver_due() == 1
            assert left(jobs) == [(id, 1)]
        with closing(Jobs(config, clock)) as jobs:  # as after a restart
            delivery = WebhookDelivery(jobs)
            assert delivery.deliver_due() == 0
            clock.now += pause(1)
            assert delivery.deliver_due() == 1
            clock.now += pause(1)
            assert delivery.deliver_due() == 0, "the second wait is longer than the first"
            clock.now += pause(2)
            assert delivery.deliver_due() == 1
            assert (left(jobs), tallies(jobs)) == ([], {"delivered": 1})
        assert len(receiver.got) == 3
        assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1


def test_a_webhook_is_given_up_after_about_a_day(tmp_path: Path) -> None:
    with receiving(status(503)) as receiver:
        clock = Clock()
        start = clock.now
        with closing(Jobs(settings(tmp_path, receiver.origin), clock)) as jobs:
            ended(jobs, receiver.origin)
            delivery = WebhookDelivery(jobs)
            for attempt in range(1, MAX_ATTEMPTS + 1):
                assert delivery.deliver_due() == 1
                clock.now += pause(attempt)
            assert (left(jobs), tallies(jobs)) == ([], {"given up": 1})
        assert 0.8 * DAY < clock.now - start < 1.2 * DAY


def test_what_a_process_began_and_did_not_end_is_due_again(tmp_path: Path) -> None:
    clock = Clock()
    with closing(Jobs(settings(tmp_path, "http://127.0.0.1:9"), clock)) as jobs:
        ended(jobs, "http://127.0.0.1:9")
        assert [webhook.attempt for webhook in webhooks.take_due(jobs.store, clock())] == [1]
        assert webhooks.take_due(jobs.store, clock()) == [], "nobody else sends it meanwhile"
        clock.now += pause(1)
        assert [webhook.attempt for webhook in webhooks.take_due(jobs.store, clock())] == [2]


def test_a_removed_job_owes_no_webhook(tmp_path: Path) -> None:
    with closing(Jobs(settings(tmp_path, "http://127.0.0.1:9"))) as jobs:
        jobs.remove(ended(jobs, "http://127.0.0.1:9"))
        assert left(jobs) == []


@pytest.mark.e2e
def test_a_web_process_sends_what_was_owed_when_it_started(tmp_path: Path) -> None:
    with receiving() as receiver:
        config = settings(tmp_path, receiver.origin)
        with closing(Jobs(config)) as jobs:
            id = ended(jobs, receiver.origin)
        section = {
            "WEBHOOKS__ORIGINS": json.dumps(config.webhooks.origins),
            "WEBHOOKS__PRIVATE": "true",
            "WEBHOOKS__SECRET_FILE": config.webhooks.secret_file,
        }
        with web(tmp_path, **section) as service:
            wait_until(lambda: len(receiver.got) == 1, "the webhook came", lambda: service.log)
        assert receiver.got[0][1]["webhook-id"] == id


# ---- where none is sent ----------------------------------------------------------------------------------------------


def test_redirects_are_not_followed() -> None:
    with receiving() as elsewhere, receiving(status(307, Location=elsewhere.origin)) as receiver:
        with pytest.raises(NotDelivered, match="307: redirects are not followed"):
            send(receiver.origin, b"{}", {}, private=True)
        assert elsewhere.got == []


def test_a_name_that_resolves_to_a_private_address_gets_no_connection(tmp_path: Path) -> None:
    with receiving() as receiver:
        url = f"http://localhost:{receiver.server_port}"
        with closing(Jobs(settings(tmp_path, url, private=False))) as jobs:
            id = ended(jobs, url)
            WebhookDelivery(jobs).deliver_due()
            assert left(jobs) == [(id, 1)]
        with pytest.raises(NotDelivered, match=r"localhost is (127\.0\.0\.1|::1), a private address"):
            send(url, b"{}", {}, private=False)
        assert receiver.connections == 0


def test_a_name_that_changes_its_address_after_the_check_is_not_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the first answer is a public address, every later one is the receiver's."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if host == "rebound.example":
            asked.append(host)
            return real("192.88.99.1" if len(asked) == 1 else "127.0.0.1", port, *rest, **named)
        return real(host, port, *rest, **named)

    connected: list[str] = []

    def refuse(address: tuple[str, int], *_rest: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(NotDelivered):
        send("http://rebound.example", b"{}", {}, private=False)
    assert (asked, connected) == (["rebound.example"], ["192.88.99.1"])


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: both)
    with pytest.raises(NotDelivered, match=r"10\.0\.0\.1"):
        send("http://mixed.example", b"{}", {}, private=False)


@pytest.mark.parametrize("part", ["headers", "nothing"])
def test_a_receiver_that_does_not_come_to_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(webhook_request, "DEADLINE_SECONDS", 0.5)
    over = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        while not over.wait(0.1):
            if part == "headers":
                handler.wfile.write(b"H")

    with receiving(drip) as receiver:
        began = time.monotonic()
        with pytest.raises(NotDelivered):
            send(receiver.origin, b"{}", {}, private=True)
        assert time.monotonic() - began < 5
        over.set()


def test_a_certificate_has_to_be_valid_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*make, *names], cwd=tmp_path, check=True, capture_output=True)
    with receiving() as receiver:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
        receiver.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that the client ends
        url = f"https://localhost:{receiver.server_port}/"
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
            send(url, b"{}", {}, private=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
            send(url.replace("localhost", "127.0.0.1"), b"{}", {}, private=True)
        assert receiver.got == []
        send(url, b"{}", {}, private=True)
        assert receiver.got[0][1]["host"] == f"localhost:{receiver.server_port}"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.1.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff0e::1", "::ffff:127.0.0.1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1"),
    ],
)
def test_addresses_that_are_not_of_the_internet_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


# ---- what is refused at the submission and at the start --------------------------------------------------------------

HOOKS = WebhooksConfig(origins=("https://Hooks.example.com", "https://other.example:8443/"), secret_file="key")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com", "https://HOOKS.example.com:443/a?b=c", "https://other.example:8443/x"]
)
def test_a_url_at_an_allowed_origin_is_taken(url: str) -> None:
    HOOKS.check(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com", "https://hooks.example.com:444", "https://hooks.example.com.evil.example"),
        *("https://evil.example", "https://user@hooks.example.com", "https://hooks.example.com@evil.example"),
        *("https://hooks.example.com\\@evil.example", "https://evil.example#hooks.example.com", "ftp://hooks.example"),
        *("https://hooks.example.com/ x", "https://hooks.example.com/\r\nX: y", "https://hooks.example.com/é", ""),
        *("https://", "hooks.example.com", "https://hooks.example.com:port", "https://[::1", "https://a%25.example"),
        "https://hooks.example.com/" + "x" * 2_000,
    ],
)
def test_a_url_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="webhook_url"):
        HOOKS.check(url)


@given(st.text(max_size=60))
def test_any_text_is_taken_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://hooks.example.com{text}"):
        try:
            HOOKS.check(url)
        except BadInput:
            continue
        assert url.lower().startswith(("https://hooks.example.com", "https://other.example:8443"))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"origins": ["https://hooks.example.com"]}, "needs webhooks.secret_file"),
        ({"origins": ["https://hooks.example.com/path"], "secret_file": "k"}, "scheme, host and port only"),
        ({"origins": ["hooks.example.com"], "secret_file": "k"}, "does not start with https"),
        ({"origins": ["http://127.0.0.1:9"], "secret_file": "k"}, "set webhooks.private"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(section: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WebhooksConfig.model_validate(section)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_" + "A" * 400, "é"])
def test_a_key_that_is_none_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match="secret_file"):
        read_key(WebhooksConfig(origins=("https://a.example",), secret_file=str(tmp_path / "key")))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(WebhooksConfig(origins=("https://a.example",), secret_file=str(tmp_path / "none")))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with closing(Jobs(settings(tmp_path, "https://hooks.example.com", private=False))) as jobs:
        yield create_app(jobs.config, jobs).test_client()


def test_the_interface_takes_a_webhook_and_keeps_it_to_itself(client: FlaskClient) -> None:
    body = {"prompt": "a blue rocket", "webhook_url": "https://hooks.example.com/secret-path"}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    assert "secret-path" not in client.get(f"/v1/jobs/{answer.json['id']}").text
    refused = client.post("/v1/jobs", json=body | {"webhook_url": "https://evil.example"})
    assert refused.status_code == 422
    assert "https://hooks.example.com" in refused.json["detail"]


def test_without_allowed_origins_a_webhook_is_refused(tmp_path: Path) -> None:
    with closing(Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))) as jobs:
        client = create_app(jobs.config, jobs).test_client()
        answer = client.post("/v1/jobs", json={"prompt": "a blue rocket", "webhook_url": "https://a.example"})
        assert answer.status_code == 422
        assert "webhooks.origins" in answer.json["detail"]

"""Which requests are allowed: with tokens, without, from a page of another site, for another host name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from app.commands.main import main
from app.config import Config
from app.errors import ConfigError, TooManyFailures
from app.jobs.client import Jobs
from app.web import create_app
from app.web.failures import ALLOWED, MAX_ADDRESSES, WITHIN_SECONDS, Failures
from app.web.server import listen_address
from app.web.tokens import read_tokens, token_hash

TOKEN = "sg_" + "k" * 43  # fixed, so that every process collects the same tests


@contextmanager
def client(folder: Path, serve: dict[str, Any] | None = None, **auth: Any) -> Iterator[FlaskClient]:
    (folder / "tokens").write_text(f"# of the fleet\n\n{'0' * 64} lost\n{token_hash(TOKEN)} alice\n")
    config = Config.model_validate({"serve": {"data": str(folder)} | (serve or {}), "auth": auth})
    jobs = Jobs(config)
    yield create_app(config, jobs).test_client()
    jobs.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[FlaskClient]:
    with client(tmp_path, tokens_file=str(tmp_path / "tokens")) as made:
        yield made


@pytest.fixture
def unguarded(tmp_path: Path) -> Iterator[FlaskClient]:
    with client(tmp_path) as made:
        yield made


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}"])
def test_a_token_lets_in_from_anywhere(guarded: FlaskClient, header: str) -> None:
    answer = guarded.get(
        "/v1/jobs", headers={"Authorization": header, "Host": "gpu7.example"}, environ_base={"REMOTE_ADDR": "10.0.0.9"}
    )
    assert answer.status_code == 200


def test_a_browser_sends_the_token_as_a_password(guarded: FlaskClient) -> None:
    credentials = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    assert guarded.get("/", headers={"Authorization": f"Basic {credentials}"}).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Basic !", "Bearer \udcff"]
)
@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/metrics", "/docs", "/openapi.json", "/static/page.css"])
def test_without_a_known_token_nothing_is_shown(guarded: FlaskClient, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1", "replace").decode("latin-1")}
    answer = guarded.get(path, headers=headers)
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert [each.split()[0] for each in answer.headers.get_all("WWW-Authenticate")] == ["Bearer", "Basic"]


def test_the_hash_of_a_token_is_no_token(guarded: FlaskClient) -> None:
    answer = guarded.get("/v1/jobs", headers={"Authorization": f"Bearer {token_hash(TOKEN)}"})
    assert answer.status_code == 401


def test_health_needs_no_token(guarded: FlaskClient) -> None:
    assert guarded.get("/livez").status_code == 200
    assert guarded.get("/readyz").status_code == 503


def test_the_worker_protocol_needs_a_token_unless_it_is_opened(guarded: FlaskClient, tmp_path: Path) -> None:
    assert guarded.post("/generate/", data={"prompt": ""}).status_code == 401
    with client(tmp_path, tokens_file=str(tmp_path / "tokens"), open_worker=True) as opened:
        for path in ("/generate/", "/generate", "/generate_video/", "/generate_video"):
            assert opened.post(path, data={"prompt": ""}).status_code == 422
        assert opened.get("/v1/jobs").status_code == 401


def test_a_strangers_body_is_not_read(guarded: FlaskClient) -> None:
    assert guarded.post("/v1/jobs", data=b"x" * 10, content_length=10**12).status_code == 401


@pytest.mark.parametrize("address", ["10.0.0.9", "192.168.1.2", "2001:db8::1", None])
def test_without_tokens_other_machines_are_refused(unguarded: FlaskClient, address: str | None) -> None:
    answer = unguarded.get("/v1/jobs", environ_base={"REMOTE_ADDR": address} if address else {"REMOTE_ADDR": ""})
    assert (answer.status_code, answer.json["type"]) == (403, "/docs#Forbidden")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1:10010", "[::1]:10010", "LOCALHOST"])
def test_without_tokens_this_machine_is_served(unguarded: FlaskClient, name: str) -> None:
    assert unguarded.get("/v1/jobs", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.9", "@"])
def test_without_tokens_a_name_that_is_not_ours_is_refused(unguarded: FlaskClient, name: str) -> None:
    assert unguarded.get("/v1/jobs", headers={"Host": name}).status_code in (400, 403)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null"])
@pytest.mark.parametrize("guard", ["guarded", "unguarded"])
def test_a_page_of_another_site_can_submit_nothing(request: pytest.FixtureRequest, guard: str, origin: str) -> None:
    made: FlaskClient = request.getfixturevalue(guard)
    headers = {"Origin": origin, "Authorization": f"Bearer {TOKEN}"}
    for path in ("/generate/", "/v1/validate", "/v1/jobs"):
        assert made.post(path, data={"prompt": "a blue rocket"}, headers=headers).status_code == 403


@pytest.mark.parametrize("guard", ["guarded", "unguarded"])
@pytest.mark.parametrize("dest", ["image", "script", "iframe", "empty"])
def test_a_page_of_another_site_can_embed_nothing(request: pytest.FixtureRequest, guard: str, dest: str) -> None:
    made: FlaskClient = request.getfixturevalue(guard)
    mode = "navigate" if dest == "iframe" else "no-cors"
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    answer = made.get("/v1/jobs", headers={**headers, "Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, "Sec-Fetch-Site" in answer.json["detail"]) == (403, True)


def test_a_link_on_another_site_can_be_followed(unguarded: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert unguarded.get("/", headers=headers).status_code == 200
    assert unguarded.post("/v1/jobs", json={"prompt": "a blue rocket"}, headers=headers).status_code == 403


@pytest.mark.parametrize("scheme", ["Token", "Digest", "AWS4-HMAC-SHA256", "basic2", "x"])
def test_only_bearer_and_basic_carry_a_token(guarded: FlaskClient, scheme: str) -> None:
    for value in (f"password={TOKEN}", f'password="{TOKEN}", username=x', f"token={TOKEN}", TOKEN):
        assert guarded.get("/v1/jobs", headers={"Authorization": f"{scheme} {value}"}).status_code == 401


PROXIED = [
    ("X-Forwarded-For", "203.0.113.5"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "splats.example"),
    ("x-forwarded-server", "proxy"),
    ("Forwarded", "for=203.0.113.5"),
    ("Via", "1.1 proxy"),
    ("X-Real-IP", "203.0.113.5"),
    ("CF-Connecting-IP", "203.0.113.5"),
    ("X-Forwarded-For", "127.0.0.1"),
]


@pytest.mark.parametrize(("name", "value"), PROXIED)
@pytest.mark.parametrize("published_on", ["", "127.0.0.1"])
def test_without_tokens_a_request_through_a_proxy_is_refused(
    tmp_path: Path, name: str, value: str, published_on: str
) -> None:
    with client(tmp_path, {"published_on": published_on}) as made:
        for path in ("/v1/jobs", "/", "/metrics"):
            answer = made.get(path, headers={name: value})
            assert answer.status_code == 403
            assert "came through a proxy" in answer.json["detail"]
        assert made.get("/livez", headers={name: value}).status_code == 200


def test_without_tokens_http_1_0_is_refused_because_nginx_uses_it(unguarded: FlaskClient) -> None:
    assert unguarded.get("/v1/jobs", environ_overrides={"SERVER_PROTOCOL": "HTTP/1.0"}).status_code == 403
    assert unguarded.get("/v1/jobs", environ_overrides={"SCRIPT_NAME": "/generate"}).status_code == 403


def test_a_request_without_a_host_is_refused(unguarded: FlaskClient) -> None:
    environ = EnvironBuilder("/v1/jobs").get_environ()
    del environ["HTTP_HOST"]
    assert unguarded.open(Request(environ)).status_code in (400, 403)


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "203.0.113.5", 403),
        ("127.0.0.1", "127.0.0.1, 203.0.113.5", 403),
        ("127.0.0.1", "203.0.113.5, ::1", 200),
        ("127.0.0.1", "unknown", 403),
        ("10.0.0.9", "127.0.0.1", 403),
    ],
)
def test_a_trusted_proxy_names_the_client(tmp_path: Path, peer: str, forwarded: str, status: int) -> None:
    with client(tmp_path, {"trusted_proxies": ["127.0.0.1/32"]}) as made:
        headers = {"X-Forwarded-For": forwarded}
        assert made.get("/v1/jobs", headers=headers, environ_base={"REMOTE_ADDR": peer}).status_code == status


def test_with_tokens_a_proxy_is_allowed(guarded: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "203.0.113.5", "Via": "1.1 proxy"}
    assert guarded.get("/v1/jobs", headers=headers).status_code == 200


def test_an_address_that_guesses_tokens_has_to_wait_and_a_right_token_never(guarded: FlaskClient) -> None:
    def ask(token: str, address: str) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return guarded.get("/v1/jobs", headers=headers, environ_base={"REMOTE_ADDR": address}).status_code

    assert [ask("wrong", "10.0.0.9") for _ in range(20)] == [401] * 20
    assert [ask("wrong", "10.0.0.9"), ask("wrong", "10.0.0.8")] == [429, 401]
    assert [ask("", "10.0.0.9"), ask(TOKEN, "10.0.0.9")] == [401, 200]


def test_failures_are_forgotten_after_a_minute_and_for_old_addresses() -> None:
    now = 0.0
    failures = Failures(lambda: now)
    for _ in range(ALLOWED):
        failures.count("10.0.0.9")
    with pytest.raises(TooManyFailures) as error:
        failures.count("10.0.0.9")
    assert error.value.retry_after == WITHIN_SECONDS
    for each in range(MAX_ADDRESSES):
        failures.count(f"10.1.{each}")
    failures.count("10.0.0.9")
    now = WITHIN_SECONDS
    failures.count("10.0.0.9")


def test_our_own_page_can(unguarded: FlaskClient) -> None:
    headers = {"Origin": "http://localhost"}
    assert unguarded.post("/v1/jobs", json={"prompt": "a blue rocket"}, headers=headers).status_code == 202


def test_the_schema_says_what_needs_a_token(guarded: FlaskClient, unguarded: FlaskClient) -> None:
    schema = guarded.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json
    assert schema["paths"]["/v1/jobs"]["get"]["security"] == [{"token": []}]
    assert schema["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in unguarded.get("/openapi.json").json["paths"]["/v1/jobs"]["get"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "no token"), ("# nothing\n", "no token"), (f"{TOKEN}\n", "line 1"), (f"{'0' * 64}\n{'0' * 63}\n", "line 2")],
)
def test_a_tokens_file_that_cannot_be_meant_stops_the_start(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "tokens").write_text(content)
    config = Config.model_validate({"auth": {"tokens_file": str(tmp_path / "tokens")}})
    with pytest.raises(ConfigError, match=expected) as error:
        read_tokens(config.auth)
    assert TOKEN not in str(error.value)


def test_a_missing_tokens_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens(Config.model_validate({"auth": {"tokens_file": str(tmp_path / "nowhere")}}).auth)


def test_the_command_makes_a_token_and_the_hash_of_it() -> None:
    made = json.loads(CliRunner().invoke(main, ["token", "new", "--json"]).output)
    assert made["hash"] == token_hash(made["token"])
    assert len(made["token"]) > 40
    again = json.loads(CliRunner().invoke(main, ["token", "new", "--json"]).output)
    assert again["token"] != made["token"]


@pytest.mark.parametrize(
    ("serve", "tokens", "expected"),
    [
        ({"host": "0.0.0.0"}, "", "127.0.0.1:10010"),  # the tests do not bind it
        ({"host": "gpu7.example"}, "", "127.0.0.1:10010"),
        ({"host": "::1"}, "", "[::1]:10010"),
        ({"host": "0.0.0.0", "published_on": "127.0.0.1"}, "", "0.0.0.0:10010"),
        ({"host": "0.0.0.0", "published_on": "0.0.0.0"}, "", "127.0.0.1:10010"),
        ({"host": "0.0.0.0", "port": 80}, "tokens", "0.0.0.0:80"),
    ],
)
def test_without_tokens_it_listens_on_this_machine_only(serve: dict[str, Any], tokens: str, expected: str) -> None:
    config = Config.model_validate({"serve": serve, "auth": {"tokens_file": tokens}})
    assert listen_address(config) == expected

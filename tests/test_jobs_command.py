"""`splatgate jobs`: against a real web process; the tests end jobs themselves if no engine is needed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from service import Service, web

from app.commands import jobs as jobs_command
from app.commands.main import main
from app.config import load_config
from app.jobs.store import Store
from app.jobs.tables import jobs


def run(url: str, *arguments: str, **variables: str) -> Result:
    return CliRunner(env={"SPLATGATE_URL": url} | variables).invoke(main, ["jobs", *arguments])


# ---- without a service -----------------------------------------------------------------------------------------------


@pytest.fixture
def something_else() -> Iterator[str]:
    """A server other than Splatgate."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_another_server_is_named(something_else: str) -> None:
    result = run(something_else, "list")
    assert result.exit_code == 1
    assert f"error: {something_else}: unexpected answer 200; is it a Splatgate service?" in result.stderr


def test_no_service_is_named_with_the_remedy() -> None:
    result = run("http://127.0.0.1:9", "list")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9: no answer" in result.stderr
    assert "is splatgate serve running?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--url", "localhost"), "give http://host:port"),
        (("list", "--state", "SLEEPING"), "'queued'"),
        (("list", "--limit", "0"), "a whole number from 1 to 200"),
        (("wait",), "Missing argument 'ID...'"),
        (("wait", "x", "--timeout", "0"), "a number above 0"),
    ],
)
def test_wrong_calls_are_usage_errors(arguments: tuple[str, ...], words: str) -> None:
    result = run("http://127.0.0.1:9", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("command", ["show", "cancel", "wait"])
def test_an_id_is_not_a_path(command: str) -> None:
    result = run("http://127.0.0.1:9", command, "../stats")
    assert result.exit_code == 1
    assert "is not the id of a job" in result.stderr


# ---- with one --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with web(tmp_path_factory.mktemp("service")) as service:
        yield service


def submit(service: Service, prompt: str) -> str:
    import requests

    return requests.post(f"{service.url}/v1/jobs", json={"prompt": prompt}, timeout=30).json()["id"]


def end(service: Service, id: str, **values: object) -> None:
    """As an engine would."""
    store = Store(load_config(None, {"SPLATGATE__SERVE__DATA": str(service.folder)}))
    with store.writing() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == id).values(values | {"version": 99}))
    store.close()


@pytest.mark.e2e
def test_jobs_are_listed_shown_cancelled_and_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_command, "POLL_SECONDS", 0.05)
    ball, cone = submit(service, "a red ball"), submit(service, "a blue cone")
    listed = run(service.url, "list")
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [cone, ball]
    found = json.loads(run(service.url, "list", "--search", "BALL", "--state", "queued", "--json").stdout)
    assert [job["id"] for job in found["jobs"]] == [ball]
    shown = run(service.url, "show", ball)
    assert "prompt:    a red ball" in shown.stdout
    assert "state:     QUEUED" in shown.stdout
    late = run(service.url, "wait", ball, "--timeout", "0.1")
    assert late.exit_code == 1
    assert "has not ended in time" in late.stderr
    cancelled = run(service.url, "cancel", ball)
    assert cancelled.stdout == f"{ball}: CANCELLED\n"
    assert run(service.url, "wait", ball).exit_code == 1
    threading.Timer(0.3, end, (service, cone), {"state": "DONE", "outcome": "passed", "finished": 1.0}).start()
    waited = run(service.url, "wait", cone, "--timeout", "60")
    assert (waited.exit_code, waited.stdout) == (0, f"{cone}: DONE passed\n")


@pytest.mark.e2e
def test_a_refused_job_exits_with_3_and_an_unknown_one_with_1(service: Service) -> None:
    box = submit(service, "a green box")
    end(service, box, state="DONE", outcome="refused", finished=1.0)
    assert run(service.url, "wait", box).exit_code == 3
    unknown = run(service.url, "show", "0" * 32)
    assert unknown.exit_code == 1
    assert "no job" in unknown.stderr


@pytest.mark.e2e
def test_a_missing_token_is_named(tmp_path: Path) -> None:
    from app.web.tokens import new_token, token_hash

    token = new_token()
    (tmp_path / "tokens").write_text(token_hash(token) + "\n")
    with web(tmp_path, AUTH__TOKENS_FILE=tmp_path / "tokens") as service:
        closed = run(service.url, "list")
        assert closed.exit_code == 1
        assert "set SPLATGATE_TOKEN" in closed.stderr
        assert run(service.url, "list", SPLATGATE_TOKEN=token).exit_code == 0

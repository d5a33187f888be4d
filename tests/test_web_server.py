"""The real web process with slow clients, truncated bodies, many clients, full disks and broken databases."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests
from service import Service, wait_until, web

from app.config import Config
from app.jobs.client import Jobs
from app.jobs.heartbeats import Heartbeat
from app.jobs.records import Engine, JobRequest
from app.web.server import HEADER_SECONDS

pytestmark = pytest.mark.e2e

ROCKET = {"prompt": "a blue rocket"}


@pytest.fixture(scope="module")
def service(  # without an engine, and with narrow limits: not the service of the other modules
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    limits = {"LIMITS__BODY_SECONDS": 1.0, "LIMITS__MAX_REQUESTS": 8, "LIMITS__MAX_BODY_MB": 8, "LOG__JSON": "true"}
    with web(tmp_path_factory.mktemp("web"), WORKER__WAIT_SECONDS=3.0, **limits) as running:
        yield running


def test_it_says_at_start_that_it_serves_this_machine_only(service: Service) -> None:
    assert "only this machine is served" in service.log


def test_a_client_that_sends_half_a_body_and_waits_gets_408(service: Service) -> None:
    with closing(_half_request(service)) as client:
        client.settimeout(20)
        answer = HTTPResponse(client)
        answer.begin()
        assert answer.status == 408
        assert "limits.body_seconds" in json.load(answer)["detail"]


def test_a_client_that_sends_its_body_too_slowly_gets_408(service: Service) -> None:
    with closing(_half_request(service)) as client:
        client.settimeout(0.2)
        answer = b""
        for _ in range(100):
            try:
                client.send(b" ")
                answer += client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_disconnects_after_half_a_body_leaves_nothing(service: Service) -> None:
    before = _count(service)
    _half_request(service).close()
    whole = b'{"prompt": "a blue rocket"}'
    with closing(_half_request(service, body=whole, length=len(whole) + 5)) as client:
        client.shutdown(socket.SHUT_WR)  # what has come is whole JSON, but not the whole body
        client.settimeout(20)
        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert _count(service) == before


@pytest.mark.parametrize("start", [b"", b"GET /v1/jobs HTTP/1.1\r\nHost: loc"])
def test_clients_that_send_no_request_keep_nobody_waiting(service: Service, start: bytes) -> None:
    with ExitStack() as clients:
        for _ in range(300):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            client.sendall(start)
        assert _seconds(service, "/livez") < 1
        assert _seconds(service, "/v1/jobs") < 5


def test_a_client_that_drips_its_headers_is_dropped(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < 30:
                client.sendall(b"x")
                time.sleep(0.1)
    assert HEADER_SECONDS - 1 < time.monotonic() - began < 30


def test_half_bodies_hold_no_thread(service: Service) -> None:
    """There are eight slots for requests, and 24 threads."""
    with ExitStack() as clients:
        for _ in range(8):
            clients.enter_context(_half_request(service))
        assert _seconds(service, "/livez") < 1
        assert _seconds(service, "/readyz") < 1


def test_many_event_streams_do_not_block_other_requests(service: Service) -> None:
    submitted: list[dict[str, str]] = []

    def submit() -> bool:
        """Refused while the places of earlier callers are not free yet."""
        answer = requests.post(f"{service.url}/v1/jobs", json=ROCKET, timeout=20)
        submitted.append(answer.json())
        return answer.status_code == 202

    wait_until(submit, "a job is accepted", lambda: str(submitted))
    id = submitted[-1]["id"]
    with ExitStack() as opened:
        streams = []
        for _ in range(100):
            stream = opened.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            stream.sendall(f"GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert stream.recv(65536).startswith(b"HTTP/1.1 200 ")
            streams.append(stream)
        assert _seconds(service, "/livez") < 1
        assert requests.post(f"{service.url}/v1/jobs", json=ROCKET, timeout=20).status_code == 202
        requests.delete(f"{service.url}/v1/jobs/{id}", timeout=20)


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhello\r\nnope\r\n", b"-1\r\n"])
def test_a_body_of_broken_chunks_is_a_bad_request(service: Service, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as client:
        head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        answer = HTTPResponse(client)
        answer.begin()
        assert answer.status == 400


def test_a_locked_database_leaves_health_answering(tmp_path: Path) -> None:
    with (
        web(tmp_path) as service,
        closing(Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))) as jobs,
        ThreadPoolExecutor(12) as pool,
    ):
        requests.get(f"{service.url}/v1/jobs", timeout=20)
        with jobs.store.writing():
            for _ in range(12):
                pool.submit(requests.post, f"{service.url}/v1/jobs", json=ROCKET, timeout=60)
            wait_until(lambda: _seconds(service, "/readyz") < 3, "readiness answers")
            assert _seconds(service, "/livez") < 1


def test_a_chunked_body_over_the_limit_is_refused(service: Service) -> None:
    pieces = (b"x" * 2**20 for _ in range(9))
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{service.url}/v1/jobs", data=pieces, headers=headers, timeout=20)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")


def test_a_chunked_body_is_accepted(service: Service) -> None:
    pieces = iter([b'{"prompt": ', b'"a blue rocket"}'])
    headers = {"Content-Type": "application/json"}
    assert requests.post(f"{service.url}/v1/jobs", data=pieces, headers=headers, timeout=20).status_code == 202


def test_more_requests_than_allowed_are_sent_away_and_health_still_answers(service: Service) -> None:
    def wait() -> int:
        return requests.post(f"{service.url}/generate/", data=ROCKET, timeout=60).status_code

    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(wait) for _ in range(20)]
        time.sleep(1)  # most are waiting by now; were they not, the answers below would show it
        assert requests.get(f"{service.url}/livez", timeout=20).ok
        assert requests.get(f"{service.url}/metrics", timeout=20).ok
        answers = [future.result() for future in waiting]
    assert set(answers) == {503, 504}  # 504: its job did not end within worker.wait_seconds, as there is no engine
    assert answers.count(504) == 8
    assert requests.get(f"{service.url}/v1/jobs", timeout=20).ok


def test_a_caller_that_disconnects_frees_its_slot_and_its_job_stays(service: Service) -> None:
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{service.url}/generate/", data={"prompt": "a red mug"}, timeout=0.2)
    wait_until(lambda: "the caller has disconnected" in service.log, "it is noticed")
    newest = requests.get(f"{service.url}/v1/jobs?limit=1", timeout=20).json()["jobs"][0]
    assert (newest["prompt"], newest["state"]) == ("a red mug", "QUEUED")


def test_a_job_whose_caller_has_disconnected_does_not_run(service: Service) -> None:
    requests.post(f"{service.url}/generate/", data=ROCKET, timeout=60)
    newest = requests.get(f"{service.url}/v1/jobs?limit=1", timeout=20).json()["jobs"][0]
    assert newest["deadline"] == pytest.approx(newest["created"] + 3)


def test_a_caller_with_a_key_may_come_back(service: Service) -> None:
    def ask() -> requests.Response:
        return requests.post(f"{service.url}/generate/", data=ROCKET, headers={"Idempotency-Key": "mine"}, timeout=60)

    before = _count(service)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask(), range(3)))
    assert [answer.status_code for answer in answers] == [504] * 3
    assert _count(service) == before + 1
    newest = requests.get(f"{service.url}/v1/jobs?limit=1", timeout=20).json()["jobs"][0]
    assert (newest["state"], newest["deadline"]) == ("QUEUED", None)


def test_a_stopping_service_keeps_nobody_waiting_for_a_job_whose_engine_has_died(tmp_path: Path) -> None:
    """As where it gives up on an engine that keeps dying: its restart would wait for the whole grace."""
    with (
        web(tmp_path, SERVE__GRACE_SECONDS=900, WORKER__WAIT_SECONDS=800) as stopping,
        closing(Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))) as jobs,
        ThreadPoolExecutor(1) as pool,
    ):
        jobs.submit(JobRequest(prompt="a blue rocket"), key="mine")
        with jobs.store.writing() as connection:
            connection.exec_driver_sql("UPDATE jobs SET state = 'RUNNING', engine = 'e'")
        gone = Engine("1", "e", "h", 1, "CPU", "LOST", "", time.time(), None, None, None, 0.0, None, None)
        Heartbeat(jobs.store, gone, time.time)
        headers = {"Idempotency-Key": "mine"}
        caller = pool.submit(requests.post, f"{stopping.url}/generate/", data=ROCKET, headers=headers, timeout=900)
        wait_until(lambda: "the caller waits" in stopping.log, "it waits")
        stopping.process.send_signal(signal.SIGTERM)
        assert stopping.process.wait(120) == 0
        assert (caller.result().status_code, "is restarting" in caller.result().text) == (504, True)


def test_callers_without_a_key_share_the_job_that_waits_for_the_same(service: Service) -> None:
    before = _count(service)
    form = {"prompt": "a green tree", "seed": "77"}
    answers = [requests.post(f"{service.url}/generate/", data=form, timeout=60) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [504] * 2
    assert _count(service) == before + 1


def test_a_log_line_is_json_and_names_the_job(service: Service) -> None:
    id = requests.post(f"{service.url}/v1/jobs", json=ROCKET, timeout=20).json()["id"]
    wait_until(lambda: id in service.log, "the log names the job")
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert any(line.get("job") == id and line["level"] == "INFO" for line in lines)


def test_sigterm_ends_it_soon_though_somebody_follows_a_job(tmp_path: Path) -> None:
    with web(tmp_path, SERVE__GRACE_SECONDS=600) as service:  # nobody waits so long for a job that no engine will take
        id = requests.post(f"{service.url}/v1/jobs", json=ROCKET, timeout=20).json()["id"]
        followed = requests.get(f"{service.url}/v1/jobs/{id}/events", stream=True, timeout=60)
        waiting = ThreadPoolExecutor(1)
        waited = waiting.submit(requests.post, f"{service.url}/generate/", data=ROCKET, timeout=60)
        wait_until(lambda: _count(service) == 2, "the caller waits")
        service.process.send_signal(signal.SIGTERM)
        assert b"QUEUED" in followed.content
        assert "restarting" in waited.result().json()["detail"]
        assert waited.result().status_code == 504
        waiting.shutdown()
        assert service.process.wait(20) == 0


def test_a_configuration_that_cannot_be_used_stops_the_start_with_one_line() -> None:
    environment = os.environ | {"SPLATGATE__AUTH__TOKENS_FILE": "/nowhere/tokens"}
    started = subprocess.run([sys.executable, "-m", "app.web.server"], env=environment, capture_output=True, text=True)
    assert started.returncode == 1
    assert len(started.stderr.splitlines()) == 1
    assert "/nowhere/tokens" in started.stderr


def test_threads_do_not_pile_up(service: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: requests.get(f"{service.url}/v1/jobs", timeout=20).ok, range(200)))
    workers = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    assert len(list(Path(f"/proc/{workers[0]}/task").iterdir())) < 8 + 16 + 8


def _seconds(service: Service, path: str) -> float:
    """How long an answer took; 503 is one."""
    began = time.monotonic()
    requests.get(f"{service.url}{path}", timeout=60)
    return time.monotonic() - began


def _half_request(service: Service, body: bytes = b'{"prompt": ', length: int = 1_000) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", service.port))
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    )
    client.sendall(head.encode() + b"\r\n" + body)
    return client


def _count(service: Service) -> int:
    return len(requests.get(f"{service.url}/v1/jobs?limit=200", timeout=20).json()["jobs"])


def test_a_worker_does_not_outlive_its_master_and_keep_the_port(tmp_path: Path) -> None:
    """gunicorn's worker looks for its master now and then, a busy one later; this one is stopped and cannot look."""
    with web(tmp_path) as service:
        master = service.process.pid
        (worker,) = map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())
        os.kill(worker, signal.SIGSTOP)
        try:
            os.kill(master, signal.SIGKILL)
            service.process.wait()
            wait_until(lambda: not _lives(worker), "the worker has gone with its master")
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

"""Many hosts: engines without a web process, one PostgreSQL and one object store between them and the head."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from _s3_server import BUCKET, object_store
from hosts import Server, client, postgres_server, settings
from object_store import SECRET, bucket, give_credentials, s3_server
from service import FAST, PATIENCE, clean_environ, engine, free_port, wait_until, web

from app.child import CODES
from app.commands.fact import Fact
from app.commands.facts import shared_facts as shared
from app.config import Config
from app.errors import ConfigError, DatabaseDown, NotFound, StorageDown
from app.identity import known_node
from app.jobs import tables
from app.jobs.assets import Assets, shown
from app.jobs.clock_guard import DAY, ClockGuard
from app.jobs.job_store import JobResult, JobStore
from app.jobs.records import JobRequest
from app.jobs.retention import Retention
from app.jobs.store import Store
from app.serve import plan

__all__ = ["bucket", "postgres_server", "s3_server"]  # fixtures

SHARED = {"database": {"url": "postgresql://db/splatgate"}, "assets": {"url": "s3://bucket/assets"}}
PASSWORD = "the-password-of-the-database"


# ---- a host for engines only -----------------------------------------------------------------------------------------


def test_a_host_for_engines_only_starts_no_web_process() -> None:
    config = Config.model_validate(SHARED | {"serve": {"web": False}})
    assert [child.name for child in plan(config, {})] == ["engine cpu"]


@pytest.mark.parametrize("missing", ["database", "assets"])
def test_engines_without_a_web_process_need_shared_storage(missing: str) -> None:
    config = Config.model_validate(SHARED | {"serve": {"web": False}, missing: {"url": ""}})
    with pytest.raises(ConfigError, match=rf"serve\.web = false, and {missing}\.url not set"):
        plan(config, {})


@dataclass(frozen=True)
class EngineHost:
    """A running `splatgate serve` with serve.web = false."""

    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    @property
    def engine(self) -> str:
        """The name of its engine; "-cpu" before it has been started."""
        return f"{known_node(self.folder)}-cpu"

    def health(self, *options: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "app", "health", "--json", *options]
        asked = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=300)
        return asked.returncode, json.loads(asked.stdout)


@contextmanager
def engine_host(folder: Path, port: int, given: dict[str, object]) -> Iterator[EngineHost]:
    folder.mkdir()
    told = given | {"SERVE__WEB": "false", "SERVE__DATA": folder, "SERVE__PORT": port}
    environ = clean_environ()
    environ |= {f"SPLATGATE__{name}": str(value) for name, value in told.items()}
    with (folder / "serve.log").open("wb") as stream:
        command = [sys.executable, "-m", "app", "serve"]
        process = subprocess.Popen(command, env=environ, stdout=stream, stderr=stream)
    try:
        yield EngineHost(folder, environ, process)
    finally:
        process.kill()  # its children die with it
        process.wait()


@pytest.mark.e2e
def test_a_job_of_the_head_runs_elsewhere_and_continues_when_that_host_dies(
    postgres_server: Server, bucket: str, tmp_path: Path
) -> None:
    """One cluster through its life: starting it takes longer than all that is asked of it."""
    given = FAST | {
        "DATABASE__URL": postgres_server.database().replace("postgres@", f"postgres:{PASSWORD}@"),
        "ASSETS__URL": bucket,
        "VALIDATE__THRESHOLD": 0.9,  # every attempt is refused, so that a job can be made to last
        "JOBS__HEARTBEAT_SECONDS": 1,
        "JOBS__LOST_AFTER_SECONDS": 12,
    }
    (tmp_path / "head").mkdir()
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        hosts = [stack.enter_context(engine_host(tmp_path / f"host{port}", port, given)) for port in ports]
        head = stack.enter_context(web(tmp_path / "head", **given))
        for host in hosts:
            wait_until(lambda own=host: own.engine in _serving(head.url), f"the head sees {host.folder.name}")

        job = _until_ended(head.url, _taken(head.url, {"prompt": "a blue rocket"}))
        assert (job["state"], job["engine"] in {host.engine for host in hosts}) == ("DONE", True), job
        asset = f"{head.url}/v1/jobs/{job['id']}/asset.ply"
        served = requests.get(asset, timeout=60)
        assert served.content.startswith(b"ply")
        assert served.headers["ETag"] == f'"{hashlib.sha256(served.content).hexdigest()}"'
        assert requests.get(asset, headers={"Range": "bytes=5-9"}, timeout=60).content == served.content[5:10]
        assert not list(tmp_path.rglob("*.ply")), "no host keeps files of its own"

        for host in hosts:
            wait_until(lambda own=host: own.health()[0] == 0, "the health of the host")
            said = host.health("--live")[1]
            assert list(said["answer"]["engines"]) == [host.engine], said
            assert PASSWORD not in str(said)
        for port in ports:
            with pytest.raises(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/livez", timeout=60)

        id = _taken(head.url, {"prompt": "a blue rocket", "attempts": 24})
        dead = _busy_with(head.url, id, hosts)
        dead.process.kill()
        ended = _until_ended(head.url, id)
        assert (ended["state"], ended["outcome"]) == ("DONE", "refused"), ended
        assert ended["engine"] in {host.engine for host in hosts} - {dead.engine}
        views = requests.get(f"{head.url}/v1/jobs/{id}/views.png", timeout=60)
        assert views.content.startswith(b"\x89PNG")
        wait_until(lambda: dead.health()[0] == 1, "the health of a dead host")
        logs = [head.log, *(host.log for host in hosts)]
    assert not [log for log in logs if SECRET in log or PASSWORD in log]


@pytest.mark.e2e
def test_an_engine_waits_for_an_unavailable_store_and_its_job_continues_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    give_credentials(monkeypatch, f"http://127.0.0.1:{port}")
    given = FAST | {"ASSETS__URL": f"s3://{BUCKET}", "VALIDATE__THRESHOLD": 0.9}
    with client(settings(tmp_path, assets={"url": f"s3://{BUCKET}"})) as jobs:

        def state() -> tuple[str, str]:
            return next(((row.state, row.why) for row in jobs.engines()), ("", ""))

        with engine(tmp_path, **given) as process:
            wait_until(lambda: "Could not connect" in state()[1], "the engine says what it waits for")
            assert state()[0] == "STARTING"
            with object_store(port, tmp_path / "store.log"):
                job = jobs.submit(JobRequest(prompt="a blue rocket", attempts=16))
                wait_until(lambda: jobs.get(job.id).attempt >= 2, "the second attempt has begun")
            assert CODES[process.wait(PATIENCE)] == "storage down"
            assert (state()[0], f"assets: s3://{BUCKET}/" in state()[1]) == ("FAILED", True), state()
            assert jobs.get(job.id).state == "QUEUED", "it waits, and this start does not count against it"
        with object_store(port, tmp_path / "store.log"), engine(tmp_path, **given):
            wait_until(lambda: jobs.get(job.id).ended, "the job has ended")
        ended = jobs.get(job.id)
        assert (ended.state, ended.outcome, ended.error) == ("DONE", "refused", "")


def _busy_with(url: str, id: str, hosts: list[EngineHost]) -> EngineHost:
    """The host that is in the midst of the job."""
    busy: list[EngineHost] = []

    def found() -> bool:
        job = _job(url, id)
        busy[:] = [host for host in hosts if (job["state"], job["engine"]) == ("RUNNING", host.engine)]
        return bool(busy) and job["attempt"] >= 2

    wait_until(found, "the second attempt has begun")
    return busy[0]


def _taken(url: str, order: dict[str, object]) -> str:
    return str(requests.post(f"{url}/v1/jobs", json=order, timeout=60).json()["id"])


def _until_ended(url: str, id: str) -> dict[str, Any]:
    wait_until(lambda: bool(_job(url, id)["finished"]), "the job has ended")
    return _job(url, id)


def _job(url: str, id: str) -> dict[str, Any]:
    return dict(requests.get(f"{url}/v1/jobs/{id}", timeout=60).json())


def _serving(url: str) -> set[str]:
    engines = requests.get(f"{url}/readyz", timeout=60).json()["engines"]
    return {engine["name"] for engine in engines if engine["state"] in ("READY", "BUSY")}


@pytest.mark.e2e
def test_processes_that_meet_an_empty_database_prepare_it_one_after_the_other(
    postgres_server: Server, tmp_path: Path
) -> None:
    """A process that waited for the others in a statement would hold up an index that is created concurrently."""
    config = settings(tmp_path, postgres_server.empty_database())
    with ThreadPoolExecutor(6) as pool:
        for store in pool.map(lambda _: Store(config), range(6)):
            with closing(store), store.reading() as connection:
                assert connection.scalar(sa.select(sa.func.count()).select_from(tables.jobs)) == 0
                invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
                assert connection.exec_driver_sql(invalid).scalar() == 0


@pytest.mark.e2e
def test_a_process_that_waits_too_long_for_a_migration_says_so(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.store.MIGRATION_SECONDS", 0.0)
    config = settings(tmp_path, postgres_server.database())
    with (
        closing(Store(config, prepare=False)) as store,
        store.migrating(),
        pytest.raises(DatabaseDown, match="another process is migrating it"),
    ):
        Store(config)
    Store(config).close()


# ---- assets in an object store ---------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_files_in_an_object_store_are_seen_and_gone_for_every_host_at_once(bucket: str, tmp_path: Path) -> None:
    one, two = (Assets(settings(tmp_path / name, assets={"url": bucket})) for name in ("one", "two"))
    assert two.names() == []
    with one.folder("job/1") as folder:
        (folder / "a").write_bytes(bytes(range(256)) * 40)
    two.put("job/input/b", b"two")
    assert (two.names(), two.read("job/1/a"), one.read("job/input/b")) == (["job"], bytes(range(256)) * 40, b"two")
    with two.open("job/1/a") as stream:
        stream.seek(300)
        assert stream.read(3) == bytes([44, 45, 46])
    one.move("job/1", "quarantine/then-job/1")
    assert (two.names("job"), two.names("quarantine/then-job/1")) == (["input"], ["a"])
    one.remove("job")
    two.remove("job")
    assert (one.jobs(), two.names()) == ([], ["quarantine"])
    with pytest.raises(NotFound, match=r"stored by a host whose assets\.url is not s3://"):
        two.read("job/1/a")


@pytest.mark.e2e
def test_an_object_store_is_probed_and_left_as_it_was(bucket: str, tmp_path: Path) -> None:
    assets = Assets(settings(tmp_path, assets={"url": bucket}))
    assets.probe("probe")
    assert assets.jobs() == []


@pytest.mark.e2e
def test_ended_jobs_are_deleted_with_their_objects(bucket: str, tmp_path: Path) -> None:
    config = settings(tmp_path, assets={"url": bucket, "keep_days": 1})
    with client(config) as jobs:
        job_store = JobStore(jobs.store, "one", "one-1", 3, time.time)
        job = jobs.submit(JobRequest(prompt="a blue rocket"))
        jobs.assets.put(f"{job.id}/1/asset.ply", b"ply")
        claim = job_store.claim(job.id)
        assert claim
        job_store.end(claim, JobResult("DONE", attempt=1, outcome="passed", score=0.5, gaussians=7))
        clock, guard = (lambda: time.time() + 2 * DAY), ClockGuard(jobs.store, DAY, time.time)
        later = Retention(jobs.store, jobs.assets, config.assets, clock, guard, lambda _ids: None)
        assert (jobs.assets.jobs(), later.sweep(), jobs.assets.jobs()) == ([job.id], 1, [])


@pytest.mark.e2e
@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(StorageDown, match=r"s3://no-such-bucket/x/probe/probe: cannot be stored: .*not exist"):
            Assets(settings(tmp_path, assets={"url": "s3://no-such-bucket/x"})).probe("probe")


@pytest.mark.e2e
@pytest.mark.usefixtures("bucket")
def test_a_store_that_cannot_be_reached_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: in this one there is a connection to the store already."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("SPLATGATE__ASSETS__URL", "s3://splats/x")
    code = "from app.jobs.assets import *; from app.config import *; Assets(load_config()).put('job/x', b'x')"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    said = tried.stderr.splitlines()[-1]
    assert said.startswith("app.errors.StorageDown: assets: s3://splats/x/job/x: cannot be stored: Could not connect")
    assert "check assets.url" in said
    assert SECRET not in tried.stderr


@pytest.mark.parametrize("url", ["nonsense://bucket", "gs://bucket/path"])
def test_a_storage_of_a_kind_that_is_not_here_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"assets\.url {url}"):
        Assets(settings(tmp_path, assets={"url": url}))


@pytest.mark.e2e
def test_a_web_process_that_could_not_store_anything_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATGATE__ASSETS__URL", "nonsense://me:secret@bucket")
    started = subprocess.run([sys.executable, "-m", "app.web.server"], capture_output=True, text=True, timeout=300)
    assert started.returncode == 1
    line = started.stderr.splitlines()[-1]
    assert line.startswith("error: assets.url nonsense://bucket: no such kind of storage")
    assert "secret" not in started.stderr


def test_a_url_is_shown_without_what_may_be_a_password() -> None:
    assert shown("ftp://user:secret@host/a?token=secret") == "ftp://host/a"
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"
    assert shown("/mnt/shared") == "/mnt/shared"


# ---- splatgate doctor ------------------------------------------------------------------------------------------------


def shared_facts(config: Config) -> dict[str, Fact]:
    return {fact.what: fact for fact in shared(config)}


@pytest.mark.e2e
def test_the_doctor_tries_what_hosts_share(bucket: str, tmp_path: Path, postgres_server: Server) -> None:
    url = postgres_server.database()
    facts = shared_facts(settings(tmp_path, url, assets={"url": bucket}))
    assert [fact.problem for fact in facts.values()] == ["", ""]
    assert facts["assets"].found == f"{bucket} can be written and read"
    alone = shared_facts(settings(tmp_path, url))["assets"]
    assert (alone.blocking, "no other host" in alone.problem) == (False, True)


@pytest.mark.e2e
@pytest.mark.usefixtures("bucket")
def test_the_doctor_reports_a_database_and_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    nowhere = settings(tmp_path, f"postgresql://me:{PASSWORD}@127.0.0.1:1/none", assets={"url": "s3://no-such-bucket"})
    facts = shared_facts(nowhere)
    assert [fact.blocking for fact in facts.values()] == [True, True]
    assert "no-such-bucket" in facts["assets"].problem
    assert PASSWORD not in str(facts)

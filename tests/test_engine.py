"""Real engines with real jobs: their results, and what happens to a job when its engine is killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from _damage import DAMAGES
from dbos import DBOSClient
from hosts import Server, broken_disk, client, host, postgres_server, settings, sqlite_file
from service import PATIENCE, wait_until

from app.certificate import Certificate
from app.child import NO_DATABASE
from app.config import Config
from app.engine.crash_trace import CrashTrace
from app.engine.engine import Engine
from app.engine.gpu_errors import STICKY, is_sticky
from app.engine.guard import Guard
from app.engine.instance import Instance
from app.errors import SelfTestFailed, StorageDown
from app.identity import DeviceTaken, node_id, take_lock
from app.jobs import tables
from app.jobs.client import Jobs
from app.jobs.heartbeats import Heartbeat
from app.jobs.job_store import JobStore
from app.jobs.queue import JobQueue
from app.jobs.records import Engine as EngineRow
from app.jobs.records import Job, JobRequest
from app.jobs.steps import Steps
from app.jobs.store import APPLICATION, QUEUE
from app.jobs.workflow import EngineHooks, Worker
from app.pipeline import load_stages
from app.selftest import self_test
from app.splat.files import decode_splat
from app.splat.model import Splat
from app.splat.ply import encode_ply
from app.stage import Stage
from app.stages import shapes

__all__ = ["postgres_server", "sqlite_file"]  # fixtures

ROCKET = JobRequest(prompt="a blue rocket")
STRICT = {"threshold": 1.0, "min_gaussians": 1_000}
"""Refuses everything, so that a job takes all its attempts."""

SMALL = {"shapes": {"gaussians": 1_000}, "render": {"size": 32}}

Make = Callable[..., Config]


@pytest.fixture(params=["sqlite", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Settings of one service on a new database of either kind; folder: of the host."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").database()
        return lambda folder="one", **sections: settings(tmp_path / folder, url, **sections)
    file = shutil.copy(request.getfixturevalue("sqlite_file"), tmp_path / "shared.db")
    return lambda folder="one", **sections: settings(tmp_path / folder, f"sqlite:///{file}", **sections)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """A service that is left alone."""
    config = settings(tmp_path_factory.mktemp("served"))
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        yield jobs


def two_hosts(server: Server, folder: Path, **sections: dict[str, object]) -> tuple[Config, Config]:
    """Two data folders, one database, one place for the assets."""
    shared = sections | {"assets": {"url": str(folder / "assets")}}
    url = server.database()
    return settings(folder / "one", url, **shared), settings(folder / "two", url, **shared)


def read(jobs: Jobs, id: str, name: str) -> bytes:
    asset = jobs.open_asset(id, name)
    with asset.stream as stream:
        data = stream.read()
    assert (asset.size, asset.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return data


# ---- jobs of every kind ----------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_prompt_becomes_a_judged_splat_with_all_its_files(served: Jobs) -> None:
    job = served.wait(served.submit(replace(ROCKET, seed=3)).id, 60)
    assert (job.state, job.outcome, job.gaussians, job.error) == ("DONE", "passed", 3_000, "")
    assert job.assets == ("asset.ply", "asset.spz", "certificate.json", "views.png")
    assert len(decode_splat(read(served, job.id, "asset.ply"), 10_000)) == 3_000
    certificate = Certificate.model_validate_json(read(served, job.id, "certificate.json"))
    assert (certificate.prompt, certificate.seed, certificate.verdict.outcome) == ("a blue rocket", 3, "passed")
    assert certificate.assets[0].sha256 == served.open_asset(job.id, "asset.ply").sha256
    stages = [time.stage for time in served.statistics.stage_times(0, 1_000) if time.job == job.id]
    assert stages == ["picture", "splat", "repair", "render", "score", "files"]


@pytest.mark.e2e
def test_the_same_request_gives_the_same_bytes(served: Jobs) -> None:
    first, second = (served.wait(served.submit(ROCKET).id, 60) for _ in range(2))
    assert read(served, first.id, "asset.ply") == read(served, second.id, "asset.ply")


@pytest.mark.e2e
def test_a_prompt_of_another_world_fails_with_the_reason(served: Jobs) -> None:
    job = served.wait(served.submit(JobRequest(prompt="xyzzy plugh")).id, 60)
    assert job.state == "FAILED"
    assert "xyzzy" in job.error
    assert job.assets == ()
    assert job.id not in served.assets.jobs()


@pytest.mark.e2e
def test_a_given_splat_is_validated_as_it_is(served: Jobs) -> None:
    splat = encode_ply(shapes.Shapes(shapes.ShapesParams(3_000)).build("a red cube", None, 0))
    job = served.wait(served.submit(JobRequest(kind="validate", prompt="a red cube", splat=splat)).id, 60)
    verdict = json.loads(read(served, job.id, "verdict.json"))
    assert (job.state, job.outcome, verdict["outcome"], verdict["findings"]) == ("DONE", "passed", "passed", [])
    assert verdict["score"]["value"] == pytest.approx(job.score)


@pytest.mark.e2e
def test_a_damaged_splat_is_repaired(served: Jobs) -> None:
    whole = shapes.Shapes(shapes.ShapesParams(3_000)).build("a red cube", None, 0)
    name, damage = next(iter(DAMAGES.items()))
    job = served.wait(
        served.submit(JobRequest(kind="repair", splat=encode_ply(damage(whole, np.random.default_rng(0))))).id,
        60,
    )
    report = json.loads(read(served, job.id, "report.json"))
    assert job.assets == ("asset.ply", "input.ply", "report.json"), job
    assert (report["changed"], report["findings_left"]) == (True, []), name
    assert len(decode_splat(read(served, job.id, "asset.ply"), 10_000)) == report["gaussians_out"]


def giants(count: int) -> bytes:
    """A PLY of Gaussians that each fill the picture and hide nothing behind them."""
    rng = np.random.default_rng(0)
    means, quats, log_scales = (rng.normal(0, 0.3, (count, size)) for size in (3, 4, 3))
    return encode_ply(Splat(means, quats, log_scales, rng.normal(-3, 1.5, count), np.zeros((count, 1, 3))))


@pytest.mark.e2e
def test_a_splat_that_takes_minutes_to_render_is_refused_and_delays_no_other_job(served: Jobs) -> None:
    ordered = served.submit(JobRequest(kind="validate", prompt="a red cube", splat=giants(30_000)))
    behind = served.submit(ROCKET)
    job = served.wait(ordered.id, 120)
    assert (job.state, job.outcome, job.score) == ("DONE", "refused", None)
    assert re.match(
        r"too costly to draw: 2\d,\d{3} Gaussians lie over each tile, limits.max_overdraw is 20,000$", job.reasons[0]
    )
    assert job.assets == ("input.ply", "verdict.json")
    assert json.loads(read(served, job.id, "verdict.json"))["reasons"] == list(job.reasons)
    assert served.wait(behind.id, 120).outcome == "passed"


@pytest.mark.e2e
def test_a_repaired_splat_that_would_be_drawn_for_minutes_has_no_film(served: Jobs) -> None:
    repaired = served.wait(served.submit(JobRequest(kind="repair", splat=giants(30_000))).id, 120)
    assert repaired.state == "DONE"
    film = served.wait(served.submit(JobRequest(kind="turntable", source=repaired.id)).id, 120)
    assert film.state == "FAILED"
    assert "too costly to draw" in film.error


@pytest.mark.e2e
def test_bytes_that_are_no_splat_fail_their_own_job_only(served: Jobs) -> None:
    job = served.wait(served.submit(JobRequest(kind="repair", splat=b"ply\nnonsense")).id, 60)
    assert job.state == "FAILED"
    assert served.wait(served.submit(ROCKET).id, 60).outcome == "passed"


@pytest.mark.e2e
def test_a_turntable_is_a_file_of_the_job_that_it_shows(tmp_path: Path) -> None:
    config = settings(tmp_path, turntable={"size": 64, "seconds": 0.2})
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        shown = jobs.wait(jobs.submit(ROCKET).id, 60)
        film = jobs.wait(jobs.submit(JobRequest(kind="turntable", source=shown.id)).id, 60)
        assert film.state == "DONE", film.error
        assert read(jobs, shown.id, "turntable.mp4")[4:8] == b"ftyp"
        assert jobs.get(shown.id).version > shown.version


@pytest.mark.e2e
def test_jobs_run_by_priority_and_then_in_the_order_of_submission(make: Make) -> None:
    config = make()
    with host(config) as here, client(config) as jobs:
        ids = [jobs.submit(replace(ROCKET, priority=priority)).id for priority in (10, 10, 50, 1, 10, 1)]
        here.start_ready()
        ended = sorted((jobs.wait(id, 120) for id in ids), key=lambda job: job.finished or 0)
        assert [ids.index(job.id) for job in ended] == [3, 5, 0, 1, 4, 2]


@pytest.mark.e2e
def test_concurrent_jobs_start_in_the_order_of_their_positions(make: Make) -> None:
    config = make(**SMALL)
    with host(config) as here, client(config) as jobs:
        with ThreadPoolExecutor(8) as pool:
            orders = [replace(ROCKET, priority=(10, 1)[index % 3 == 2]) for index in range(16)]
            ids = [job.id for job in pool.map(jobs.submit, orders)]
        expected = sorted(ids, key=lambda id: jobs.forecasts()[id].position or 0)
        assert [jobs.forecasts()[id].position for id in expected] == list(range(1, 17))
        here.start_ready()
        assert one_at_a_time([jobs.wait(id, 120) for id in expected]) == expected


@pytest.mark.e2e
def test_an_idle_engine_starts_one_job_at_a_time_in_the_order_of_submission(make: Make) -> None:
    """However many jobs DBOS hands out at once."""
    config = make(**SMALL)
    with host(config) as here, client(config) as jobs:
        engine = here.start_ready()
        hand_out(jobs, 4)
        for _ in range(3):
            ids = [jobs.submit(ROCKET).id for _ in range(6)]
            assert one_at_a_time([jobs.wait(id, 120) for id in ids]) == ids
        assert here.stop(engine) == 0
        with jobs.store.reading() as connection:
            assert set(connection.exec_driver_sql("SELECT starts FROM jobs").scalars()) == {1}


@pytest.mark.e2e
def test_a_stopped_engine_returns_the_jobs_that_it_had_not_started(make: Make) -> None:
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        engine = here.start_ready()
        hand_out(jobs, 4)
        ids = [jobs.submit(replace(ROCKET, attempts=5)).id]
        wait_until(lambda: jobs.get(ids[0]).attempt == 1, "the first attempt has begun")
        ids += [jobs.submit(ROCKET).id for _ in range(3)]
        wait_until(lambda: jobs.get(ids[0]).attempt == 2, "the second attempt has begun")
        jobs.cancel(ids[1])
        assert here.stop(engine) == 0
        assert [jobs.get(id).state for id in ids] == ["QUEUED", "CANCELLED", "QUEUED", "QUEUED"]
        with jobs.store.reading() as connection:
            assert set(connection.exec_driver_sql("SELECT starts FROM jobs").scalars()) == {0}
        here.start_ready()
        one_at_a_time([jobs.wait(id, 120) for id in ids if id != ids[1]])


@pytest.mark.e2e
def test_what_is_no_job_of_ours_keeps_no_other_waiting(make: Make) -> None:
    config = make(**SMALL)
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        stranger = DBOSClient(system_database_engine=jobs.store.engine)
        stranger.enqueue(
            {"queue_name": QUEUE, "workflow_name": "of another", "priority": 1, "app_version": APPLICATION}
        )
        assert jobs.wait(jobs.submit(ROCKET).id, 120).state == "DONE"
        assert "of another" in here.log


def hand_out(jobs: Jobs, at_once: int) -> None:
    """Has DBOS hand that many jobs to each engine at once."""
    queue = DBOSClient(system_database_engine=jobs.store.engine).retrieve_queue(QUEUE)
    assert queue
    queue.set_worker_concurrency(at_once)


def one_at_a_time(ended: list[Job]) -> list[str]:
    """When a job was started, at most the files of its predecessor were left to write. Returns their ids in the order
    of their starts."""
    assert {job.state for job in ended} == {"DONE"}
    begun = sorted(ended, key=lambda job: job.started or 0)
    for before, after in zip(begun, begun[2:], strict=False):
        assert (before.finished or 0) <= (after.started or 0)
    return [job.id for job in begun]


# ---- being killed ----------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_the_job_of_a_killed_engine_continues_after_its_last_finished_step(make: Make) -> None:
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        engine = here.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=4))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        here.kill(engine)
        assert jobs.get(job.id).state == "RUNNING"
        here.start_ready()
        ended = jobs.wait(job.id, 120)
        assert (ended.state, ended.outcome) == ("DONE", "refused")
        finished = Certificate.model_validate_json(read(jobs, job.id, "certificate.json"))
        assert finished.attempt == ended.attempt
    drawn = [line.rpartition("seed ")[2] for line in here.log.splitlines() if f"job={job.id} [1/4] Generating" in line]
    assert drawn[0].startswith("0)")
    assert sum(line.startswith("0)") for line in drawn) == 1, "the first attempt was done again"
    assert {line[0] for line in drawn} == set("0123")


@pytest.mark.e2e
def test_a_job_whose_engine_died_while_its_files_were_written_is_done_again(make: Make) -> None:
    """DBOS considers it done then, because the engine has begun the next one."""
    with host(make(shapes={"gaussians": 200_000}, render={"size": 1_024})) as here, client(here.config) as jobs:
        engine = here.start_ready()
        job = jobs.submit(ROCKET)
        wait_until(lambda: jobs.get(job.id).stage == Stage.FILES, "its files are being written")
        here.kill(engine)
        assert jobs.get(job.id).state == "RUNNING"
        here.start_ready()
        ended = jobs.wait(job.id, 120)
        assert (ended.state, ended.outcome) == ("DONE", "passed"), here.log
        issued = Certificate.model_validate_json(read(jobs, job.id, "certificate.json"))
        for asset in issued.assets:
            assert hashlib.sha256(read(jobs, job.id, asset.name)).hexdigest() == asset.sha256
        assert len(jobs.statistics.results(0)) == 1


@pytest.mark.e2e
def test_the_next_job_begins_while_the_files_of_one_are_written(make: Make) -> None:
    with host(make(shapes={"gaussians": 200_000}, render={"size": 1_024})) as here, client(here.config) as jobs:
        here.start_ready()
        ids = [jobs.submit(replace(ROCKET, seed=seed)).id for seed in range(6)]
        ended = [jobs.wait(id, 120) for id in ids]
        assert {job.outcome for job in ended} == {"passed"}
        assert [job.id for job in sorted(ended, key=lambda job: job.started or 0)] == ids
        assert any((after.started or 0) < (job.finished or 0) for job, after in pairwise(ended))


@pytest.mark.e2e
def test_only_the_files_of_the_chosen_attempt_are_written(make: Make) -> None:
    with host(make(validate=STRICT)) as here, client(here.config) as jobs:
        here.start_ready()
        job = jobs.wait(jobs.submit(replace(ROCKET, attempts=3)).id, 120)
        assert (job.outcome, here.log.count("Final stats")) == ("refused", 1)
        assert Certificate.model_validate_json(read(jobs, job.id, "certificate.json")).attempt == job.attempt


@pytest.mark.e2e
def test_a_step_that_the_database_cannot_record_is_done_again_and_fails_no_job(
    postgres_server: Server, tmp_path: Path
) -> None:
    """The database's disk fails at that moment. (Where it is full DBOS itself waits, on PostgreSQL.)"""
    config = settings(tmp_path, postgres_server.database())
    with host(config) as here, client(config) as jobs:
        engine = here.start_ready()
        with broken_disk(jobs, "INSERT", "dbos.operation_outputs", "58030"):
            job = jobs.submit(ROCKET)
            engine.join(PATIENCE)
        assert engine.exitcode == NO_DATABASE, here.log
        assert jobs.get(job.id).state == "QUEUED"
        here.start_ready()
        assert jobs.wait(job.id, PATIENCE).outcome == "passed"


@pytest.mark.e2e
def test_a_database_without_an_encoding_will_do(postgres_server: Server, tmp_path: Path) -> None:
    config = settings(tmp_path, postgres_server.database_without_encoding())
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        job = jobs.wait(jobs.submit(JobRequest(prompt="a blue rocket, größer")).id, PATIENCE)
        assert (job.state, job.prompt) == ("FAILED", "a blue rocket, größer")
        assert "'größer'" in job.error
        assert jobs.wait(jobs.submit(ROCKET).id, PATIENCE).outcome == "passed"


@pytest.mark.e2e
def test_an_engine_waits_for_its_database_and_continues_when_it_is_there(tmp_path: Path) -> None:
    config = settings(tmp_path)
    broken = tmp_path / "splatgate.db"
    with host(config) as here:
        broken.write_bytes(os.urandom(8192))
        engine = here.start()
        wait_until(lambda: "the engine waits: database" in here.log, "it says what it waits for", lambda: here.log)
        broken.unlink()
        wait_until(lambda: "READY on" in here.log, "it goes on", lambda: here.log)
        assert engine.is_alive()
        assert here.log.count("the engine waits") == 1


@pytest.mark.e2e
def test_an_engine_without_room_on_the_disk_starts_no_job_and_says_so(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with host(settings(tmp_path, limits={"min_free_mb": 1 << 40})) as here, client(config) as jobs:
        job = jobs.submit(ROCKET)
        here.start_ready()
        wait_until(lambda: f"waits: {tmp_path}: its disk is full" in here.log, "it says what is wrong")
        wait_until(lambda: "its disk is full" in jobs.engines()[0].why, "it reports it")
        assert jobs.get(job.id).state == "QUEUED"


def test_an_engine_whose_disk_is_full_takes_no_job_until_there_is_room(idle: Engine) -> None:
    with client(idle.config) as jobs:
        roomy = idle.config
        idle.storage.config = settings(Path(roomy.serve.data), limits={"min_free_mb": 1 << 40})
        assert not idle.storage.is_up()
        assert "its disk is full" in jobs.engines()[0].why
        idle.storage.config = roomy
        assert idle.storage.is_up()
        assert jobs.engines()[0].why == ""


@pytest.mark.e2e
def test_jobs_wait_while_their_files_cannot_be_stored_and_none_fails(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    config = settings(tmp_path, assets={"url": str(store)}, shapes={"gaussians": 40_000}, jobs={"max_deaths": 1})
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        ids = [jobs.submit(replace(ROCKET, seed=seed)).id for seed in range(5)]
        wait_until(lambda: jobs.get(ids[0]).state != "QUEUED", "the first job has begun")
        store.rename(tmp_path / "away")
        store.write_text("a file in the place of the folder")
        wait_until(lambda: f"{store}" in here.log, "it says what is wrong", lambda: here.log)
        with pytest.raises(StorageDown):
            jobs.submit(ROCKET)
        assert {jobs.get(id).state for id in ids} <= {"QUEUED", "RUNNING", "DONE"}
        store.unlink()
        (tmp_path / "away").rename(store)

        def all_done() -> bool:
            if not here.running[-1].is_alive():  # a job was writing: the supervisor would start the engine again
                here.start()
            return {jobs.get(id).state for id in ids} == {"DONE"}

        wait_until(all_done, "every job is done", lambda: here.log)


@pytest.mark.e2e
def test_another_host_takes_over_the_jobs_of_a_lost_one(postgres_server: Server, tmp_path: Path) -> None:
    one, two = two_hosts(postgres_server, tmp_path, validate=STRICT, shapes={"gaussians": 40_000})
    with host(one) as first, host(two) as second, client(one) as jobs:
        processes = {f"{node_id(Path(each.config.serve.data))}-cpu": each.start_ready() for each in (first, second)}
        job = jobs.submit(replace(ROCKET, attempts=6))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        dead = str(jobs.get(job.id).engine)
        first.kill(processes[dead])
        ended = jobs.wait(job.id, 120)
        assert (ended.state, ended.outcome) == ("DONE", "refused")
        assert ended.engine in processes.keys() - {dead}
        assert {engine.name: engine.state for engine in jobs.engines()}[dead] == "LOST"
        assert len(jobs.statistics.results(0)) == 1


@pytest.mark.e2e
def test_an_engine_that_lost_its_job_takes_the_next_and_the_lost_one_when_its_new_owner_dies(make: Make) -> None:
    """The engine was declared lost although alive. The test plays the other engine, which has the job and is slow."""
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=6))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        other = JobStore(jobs.store, "other", "other-1", 3, time.time)
        with beating(jobs, "other-1", "other"):  # first, or the engine takes the job back
            with jobs.store.reading() as connection:
                instance = connection.scalar(sa.select(tables.jobs.c.instance).where(tables.jobs.c.id == job.id))
            assert other.put_back(job.id, str(instance)) == 1
            schema = "" if jobs.store.sqlite else "dbos."
            with jobs.store.writing() as connection:
                taken = f"UPDATE {schema}workflow_status SET executor_id = 'other-1', owner_xid = 'other'"
                connection.exec_driver_sql(f"{taken} WHERE workflow_uuid = '{job.id}'")
            assert other.claim(job.id)
            assert jobs.wait(jobs.submit(ROCKET).id, 60).outcome == "refused"
            assert jobs.get(job.id).engine == "other", "while the other one lives"
        ended = jobs.wait(job.id, 120)
        assert (ended.outcome, ended.engine == "other") == ("refused", False)


@contextmanager
def beating(jobs: Jobs, id: str, name: str) -> Iterator[None]:
    """An engine that only reports that it lives."""
    heartbeat, ended = Heartbeat(jobs.store, engine_row(id, name), time.time), threading.Event()

    def beat() -> None:
        while not ended.wait(0.2):
            heartbeat.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def engine_row(id: str, name: str) -> EngineRow:
    now = time.time()
    return EngineRow(id, name, "h", 1, "CPU", "BUSY", "", now, None, None, None, now, None, None)


@pytest.mark.e2e
def test_two_hosts_share_the_queue_and_run_nothing_twice(postgres_server: Server, tmp_path: Path) -> None:
    one, two = two_hosts(postgres_server, tmp_path)
    with host(one) as first, host(two) as second, client(one) as jobs:
        first.start_ready()
        second.start_ready()
        ids = [jobs.submit(replace(ROCKET, seed=seed)).id for seed in range(20)]
        ended = [jobs.wait(id, 120) for id in ids]
        assert {job.outcome for job in ended} == {"passed"}
        assert len({job.engine for job in ended}) == 2
        assert sorted(result.job for result in jobs.statistics.results(0)) == sorted(ids)


@pytest.mark.e2e
def test_an_engine_that_cannot_start_yet_keeps_no_job_of_its_predecessor_from_another(
    postgres_server: Server, tmp_path: Path
) -> None:
    one, two = two_hosts(postgres_server, tmp_path, validate=STRICT, shapes={"gaussians": 40_000})
    with host(one) as first, host(two) as second, client(one) as jobs:
        engine = first.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=6))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        first.kill(engine)
        lacking = {"profile": {"name": "full"}, "models": {"folder": str(tmp_path / "none")}}
        first.config = settings(Path(one.serve.data), one.database.url, **lacking)
        first.start()
        wait_until(lambda: "waits for models" in first.log, "the next one waits for models")
        second.start_ready()
        ended = jobs.wait(job.id, 120)
        assert (ended.outcome, ended.engine) == ("refused", f"{node_id(Path(two.serve.data))}-cpu")


@pytest.mark.e2e
def test_a_stop_that_meets_the_beginning_of_a_job_waits_for_it(make: Make) -> None:
    """Otherwise the process could exit between the claim and the work, and an orderly stop would count as a death."""
    begins, goes_on = threading.Event(), threading.Event()

    def clock() -> float:  # asked when the job is claimed
        begins.set()
        assert goes_on.wait(60)
        return time.time() + 100

    with client(make()) as jobs:
        job_store = JobStore(jobs.store, "one", "one-1", 3, clock)
        engine = EngineHooks(*[cast("Any", lambda *_: True)] * 5)
        worker = Worker(cast("Steps", None), job_store, JobQueue(jobs.store), jobs.assets, engine)
        late = jobs.submit(replace(ROCKET, deadline_seconds=1))
        thread = threading.Thread(target=worker.run, args=(late.id,))
        thread.start()
        assert begins.wait(60)
        assert not worker.drain(0.1)
        goes_on.set()
        assert worker.drain(60)
        thread.join(60)
        assert jobs.get(late.id).state == "EXPIRED"


@pytest.mark.e2e
def test_engine_and_waiting_caller_outlive_their_connections(postgres_server: Server, tmp_path: Path) -> None:
    """A restart of PostgreSQL."""
    config = settings(tmp_path, postgres_server.database())
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        assert jobs.wait(jobs.submit(ROCKET).id, 60).outcome == "passed"
        with jobs.store.reading() as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            ended = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}"
            assert connection.exec_driver_sql(ended).scalar_one() >= 1
        assert jobs.wait(jobs.submit(ROCKET).id, 90).outcome == "passed"


@pytest.mark.e2e
def test_a_claim_that_the_database_lost_is_made_again(make: Make) -> None:
    """As after a failover to a replica that lags behind: the engine keeps working, but its claim is gone."""
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=6))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        with jobs.store.writing() as connection:
            before = {"state": "QUEUED", "instance": None, "engine": None, "starts": 0}
            connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(**before))
        ended = jobs.wait(job.id, 120)
        assert (ended.state, ended.outcome) == ("DONE", "refused"), here.log
        assert len(jobs.statistics.results(0)) == 1
        assert "lost its claim" in here.log


@pytest.mark.e2e
def test_a_stage_that_hangs_dies_with_its_traceback_and_its_job_is_quarantined(make: Make) -> None:
    # large views take a hundred times the deadline: small ones were done before the watchdog's thread had its turn
    config = make(deadlines={"render": 0.001}, render={"size": 512}, jobs={"max_deaths": 2})
    with host(config) as here, client(config) as jobs:
        job = jobs.submit(ROCKET)
        for _ in range(2):
            process = here.start()
            process.join(120)
            assert process.exitcode == 1, here.log
        here.start_ready()
        ended = jobs.wait(job.id, 60)
        assert ended.state == "QUARANTINED"
        assert "died 2 times" in ended.error
        assert "Timeout (0:00:00.001000) at " in ended.error
        trace = Path(config.serve.data) / "engines" / "cpu.last-trace"
        assert "most recent call first" in trace.read_text()


@pytest.mark.e2e
def test_a_stopped_engine_finishes_its_stage_and_returns_its_job(make: Make) -> None:
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        engine = here.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=5))
        wait_until(lambda: jobs.get(job.id).attempt == 2, "the second attempt has begun")
        assert here.stop(engine) == 0
        assert jobs.get(job.id).state == "QUEUED"
        with jobs.store.reading() as connection:
            assert connection.exec_driver_sql("SELECT starts FROM jobs").scalar() == 0
        here.start_ready()
        assert jobs.wait(job.id, 120).outcome == "refused"


@pytest.mark.e2e
def test_an_engine_that_is_still_starting_ends_at_once(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with host(config) as here, client(config) as jobs:
        process = here.start()
        wait_until(lambda: [engine.state for engine in jobs.engines()] == ["STARTING"], "the engine has begun to load")
        assert here.stop(process) == -signal.SIGTERM
        assert "READY" not in here.log


@pytest.mark.e2e
def test_a_running_job_is_cancelled_between_two_stages(make: Make) -> None:
    config = make(validate=STRICT, shapes={"gaussians": 40_000})
    with host(config) as here, client(config) as jobs:
        here.start_ready()
        job = jobs.submit(replace(ROCKET, attempts=50))
        wait_until(lambda: jobs.get(job.id).state == "RUNNING", "the job runs")
        jobs.cancel(job.id)
        assert jobs.wait(job.id, 30).state == "CANCELLED"
        assert jobs.wait(jobs.submit(ROCKET).id, 60).outcome == "refused"


# ---- not becoming ready ----------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_one_device_has_one_engine(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with host(config) as here:
        here.start_ready()
        second = here.start()
        second.join(60)
        assert second.exitcode == 73
        assert "another engine has this device" in here.log


@pytest.mark.e2e
def test_a_self_test_that_scores_otherwise_keeps_the_engine_from_its_jobs(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with host(config) as here, client(config) as jobs:
        here.stop(here.start_ready())
        record = tmp_path / "selftest.json"
        record.write_text(json.dumps({key: score - 0.1 for key, score in json.loads(record.read_text()).items()}))
        process = here.start()
        process.join(60)
        (engine,) = jobs.engines()
        assert (process.exitcode, engine.state) == (72, "FAILED")
        assert "the weights are damaged or the device computes wrong results" in engine.why


def test_the_delivered_settings_score_what_they_always_scored(tmp_path: Path) -> None:
    """The constant in the code is what the real models score."""
    config = Config()
    tested = self_test(load_stages(config), config, "cpu", tmp_path / "record.json", lambda _line: None)
    assert tested.expected is not None


def test_a_self_test_without_a_validator_has_no_score(tmp_path: Path) -> None:
    config = settings(tmp_path, validate={"enabled": False})
    tested = self_test(load_stages(config), config, "cpu", tmp_path / "record.json", lambda _line: None)
    assert (tested.score, (tmp_path / "record.json").exists()) == (None, False)


def test_a_broken_record_of_the_self_test_is_named(tmp_path: Path) -> None:
    config, record = settings(tmp_path), tmp_path / "record.json"
    record.write_text("{")
    with pytest.raises(SelfTestFailed, match=r"record\.json.*remove it"):
        self_test(load_stages(config), config, "cpu", record, lambda _line: None)


# ---- the guard -------------------------------------------------------------------------------------------------------


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Engine]:
    """An engine that was not started."""
    with closing(Instance(settings(tmp_path), "cpu", "")) as instance:
        yield Engine(instance)


def guarded(idle: Engine) -> tuple[Guard, Steps]:
    steps = Steps(idle.config, load_stages(idle.config), idle.instance.job_store, idle.assets)
    return Guard(idle.instance, steps), steps


def test_out_of_memory_is_tried_once_more_with_waiting_models(idle: Engine) -> None:
    guard, steps = guarded(idle)
    before, calls = steps.stages, []

    def step() -> dict[str, object]:
        calls.append(steps.config.gpu.memory)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return {"done": True}

    assert guard.run(step) == {"done": True}
    assert calls == ["auto", "offload"]
    assert steps.stages is not before
    with pytest.raises(torch.OutOfMemoryError):
        guard.run(lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("again")))


def test_models_that_cannot_be_loaded_again_end_the_process(idle: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without models it would fail every job and still be READY."""

    def cannot(_config: Config) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    guard, _ = guarded(idle)
    monkeypatch.setattr("app.engine.guard.load_stages", cannot)
    child = os.fork()
    if not child:
        with suppress(BaseException):  # what comes out of here must not become a second test run
            guard.run(lambda: cannot(idle.config))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 72


@pytest.mark.parametrize("words", STICKY)
def test_errors_that_poison_the_gpu_are_known(words: str) -> None:
    assert is_sticky(RuntimeError(f"CUDA error: an {words} was encountered\nCompile with TORCH_USE_CUDA_DSA"))


@pytest.mark.parametrize("words", ["CUDA out of memory", "shape '[3]' is invalid", "expected Float"])
def test_errors_of_one_job_do_not_count_as_poison(words: str) -> None:
    assert not is_sticky(RuntimeError(words))


def test_a_poisoned_gpu_ends_the_process_at_once(idle: Engine) -> None:
    guard, _ = guarded(idle)
    child = os.fork()
    if not child:
        guard.run(lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal memory access was encountered")))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 70


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_a_host_keeps_its_name(tmp_path: Path) -> None:
    assert node_id(tmp_path) == node_id(tmp_path)


def test_a_lock_is_free_again_once_its_holder_is_gone(tmp_path: Path) -> None:
    held = take_lock(tmp_path / "lock")
    with pytest.raises(DeviceTaken):
        take_lock(tmp_path / "lock")
    held.close()
    take_lock(tmp_path / "lock").close()


@pytest.mark.parametrize(
    ("trace", "report"),
    [
        (
            "Timeout (0:02:00)!\nThread 0x1 (most recent call first):\n"
            '  File "/usr/lib/python3/threading.py", line 1 in wait\n'
            '  File "/opt/splatgate/app/splat/raster.py", line 30 in render\n',
            "Timeout (0:02:00) at raster.py, line 30 in render",
        ),
        (
            "Timeout (0:02:00) of job 01a2 in thread 0x00000001!\nCurrent thread 0x00000003 (most recent call first):\n"
            '  File "/opt/splatgate/app/engine/crash_trace.py", line 1 in _expire\n'
            "\nThread 0x00000001 (most recent call first):\n"
            '  File "/usr/lib/python3/threading.py", line 1 in wait\n'
            '  File "/opt/splatgate/app/splat/raster.py", line 30 in render\n'
            "\nThread 0x00000002 (most recent call first):\n"
            '  File "/opt/splatgate/app/engine/instance.py", line 1 in _beat\n',
            "Timeout (0:02:00) at raster.py, line 30 in render",
        ),
        (
            "Fatal Python error: Segmentation fault\n\nThread 0x00000002 (most recent call first):\n"
            '  File "/opt/splatgate/app/engine/instance.py", line 1 in _beat\n'
            "\nCurrent thread 0x00000001 (most recent call first):\n"
            '  File "/usr/lib/python3/ctypes.py", line 1 in call\n'
            "\nExtension modules: numpy\n",
            "Fatal Python error: Segmentation fault at ctypes.py, line 1 in call",
        ),
        ("CUDA error: an illegal memory access\n", "CUDA error: an illegal memory access"),
    ],
)
def test_a_crash_report_is_one_line_with_the_place_of_the_thread_that_failed(
    tmp_path: Path, trace: str, report: str
) -> None:
    (tmp_path / "cpu.trace").write_text(trace)
    for expected in (report, ""):
        with closing(CrashTrace(tmp_path / "cpu.trace")) as read:
            assert read.report == expected


BUSY = """
def deep(n):
    return n and deep(n - 1)

while True:
    deep(50)
"""
HOLDS_THE_GIL = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"


def test_the_trace_names_the_job_whose_stage_was_late_and_each_thread_has_its_own_deadline(tmp_path: Path) -> None:
    code = """
import sys, threading
from pathlib import Path
from app.engine.crash_trace import CrashTrace
trace = CrashTrace(Path(sys.argv[1]))
def write_files():
    trace.set_deadline(0.2, "a" * 32)
    threading.Event().wait()
threading.Thread(target=write_files, daemon=True).start()
trace.set_deadline(60, "b" * 32)
trace.set_deadline(None)
threading.Event().wait()
"""
    path = tmp_path / "cpu.trace"
    assert subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False).returncode == 1
    with closing(CrashTrace(path)) as read:
        assert read.job == "a" * 32
        assert read.report.startswith("Timeout (0:00:00.200000) at threading.py, line ")


@pytest.mark.e2e
@pytest.mark.parametrize("hang", [BUSY, HOLDS_THE_GIL], ids=["busy", "holds the GIL"])
def test_a_process_past_its_deadline_leaves_the_place_whatever_it_does(tmp_path: Path, hang: str) -> None:
    """A busy thread's frames change while they are written, which once crashed the process that wrote them."""
    deadline = "from pathlib import Path; from app.engine import crash_trace; crash_trace.GRACE_SECONDS = 0.2\n"
    deadline += "import sys; trace = crash_trace.CrashTrace(Path(sys.argv[1])); trace.set_deadline(0.01)\n"
    for turn in range(10):
        path = tmp_path / f"{turn}.trace"
        code = subprocess.run([sys.executable, "-c", deadline + hang, str(path)], timeout=60, check=False).returncode
        assert code == 1, path.read_text()
        with closing(CrashTrace(path)) as read:
            assert read.report.startswith("Timeout (0:00:00")
            assert " at <string>, line " in read.report or " at __init__.py, line " in read.report

"""Jobs without an engine: what is promised to a caller, kept by the database, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import errno
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hosts import Server, broken_disk, client, postgres_server, settings, sqlite_file
from hypothesis import given
from hypothesis import strategies as st
from service import wait_until

from app.config import Config
from app.errors import (
    BadInput,
    ConfigError,
    Conflict,
    DatabaseDown,
    KeyReused,
    NotFound,
    QueueFull,
    StorageDown,
    Unavailable,
)
from app.gate import MetricValue
from app.jobs import tables
from app.jobs.assets import Assets, Stored
from app.jobs.client import Jobs
from app.jobs.clock import DatabaseClock
from app.jobs.clock_guard import DAY, ClockGuard
from app.jobs.database import SERVER_TIMEOUTS, database_url
from app.jobs.facts import read_facts, set_fact
from app.jobs.file_writer import FileWriter
from app.jobs.heartbeats import Heartbeat, Liveness, list_engines
from app.jobs.job_request import new_id
from app.jobs.job_store import Claim, ClaimLost, JobResult, JobStore, StageSeconds
from app.jobs.listing import Listing
from app.jobs.queue import SEQUENCES, JobQueue
from app.jobs.reconciler import Reconciler
from app.jobs.records import Engine, JobRequest
from app.jobs.retention import Retention
from app.jobs.store import Store
from app.reason import Reason
from app.stage import Stage
from app.writing import replacing

__all__ = ["postgres_server", "sqlite_file"]  # fixtures

ROCKET = JobRequest(prompt="a blue rocket")
DONE = JobResult("DONE", attempt=1, outcome="passed", score=0.5, gaussians=7)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """An empty database of either kind."""
    if request.param == "postgresql":
        return settings(tmp_path, request.getfixturevalue("postgres_server").database())
    shutil.copy(request.getfixturevalue("sqlite_file"), tmp_path / "splatgate.db")
    return settings(tmp_path)


@pytest.fixture
def jobs(config: Config) -> Iterator[Jobs]:
    with client(config) as opened:
        yield opened


def job_store(jobs: Jobs, engine: str = "one", now: float | None = None) -> JobStore:
    return JobStore(jobs.store, engine, f"{engine}-1", 3, (lambda: now) if now else time.time)


def begun(jobs: Jobs, engine: str = "one", owner: str | None = None) -> Claim:
    claim = job_store(jobs, engine).claim(jobs.submit(ROCKET, owner=owner).id)
    assert claim
    return claim


def engine_row(name: str, now: float, instance: str = "1") -> Engine:
    """An engine that is ready."""
    return Engine(f"{name}-{instance}", name, "h", 1, "CPU", "READY", "", now, None, None, None, now, None, None)


# ---- what a caller may rely on ---------------------------------------------------------------------------------------


def test_an_acknowledged_job_is_there_for_every_other_process(config: Config, jobs: Jobs) -> None:
    job = jobs.submit(replace(ROCKET, seed=7, priority=3, attempts=2))
    with client(config) as other:
        assert other.get(job.id) == job
    assert (job.state, job.seed, job.priority, job.attempts, job.profile) == ("QUEUED", 7, 3, 2, "shapes")


def test_a_job_and_its_place_in_the_queue_are_one(jobs: Jobs) -> None:
    ids = {jobs.submit(ROCKET).id for _ in range(3)}
    schema = "" if jobs.store.sqlite else "dbos."
    with jobs.store.reading() as connection:
        rows = connection.exec_driver_sql(f"SELECT workflow_uuid, status FROM {schema}workflow_status").all()
    assert {tuple(row) for row in rows} == {(id, "ENQUEUED") for id in ids}


def test_the_same_key_and_body_are_the_same_job(jobs: Jobs) -> None:
    first = jobs.submit(ROCKET, key="k")
    assert jobs.submit(ROCKET, key="k") == first
    assert jobs.submit(ROCKET).id != first.id


def test_the_same_key_with_another_body_is_refused(jobs: Jobs) -> None:
    jobs.submit(ROCKET, key="k")
    with pytest.raises(KeyReused, match="take a new key"):
        jobs.submit(replace(ROCKET, seed=1), key="k")


def test_eight_callers_with_one_key_at_once_get_one_job(jobs: Jobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {job.id for job in pool.map(lambda _: jobs.submit(ROCKET, key="k"), range(32))}
    assert len(ids) == 1
    assert jobs.statistics.counts() == {"QUEUED": 1}


def test_callers_that_share_get_the_job_that_is_under_way_and_put_its_deadline_off(jobs: Jobs) -> None:
    order = replace(ROCKET, deadline_seconds=300.0)
    first = jobs.submit(order, shared=True)
    again = jobs.submit(order, shared=True)
    assert again.id == first.id
    assert (again.deadline or 0) > (first.deadline or 0)
    assert jobs.submit(replace(order, seed=1), shared=True).id != first.id
    assert jobs.submit(order).id != first.id, "who does not share has a job of its own"
    assert jobs.submit(order, shared=True, key="k").id != first.id, "so has a key"


def test_nobody_shares_a_job_that_has_ended_or_was_cancelled(jobs: Jobs) -> None:
    order = replace(ROCKET, deadline_seconds=300.0)
    first = jobs.submit(order, shared=True)
    jobs.cancel(first.id)
    second = jobs.submit(order, shared=True)
    assert second.id != first.id
    assert job_store(jobs).claim(second.id)
    assert jobs.submit(order, shared=True).id == second.id, "it runs"
    jobs.cancel(second.id)
    assert jobs.submit(order, shared=True).id != second.id, "it still runs, but was told to stop"


def test_a_shared_picture_is_stored_once_and_needs_no_room_in_a_full_queue(tmp_path: Path) -> None:
    order = JobRequest(picture=b"\x89PNG\r\n\x1a\n not more than a start")
    with client(settings(tmp_path, jobs={"max_queued": 1})) as jobs, ThreadPoolExecutor(4) as pool:
        ids = {job.id for job in pool.map(lambda _: jobs.submit(order, shared=True), range(8))}
        assert jobs.assets.jobs() == list(ids)
        assert len(ids) == 1


def test_a_picture_that_came_twice_with_one_key_is_stored_once(jobs: Jobs) -> None:
    order = JobRequest(picture=b"\x89PNG\r\n\x1a\n not more than a start")
    with ThreadPoolExecutor(4) as pool:
        ids = {job.id for job in pool.map(lambda _: jobs.submit(order, key="k"), range(8))}
    assert jobs.assets.jobs() == list(ids)


def test_a_full_queue_says_when_to_come_back_from_the_measured_median(tmp_path: Path) -> None:
    with client(settings(tmp_path, jobs={"max_queued": 2})) as jobs:
        for seconds in (4.0, 7.2, 60.0):
            claim = begun(jobs)
            slow = replace(claim, job=replace(claim.job, started=time.time() - seconds))
            job_store(jobs).end(slow, DONE)
        jobs.submit(ROCKET)
        jobs.submit(ROCKET)
        with pytest.raises(QueueFull, match=r"jobs\.max_queued is 2") as full:
            jobs.submit(ROCKET)
        assert full.value.retry_after == 8
        assert jobs.statistics.counts()["QUEUED"] == 2


def test_what_no_engine_could_do_is_refused_before_it_is_stored(jobs: Jobs) -> None:
    for order in (
        replace(ROCKET, priority=0),
        replace(ROCKET, seed=2**32),
        replace(ROCKET, attempts=101),
        replace(ROCKET, deadline_seconds=-1.0),
        replace(ROCKET, profile="full"),
        replace(ROCKET, picture=b"GIF89a"),
        JobRequest(kind="validate", prompt="x"),
        JobRequest(kind="turntable"),
    ):
        with pytest.raises(BadInput):
            jobs.submit(order)
    assert jobs.statistics.counts() == {}


def test_a_turntable_needs_a_finished_splat(jobs: Jobs) -> None:
    with pytest.raises(NotFound):
        jobs.submit(JobRequest(kind="turntable", source="0" * 32))
    waiting = jobs.submit(ROCKET)
    with pytest.raises(Conflict, match="QUEUED and has no splat"):
        jobs.submit(JobRequest(kind="turntable", source=waiting.id))


def test_jobs_are_listed_newest_first_and_page_by_page(jobs: Jobs) -> None:
    ids = [jobs.submit(ROCKET).id for _ in range(5)]
    jobs.cancel(ids[1])
    first = jobs.list_jobs(Listing(), 2)
    assert [job.id for job in first + jobs.list_jobs(Listing(after=first[-1].id), 9)] == ids[::-1]
    assert [job.id for job in jobs.list_jobs(Listing(states=("CANCELLED",)), 9)] == [ids[1]]


def test_position_follows_priority_then_age(jobs: Jobs) -> None:
    late, later, urgent = (jobs.submit(replace(ROCKET, priority=each)) for each in (10, 10, 1))
    assert [jobs.forecasts()[job.id].position for job in (urgent, late, later)] == [1, 2, 3]


def test_an_expected_time_is_given_only_where_one_was_measured(jobs: Jobs) -> None:
    job = jobs.submit(ROCKET)
    assert jobs.forecasts()[job.id].eta is None
    claim = begun(jobs)
    job_store(jobs).end(replace(claim, job=replace(claim.job, started=time.time() - 3)), DONE)
    assert jobs.forecasts()[job.id].eta is None  # there is no engine
    Heartbeat(jobs.store, engine_row("e", time.time()), time.time)
    assert jobs.forecasts()[job.id].eta == pytest.approx(3, abs=0.5)


def test_the_expected_time_adds_up_what_runs_and_waits_before_it(jobs: Jobs) -> None:
    claim = begun(jobs)
    job_store(jobs).end(replace(claim, job=replace(claim.job, started=time.time() - 4)), DONE)
    for engine in ("e", "f"):
        Heartbeat(jobs.store, engine_row(engine, time.time()), time.time)
    since = time.monotonic()
    running = begun(jobs)
    waiting = [jobs.submit(ROCKET).id for _ in range(4)]
    found = jobs.forecasts()
    took = time.monotonic() - since
    assert found[running.job.id].position is None
    assert [found[id].position for id in waiting] == [1, 2, 3, 4]
    for id, seconds in zip([running.job.id, *waiting], (4, 4, 8, 8, 12), strict=True):
        assert seconds - took - 0.5 <= (found[id].eta or 0) <= seconds + 0.5


def test_a_job_that_is_moved_to_the_front_is_the_next_to_run(jobs: Jobs) -> None:
    ids = [jobs.submit(replace(ROCKET, priority=priority)).id for priority in (50, 10, 10, 5)]
    assert jobs.move_to_front(ids[2]).priority == 5
    assert jobs.move_to_front(ids[0]).priority == 5
    assert jobs.move_to_front(ids[0]).id == ids[0]
    order = [ids[index] for index in (0, 2, 3, 1)]
    places = jobs.forecasts()
    assert sorted(ids, key=lambda id: places[id].position or 0) == order
    assert taken(jobs) == order
    running = job_store(jobs).claim(ids[1])
    assert running
    with pytest.raises(Conflict, match="does not wait"):
        jobs.move_to_front(ids[1])
    with pytest.raises(NotFound):
        jobs.move_to_front("0" * 32)


def test_a_queue_that_is_never_empty_does_not_overtake_itself(jobs: Jobs) -> None:
    """The rank of a job in DBOS is limited; the sequence rises until no job is open."""
    old = jobs.submit(ROCKET).id
    with jobs.store.writing() as connection:
        connection.execute(sa.update(tables.jobs).values(sequence=SEQUENCES - 2))
    ids = [jobs.submit(ROCKET).id for _ in range(3)]
    ranks = workflow_ranks(jobs)
    assert ranks[old] < min(ranks[id] for id in ids)
    assert max(ranks.values()) < (ROCKET.priority + 1) * SEQUENCES, "not the rank of a lower priority"


def test_a_job_that_an_engine_took_meanwhile_keeps_its_place(jobs: Jobs) -> None:
    """Between the look at the row and at the queue."""
    first, second = (jobs.submit(ROCKET).id for _ in range(2))
    workflow(jobs, second, status="PENDING", executor_id="one-1")
    jobs.move_to_front(second)
    assert workflow(jobs, second) == ("PENDING", "one-1")
    assert taken(jobs) == [first]


def taken(jobs: Jobs) -> list[str]:
    """The waiting jobs, as DBOS will take them."""
    ranks = workflow_ranks(jobs)
    return sorted(ranks, key=lambda id: ranks[id])


def workflow_ranks(jobs: Jobs) -> dict[str, int]:
    """DBOS's priority of the waiting jobs."""
    schema = "" if jobs.store.sqlite else "dbos."
    query = f"SELECT workflow_uuid, priority FROM {schema}workflow_status WHERE status = 'ENQUEUED'"
    with jobs.store.reading() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}


def test_a_waiting_job_is_cancelled_at_once_and_not_begun_after(jobs: Jobs) -> None:
    job = jobs.submit(ROCKET)
    assert jobs.cancel(job.id).state == "CANCELLED"
    assert job_store(jobs).claim(job.id) is None
    assert jobs.cancel(job.id).state == "CANCELLED"
    with pytest.raises(NotFound):
        jobs.cancel("0" * 32)


def test_waiting_ends_with_the_change_that_was_waited_for(jobs: Jobs) -> None:
    claim = begun(jobs)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.wait, claim.job.id, 30)
        assert job_store(jobs).progress(claim, 1, Stage.REPAIR, 0.5) is None
        job_store(jobs).end(claim, DONE)
        assert waiting.result(30).state == "DONE"
    assert jobs.changes(claim.job.id, claim.job.version + 1, 1) == jobs.get(claim.job.id)
    assert jobs.changes(claim.job.id, jobs.get(claim.job.id).version, 0.05) is None


def test_waiting_survives_a_failed_query(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the look throws: a thread that died would leave every caller to its timeout."""
    claim, failures = begun(jobs), iter([RuntimeError("once"), DatabaseDown("twice")])
    versions = jobs._watch._versions

    def sometimes(ids: Iterable[str]) -> dict[str, int]:
        if threading.current_thread().name == "watch" and (failure := next(failures, None)):
            raise failure
        return versions(ids)

    monkeypatch.setattr(jobs._watch, "_versions", sometimes)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.wait, claim.job.id, 60)
        wait_until(lambda: next(failures, None) is None, "both looks have failed")
        job_store(jobs).end(claim, DONE)
        assert waiting.result(30).state == "DONE"


def test_many_that_wait_are_one_query_at_a_time(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, looks = [begun(jobs) for _ in range(8)], []
    versions = jobs._watch._versions

    def counted(ids: Iterable[str]) -> dict[str, int]:
        looks.append(threading.current_thread().name)
        return versions(ids)

    monkeypatch.setattr(jobs._watch, "_versions", counted)
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(jobs.wait, claim.job.id, 60) for claim in claims for _ in range(4)]
        wait_until(lambda: looks.count("watch") >= 10, "the thread has looked ten times")
        assert len(looks) - looks.count("watch") <= len(waiting)
        for claim in claims:
            job_store(jobs).end(claim, DONE)
        assert {each.result(30).state for each in waiting} == {"DONE"}


def test_jobs_of_an_older_release_are_taken_before_new_ones(jobs: Jobs) -> None:
    """Their rows have no sequence."""
    old, new = (jobs.submit(ROCKET).id for _ in range(2))
    with jobs.store.writing() as connection:
        connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == old).values(sequence=None))
    assert [jobs.forecasts()[id].position for id in (old, new)] == [1, 2]


# ---- what an engine may write ----------------------------------------------------------------------------------------


def test_a_job_ends_once_with_its_files_and_counts(jobs: Jobs) -> None:
    claim = begun(jobs)
    file = Stored("asset.ply", f"{claim.job.id}/1/asset.ply", 12, "a" * 64)
    ending = replace(DONE, files=(file,), findings=("uniform",), reasons=(Reason("no_score"),))
    job_store(jobs).end(claim, ending)
    with pytest.raises(ClaimLost):
        job_store(jobs).end(claim, ending)
    job = jobs.get(claim.job.id)
    assert (job.state, job.outcome, job.score, job.assets) == ("DONE", "passed", 0.5, ("asset.ply",))
    counted = {(tally.what, tally.label): tally.count for tally in jobs.statistics.stats().tallies}
    assert counted == {
        ("state", "DONE"): 1,
        ("outcome", "passed"): 1,
        ("finding", "uniform"): 1,
        ("reason", "no_score"): 1,
    }
    assert [result.job for result in jobs.statistics.results(0)] == [job.id]


def test_histograms_keep_what_retention_removes_and_what_a_restart_forgets(jobs: Jobs, config: Config) -> None:
    times = tuple(StageSeconds(1, stage, seconds) for stage, seconds in ((Stage.RENDER, 0.3), (Stage.SCORE, 400.0)))
    for score in (0.5, -0.25, math.nan):
        job_store(jobs).end(begun(jobs), replace(DONE, score=score), times)
    with jobs.store.writing() as connection:
        for table in (tables.results, tables.stage_times):
            connection.execute(sa.delete(table))
    with closing(Jobs(config)) as restarted:
        found = restarted.statistics.histograms()
    counts = {(name, label): sum(each.counts) for name, series in found.items() for label, each in series.items()}
    assert counts == {
        ("stage_seconds", "render"): 3,
        ("stage_seconds", "score"): 3,
        ("job_seconds", "generate"): 3,
        ("score", "generate"): 2,
        ("gaussians", "generate"): 3,
    }
    assert found["stage_seconds"]["score"].counts[-1] == 3, "beyond every bound"
    assert found["stage_seconds"]["score"].total == pytest.approx(1_200.0)
    assert found["score"]["generate"].total == pytest.approx(0.25)
    assert found["score"]["generate"].counts[0] == 1, "negative"


def test_a_job_ends_whatever_the_text_of_its_error_is(jobs: Jobs) -> None:
    """No encoding has half a character, and PostgreSQL's texts hold no zero."""
    claim = begun(jobs)
    job_store(jobs).end(claim, JobResult("FAILED", "no file 'a\udcff\0b'"))
    assert jobs.get(claim.job.id).error == "no file 'a??b'"


def test_an_engine_that_was_declared_lost_writes_nothing_more(jobs: Jobs) -> None:
    slow = begun(jobs, "one")
    assert job_store(jobs).put_back(slow.job.id, "another") == 0
    assert job_store(jobs).put_back(slow.job.id, slow.instance) == 1
    assert jobs.get(slow.job.id).state == "QUEUED"
    quick = job_store(jobs, "two").claim(slow.job.id)
    assert quick
    for write in (
        lambda: job_store(jobs, "one").progress(slow, 1, "x", 0),
        lambda: job_store(jobs, "one").end(slow, DONE),
    ):
        with pytest.raises(ClaimLost):
            write()
    job_store(jobs, "one").release(slow)
    assert jobs.get(slow.job.id).state == "RUNNING"
    job_store(jobs, "two").end(quick, DONE)
    assert jobs.get(slow.job.id).engine == "two"


def test_a_job_whose_engine_died_three_times_is_quarantined_with_the_last_crash_report(jobs: Jobs) -> None:
    id = jobs.submit(ROCKET).id
    for crash in range(3):
        assert job_store(jobs).claim(id)
        job_store(jobs).record_crash(["one-1"], f"crash {crash}")
    assert job_store(jobs, "two").claim(id) is None, "the report is with the job, whichever engine gets it"
    job = jobs.get(id)
    assert job.state == "QUARANTINED"
    assert "died 3 times" in job.error
    assert job.error.endswith("crash 2")


def test_a_crash_report_goes_to_the_jobs_of_the_process_that_crashed_only(jobs: Jobs) -> None:
    crashed, other = begun(jobs), begun(jobs, "two")
    job_store(jobs).record_crash(["one-1"], "Fatal Python error")
    with jobs.store.reading() as connection:
        reports = dict(connection.execute(sa.select(tables.jobs.c.id, tables.jobs.c.crash_report)).all())
    assert reports == {crashed.job.id: "Fatal Python error", other.job.id: ""}
    assert job_store(jobs, "two").claim(crashed.job.id)
    job_store(jobs).record_crash(["one-1"], "too late")
    with jobs.store.reading() as connection:
        assert connection.scalar(sa.select(tables.jobs.c.crash_report).where(tables.jobs.c.id == crashed.job.id)) == ""


@pytest.mark.parametrize("engine", ["one", "two"])
def test_an_uploaded_splat_that_exceeded_a_deadline_is_not_tried_again(jobs: Jobs, engine: str) -> None:
    id = jobs.submit(JobRequest(kind="repair", splat=b"ply\n")).id
    assert job_store(jobs).claim(id)
    job_store(jobs).record_crash(["one-1"], "Timeout at cpu.py")
    assert job_store(jobs, engine).claim(id) is None
    job = jobs.get(id)
    assert job.state == "QUARANTINED"
    assert job.error == "a stage exceeded its deadline, and would do so each time with this splat: Timeout at cpu.py"


def test_a_deadline_counts_against_the_job_that_exceeded_it_only(jobs: Jobs) -> None:
    """One job has the device, and files of another are written."""
    late, other = (job_store(jobs).claim(jobs.submit(ROCKET).id) for _ in range(2))
    assert late
    assert other
    job_store(jobs).record_crash(["one-1"], "Timeout at steps.py", late.job.id)
    with jobs.store.reading() as connection:
        rows = connection.execute(sa.select(tables.jobs.c.id, tables.jobs.c.starts, tables.jobs.c.crash_report)).all()
    assert {row[0]: row[1:] for row in rows} == {late.job.id: (1, "Timeout at steps.py"), other.job.id: (0, "")}


def test_a_job_that_was_returned_has_no_death_counted(jobs: Jobs) -> None:
    id = jobs.submit(ROCKET).id
    for _ in range(5):
        claim = job_store(jobs).claim(id)
        assert claim
        job_store(jobs).release(claim)
    assert jobs.get(id).state == "QUEUED"


def test_a_running_job_learns_between_stages_that_it_is_to_stop(jobs: Jobs) -> None:
    claim = begun(jobs)
    assert jobs.cancel(claim.job.id).state == "RUNNING"
    stop = job_store(jobs).progress(claim, 1, Stage.RENDER, 0.6)
    assert stop
    assert stop.state == "CANCELLED"


def test_a_deadline_ends_waiting_and_running_jobs(jobs: Jobs) -> None:
    waiting, running = (jobs.submit(replace(ROCKET, deadline_seconds=100)) for _ in range(2))
    claim = job_store(jobs).claim(running.id)
    assert claim
    assert job_store(jobs).expire() == 0
    later = job_store(jobs, now=time.time() + 101)
    assert later.expire() == 1
    assert jobs.get(waiting.id).state == "EXPIRED"
    stop = later.progress(claim, 1, Stage.RENDER, 0.6)
    assert stop
    assert stop.state == "EXPIRED"


# ---- which engines are alive -----------------------------------------------------------------------------------------


def test_a_clock_that_jumps_makes_no_engine_lost(jobs: Jobs) -> None:
    """Whether an engine is alive is told by its heartbeats and by the watcher's own steady clock."""
    steady, wall = [0.0], [1_000_000.0]
    heartbeat = Heartbeat(jobs.store, engine_row("two", wall[0]), lambda: wall[0])
    liveness = Liveness(jobs.store, 10, lambda: steady[0])
    assert liveness.alive() == {"two-1"}
    for jump in (+86_400, -200_000):
        wall[0] += jump
        heartbeat.beat()
        steady[0] += 9
        assert liveness.alive() == {"two-1"}
    steady[0] += 10
    assert liveness.alive() == set()
    heartbeat.beat()
    assert liveness.alive() == {"two-1"}, "it was taken for lost, and is alive"


@pytest.mark.e2e
def test_the_time_of_the_database_does_not_follow_the_host_s_clock(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(settings(tmp_path, postgres_server.database()))) as store:
        clock = DatabaseClock(store)
        before = clock()
        monkeypatch.setattr(time, "time", lambda: 1.0)
        assert 0 <= clock() - before < 60


@pytest.mark.e2e
def test_a_host_that_stands_still_in_a_transaction_does_not_hold_up_the_others(
    postgres_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SERVER_TIMEOUTS, "idle_in_transaction_session_timeout", 1)
    config = settings(tmp_path, postgres_server.database())
    with closing(Store(config)) as stopped, closing(Store(config)) as other:
        with pytest.raises(DatabaseDown), stopped.writing(alone=True) as connection:  # noqa: PT012
            with other.writing(alone=True) as others:
                set_fact(other, others, "who", "the other")
            set_fact(stopped, connection, "who", "the one that was stopped")
        assert read_facts(other)["who"] == "the other"


def test_a_dead_process_does_not_look_alive_because_its_successor_has_its_pid(jobs: Jobs) -> None:
    steady = [0.0]
    liveness = Liveness(jobs.store, 10, lambda: steady[0])
    dead = Heartbeat(jobs.store, engine_row("two", 1_000.0), lambda: 1_000.0)
    assert liveness.alive() == {"two-1"}
    successor = Heartbeat(jobs.store, engine_row("two", 1_001.0, "2"), lambda: 1_001.0)
    assert (dead.engine.pid, successor.predecessors) == (successor.engine.pid, ("two-1",))
    assert liveness.alive() == {"two-2"}
    assert [engine.id for engine in list_engines(jobs.store, 1_001.0, 10)] == ["two-2"]


@pytest.mark.parametrize("what", ["writes", "everything"])
def test_nobody_is_silent_while_nobody_can_report(what: str, tmp_path: Path) -> None:
    """A disk that was full, or a database that was away, for long: the engine's next heartbeat is to come."""
    steady = [0.0]
    with closing(Store(settings(tmp_path))) as store:
        Heartbeat(store, engine_row("two", time.time()), time.time)
        liveness = Liveness(store, 10, lambda: steady[0])
        assert liveness.alive() == {"two-1"}
        with refusing(store, what):
            for _ in range(100):
                steady[0] += 1
                with suppress(DatabaseDown):
                    assert liveness.alive() == {"two-1"}
        for second in range(4):
            steady[0] += 1
            assert liveness.alive() == {"two-1"}, second
        steady[0] += 6
        assert liveness.alive() == set()


@contextmanager
def refusing(store: Store, what: str) -> Iterator[None]:
    """A database that takes no writes, or does nothing at all."""

    def refuse(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA query_only = ON" if what == "writes" else "SELECT * FROM nowhere")

    pools = (store.nondurable, store.engine) if what == "everything" else (store.nondurable,)
    for pool in pools:
        sa.event.listen(pool, "checkout", refuse)
    yield
    for pool in pools:
        sa.event.remove(pool, "checkout", refuse)
        pool.dispose()


def test_an_engine_that_was_removed_while_alive_reappears_when_it_reports(jobs: Jobs) -> None:
    steady = [0.0]
    heartbeat = Heartbeat(jobs.store, engine_row("two", 1_000.0), lambda: 1_000.0)
    liveness = Liveness(jobs.store, 10, lambda: steady[0])
    liveness.forget(time.time())
    assert len(jobs.engines()) == 1, "it is alive, whatever its clock says"
    steady[0] += 10
    liveness.forget(time.time())
    assert jobs.engines() == []
    heartbeat.beat(state="BUSY")
    assert [(engine.name, engine.state) for engine in list_engines(jobs.store, 1_000.0, 10)] == [("two", "BUSY")]
    assert liveness.alive() == {"two-1"}


# ---- the queue and the rows fit together -----------------------------------------------------------------------------


def reconciler(jobs: Jobs, running: set[str] | None = None, steady: Callable[[], float] = lambda: 0.0) -> Reconciler:
    """Of engine "one", which runs these jobs."""
    queue, liveness = JobQueue(jobs.store), Liveness(jobs.store, 10, steady)
    return Reconciler(jobs.store, queue, job_store(jobs), liveness, "one-1", lambda: running or set())


def workflow(jobs: Jobs, id: str, **values: str | None) -> tuple[str, str | None]:
    """DBOS's status of a job, and its executor; after setting columns of its row, as only a crash can."""
    schema = "" if jobs.store.sqlite else "dbos."
    with jobs.store.writing() as connection:
        for name, value in values.items():
            changed = sa.text(f"UPDATE {schema}workflow_status SET {name} = :value WHERE workflow_uuid = :id")
            connection.execute(changed, {"value": value, "id": id})
        read = sa.text(f"SELECT status, executor_id FROM {schema}workflow_status WHERE workflow_uuid = :id")
        row = connection.execute(read, {"id": id}).one()
    return row[0], row[1]


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING"])
@pytest.mark.parametrize(
    "lost",
    [
        {"status": "SUCCESS"},
        {"status": "ERROR"},
        {"status": "CANCELLED", "queue_name": None},
        {"queue_name": "other"},
        {},
    ],
)
def test_a_job_that_the_queue_lost_waits_again(jobs: Jobs, lost: dict[str, str | None], state: str) -> None:
    """As after a crash of the database, a failover, or a backup: it would wait for ever."""
    if state == "RUNNING":
        id = begun(jobs).job.id
    else:
        id = jobs.submit(replace(ROCKET, priority=7)).id
    if lost:
        workflow(jobs, id, **lost)
    else:
        JobQueue(jobs.store).forget([id])
    ahead = jobs.submit(replace(ROCKET, priority=1)).id
    assert reconciler(jobs).compare() == 1
    assert (workflow(jobs, id)[0], jobs.get(id).state) == ("ENQUEUED", "QUEUED")
    assert set(JobQueue(jobs.store).active()) == {id, ahead}
    assert reconciler(jobs).compare() == 0


def test_jobs_that_wait_run_or_have_ended_are_left_as_they_are(jobs: Jobs) -> None:
    waiting, running = jobs.submit(ROCKET).id, begun(jobs).job.id
    workflow(jobs, running, status="PENDING", executor_id="one-1")
    ended = finished(jobs, 1)
    workflow(jobs, ended, status="SUCCESS")
    cancelled = jobs.cancel(jobs.submit(ROCKET).id).id
    ours = reconciler(jobs, {running})
    assert [ours.compare() for _ in range(3)] == [0, 0, 0]
    states = {id: (workflow(jobs, id)[0], jobs.get(id).state) for id in (waiting, running, ended, cancelled)}
    assert states == {
        waiting: ("ENQUEUED", "QUEUED"),
        running: ("PENDING", "RUNNING"),
        ended: ("SUCCESS", "DONE"),
        cancelled: ("ENQUEUED", "CANCELLED"),
    }


def test_a_job_that_its_engine_does_not_run_is_queued_again_at_the_second_check(jobs: Jobs) -> None:
    """At the first it may be on its way between the queue and its thread."""
    id = begun(jobs).job.id
    workflow(jobs, id, status="PENDING", executor_id="one-1")
    ours = reconciler(jobs)
    assert [ours.compare(), ours.compare(), ours.compare()] == [0, 1, 0]
    assert (workflow(jobs, id)[0], jobs.get(id).state) == ("ENQUEUED", "QUEUED")


def test_a_job_that_is_shown_as_running_while_it_waits_is_repaired(jobs: Jobs) -> None:
    id = begun(jobs).job.id
    assert reconciler(jobs).compare() == 1
    assert jobs.get(id).state == "QUEUED"


def test_the_jobs_of_a_dead_engine_are_queued_again_and_those_of_one_that_is_alive_are_not(jobs: Jobs) -> None:
    steady = [0.0]
    Heartbeat(jobs.store, engine_row("two", time.time()), time.time)
    alive, dead = begun(jobs, "two").job.id, begun(jobs, "three").job.id
    workflow(jobs, alive, status="PENDING", executor_id="two-1")
    workflow(jobs, dead, status="PENDING", executor_id="three-1")
    ours = reconciler(jobs, steady=lambda: steady[0])
    assert ours.take_over() == 1
    assert [jobs.get(id).state for id in (alive, dead)] == ["RUNNING", "QUEUED"]
    steady[0] = 10.0
    assert ours.take_over() == 1
    assert [jobs.get(id).state for id in (alive, dead)] == ["QUEUED", "QUEUED"]


def test_a_job_whose_files_are_left_to_write_is_queued_again_only_if_its_engine_is_gone(jobs: Jobs) -> None:
    """Its workflow is over: the engine has begun the next job."""
    Heartbeat(jobs.store, engine_row("two", time.time()), time.time)
    own, alive, dead = (begun(jobs, name).job.id for name in ("one", "two", "three"))
    for id in (own, alive, dead):
        workflow(jobs, id, status="SUCCESS")
    ours = reconciler(jobs, {own})
    assert ours.take_over() == 1
    assert [ours.compare() for _ in range(3)] == [0, 0, 0]
    assert [jobs.get(id).state for id in (own, alive, dead)] == ["RUNNING", "RUNNING", "QUEUED"]
    assert workflow(jobs, dead)[0] == "ENQUEUED"
    assert reconciler(jobs).compare() == 1, "this engine does not write them"
    assert jobs.get(own).state == "QUEUED"


def test_a_job_that_another_engine_has_taken_over_meanwhile_is_left_to_it(jobs: Jobs) -> None:
    """Two engines see at once that its engine is gone: the slower one must not delete what the other has queued."""
    id = begun(jobs, "three").job.id
    workflow(jobs, id, status="SUCCESS")
    stale = reconciler(jobs)._rows(tables.jobs.c.id == id)[id]
    assert reconciler(jobs).take_over() == 1
    assert job_store(jobs, "two").claim(id)
    workflow(jobs, id, status="SUCCESS")  # as far as the slower one has read
    assert reconciler(jobs)._renew(stale) == ""
    assert jobs.get(id).state == "RUNNING"


def test_a_thread_that_cannot_be_started_leaves_the_file_writer_free(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = FileWriter()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raises(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            writer.start("a" * 32, lambda: None)
    assert writer.jobs == set()
    written: list[str] = []
    writer.start("b" * 32, lambda: written.append("b"))
    assert writer.wait(60)
    assert written == ["b"]


def raises(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.e2e
def test_jobs_that_cannot_be_queued_again_are_an_error_and_are_not_lost(
    postgres_server: Server, tmp_path: Path
) -> None:
    """The disk of the database is full at that moment: it is tried again a second later."""
    with client(settings(tmp_path, postgres_server.database())) as jobs:
        id = jobs.submit(ROCKET).id
        workflow(jobs, id, status="PENDING", executor_id="dead")
        with (
            broken_disk(jobs, "UPDATE", "dbos.workflow_status", "53100"),
            pytest.raises(DatabaseDown, match="no space left"),
        ):
            reconciler(jobs).take_over()
        assert reconciler(jobs).take_over() == 1
        assert workflow(jobs, id)[0] == "ENQUEUED"


def test_jobs_of_one_priority_have_ranks_in_the_order_of_submission(jobs: Jobs) -> None:
    """DBOS's times are too coarse for that."""
    ids = [jobs.submit(replace(ROCKET, priority=priority)).id for priority in (10, 10, 50, 1, 10)]
    assert taken(jobs) == [ids[index] for index in (3, 0, 1, 4, 2)]


# ---- forgetting ------------------------------------------------------------------------------------------------------


def finished(jobs: Jobs, size: int, owner: str | None = None) -> str:
    claim = begun(jobs, owner=owner)
    path = f"{claim.job.id}/1/asset.ply"
    jobs.assets.put(path, b"x" * size)
    job_store(jobs).end(claim, replace(DONE, files=(Stored("asset.ply", path, size, "a" * 64),)))
    return claim.job.id


def retention(jobs: Jobs, days: float = 0.0, **limits: float) -> Retention:
    limited = settings(Path(jobs.config.serve.data), assets=dict(limits)).assets
    clock, guard = (lambda: time.time() + days * DAY), ClockGuard(jobs.store, DAY, time.time)
    return Retention(jobs.store, jobs.assets, limited, clock, guard, lambda _ids: None)


def test_ended_jobs_are_deleted_after_their_days_and_waiting_ones_never(jobs: Jobs) -> None:
    old, waiting = finished(jobs, 10), jobs.submit(ROCKET).id
    assert retention(jobs, 29).sweep() == 0
    assert retention(jobs, 31).sweep() == 1
    with pytest.raises(NotFound):
        jobs.get(old)
    assert jobs.assets.jobs() == []
    assert jobs.get(waiting).state == "QUEUED"


def test_above_the_size_limit_the_oldest_jobs_are_deleted_first(jobs: Jobs) -> None:
    ids = [finished(jobs, 1_000) for _ in range(4)]
    assert retention(jobs, max_gb=2_500 / 1e9).sweep() == 2
    assert [job.id for job in jobs.list_jobs(Listing(), 9)] == ids[:1:-1]
    assert jobs.statistics.stats().asset_bytes == 2_000


def test_the_caller_with_the_most_bytes_makes_room(jobs: Jobs) -> None:
    """However young its files are: nobody's results are pushed out by those of another."""
    small, large = [finished(jobs, 1_000, owner="a") for _ in range(3)], [finished(jobs, 4_000, "b") for _ in range(3)]
    assert retention(jobs, max_gb=8_000 / 1e9).sweep() == 2
    assert sorted(job.id for job in jobs.list_jobs(Listing(), 9)) == sorted([*small, large[2]])
    assert retention(jobs, max_gb=3_500 / 1e9).sweep() == 1
    assert sorted(job.id for job in jobs.list_jobs(Listing(), 9)) == sorted(small)
    assert retention(jobs, max_gb=2_500 / 1e9).sweep() == 1
    assert sorted(job.id for job in jobs.list_jobs(Listing(), 9)) == sorted(small[1:])


def test_the_reasons_of_an_older_release_still_read(jobs: Jobs) -> None:
    """It stored the sentences alone."""
    claim = begun(jobs)
    job_store(jobs).end(claim, replace(DONE, outcome="refused"))
    with jobs.store.writing() as connection:
        change = sa.update(tables.jobs).where(tables.jobs.c.id == claim.job.id)
        connection.execute(change.values(reasons=["CLIP=0.120, under the threshold 0.2"]))
    job = jobs.get(claim.job.id)
    assert (job.reasons, job.reason_codes) == (("CLIP=0.120, under the threshold 0.2",), ("text",))


def test_why_a_job_was_refused_is_kept_as_code_and_figures(jobs: Jobs) -> None:
    claim = begun(jobs)
    reason = Reason("too_few_gaussians", {"gaussians": 1_200, "min_gaussians": 150_000})
    job_store(jobs).end(claim, replace(DONE, outcome="refused", reasons=(reason,)))
    job = jobs.get(claim.job.id)
    assert (job.reasons, job.reason_codes) == (("1,200 Gaussians are fewer than 150,000",), ("too_few_gaussians",))
    with jobs.store.reading() as connection:
        assert connection.execute(sa.select(tables.jobs.c.reasons)).scalar_one() == [reason.to_dict()]


def test_the_metrics_of_a_job_are_kept_with_their_thresholds(jobs: Jobs) -> None:
    claim = begun(jobs)
    metrics = {"clip": MetricValue(0.31, 0.2), "coverage": MetricValue(0.4, 0.05)}
    job_store(jobs).end(claim, replace(DONE, metrics=metrics))
    assert jobs.get(claim.job.id).metrics == metrics
    with jobs.store.writing() as connection:
        connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == claim.job.id).values(metrics=None))
    assert jobs.get(claim.job.id).metrics == {}, "a row of an older release"


def test_the_stage_of_an_older_release_is_left_out(jobs: Jobs) -> None:
    id = begun(jobs).job.id
    with jobs.store.writing() as connection:
        change = sa.update(tables.jobs).where(tables.jobs.c.id == id)
        connection.execute(change.values(stage="[2/4] Diagnosing and repairing..."))
    assert jobs.get(id).stage == ""


def test_the_newest_rows_of_the_statistics_are_kept(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.retention.RESULTS", 3)
    monkeypatch.setattr("app.jobs.retention.STAGE_TIMES", 4)
    times = (StageSeconds(1, Stage.SPLAT, 1.0), StageSeconds(1, Stage.SCORE, 2.0))
    ids = []
    for _ in range(5):
        claim = begun(jobs)
        job_store(jobs).end(claim, DONE, times)
        ids.append(claim.job.id)
    retention(jobs, days=31).sweep()
    assert [result.job for result in jobs.statistics.results(0)] == ids[2:], "they outlive their jobs"
    assert [(time.job, time.stage) for time in jobs.statistics.stage_times(0)] == [
        (id, stage) for id in ids[3:] for stage in ("splat", "score")
    ]
    last = jobs.statistics.results(0)[-1].row
    job_store(jobs).end(begun(jobs), DONE)
    assert len(jobs.statistics.results(last)) == 1, "rows rise on"


def test_a_file_that_was_deleted_is_not_found(jobs: Jobs) -> None:
    id = finished(jobs, 10)
    with jobs.open_asset(id, "asset.ply").stream as stream:
        assert stream.read() == b"x" * 10
    jobs.assets.remove(id)
    with pytest.raises(NotFound):
        jobs.open_asset(id, "asset.ply")
    with pytest.raises(NotFound, match=r"no file 'x'; it has: asset\.ply"):
        jobs.open_asset(id, "x")


def test_a_file_that_has_lost_its_end_is_an_error_and_not_served(jobs: Jobs) -> None:
    id = finished(jobs, 10)
    jobs.assets.put(f"{id}/1/asset.ply", b"x" * 9)
    with pytest.raises(Unavailable, match="has 9 bytes, but 10 were stored: the file is damaged"):
        jobs.open_asset(id, "asset.ply")


def test_two_claims_of_a_job_never_write_the_same_file(jobs: Jobs) -> None:
    """An engine that was paused, and wakes up when another has finished its job, would replace the files."""
    id = jobs.submit(ROCKET).id
    first, second = job_store(jobs, "one").claim(id), job_store(jobs, "two").claim(id)
    assert first
    assert second
    assert first.folder(1) != second.folder(1)
    assert first.folder(1) != first.folder(2)


# ---- a database that cannot be used ----------------------------------------------------------------------------------


def test_a_damaged_database_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "splatgate.db").write_bytes(os.urandom(8_192))
    jobs = Jobs(settings(tmp_path))  # the web process starts all the same
    with pytest.raises(DatabaseDown, match=r"splatgate\.db.*not a database.*restore it from a backup"):
        jobs.submit(ROCKET)


def test_a_data_folder_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatabaseDown, match=r"file.*serve\.data"):
        Jobs(settings(tmp_path / "file" / "data")).statistics.counts()


def test_a_database_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    config = settings(tmp_path, "postgresql://someone:secret@127.0.0.1:1/none")
    with pytest.raises(DatabaseDown, match=r"127\.0\.0\.1:1") as down:
        Jobs(config).statistics.counts()
    assert "secret" not in str(down.value)


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense", "sqlite://"])
def test_a_database_of_another_kind_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url"):
        database_url(settings(tmp_path, url))


def test_what_is_committed_to_sqlite_is_on_the_disk(tmp_path: Path) -> None:
    store = Store(settings(tmp_path))
    with store.writing() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    store.close()
    assert pragmas == ["wal", 2]


def test_a_second_store_on_one_database_changes_nothing(config: Config) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store(config), range(4)))
    assert {len(sa.inspect(store.engine).get_table_names()) >= len(tables.metadata.tables) for store in stores} == {
        True
    }
    for store in stores:
        store.close()


def test_a_database_of_an_older_release_gets_the_columns_that_are_new(config: Config, jobs: Jobs) -> None:
    old = jobs.submit(ROCKET)
    with jobs.store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN gaussians")
        connection.exec_driver_sql("ALTER TABLE engines DROP COLUMN memory_total")
    with pytest.raises(DatabaseDown, match="gaussians"):
        jobs.get(old.id)
    with client(config) as upgraded:
        assert upgraded.get(old.id) == old
        assert upgraded.submit(ROCKET).gaussians is None


# ---- ids and assets --------------------------------------------------------------------------------------------------


@given(st.floats(1e9, 4e9), st.floats(0.001, 1e6))
def test_ids_sort_by_the_time_of_their_making(now: float, later: float) -> None:
    assert new_id(now) < new_id(now + later)
    assert len(new_id(now)) == 32


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTDIR, errno.ENOSPC])
def test_every_fault_of_a_disk_is_one_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    assets = Assets(settings(tmp_path))
    assets.put("job/1/asset.ply", b"ply")

    def broken(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(StorageDown, match=os.strerror(code)):
        assets.put("job/1/asset.ply", b"other")
    with (
        pytest.raises(StorageDown, match=os.strerror(code)),
        assets.folder("job/2") as folder,
        replacing(folder / "asset.ply") as stream,
    ):
        stream.write(b"other")
    assert assets.is_down()
    monkeypatch.undo()
    assert not assets.is_down()
    assert assets.read("job/1/asset.ply") == b"ply"


def test_no_job_is_accepted_while_its_files_could_not_be_stored(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with client(settings(tmp_path, assets={"url": str(tmp_path / "store")})) as jobs:
        with pytest.raises(StorageDown, match="is not a folder"):
            jobs.submit(ROCKET)
        assert jobs.statistics.counts() == {}


def test_a_full_disk_is_no_fault_of_the_job_whose_files_met_it(tmp_path: Path) -> None:
    """An engine that meets StorageDown ends and waits for room; any other error would have failed the job."""
    assets = Assets(settings(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = "cannot be (stored|written): No space left on device; free space"
    with pytest.raises(StorageDown, match=said), assets.folder("job/1"):
        raise full
    with pytest.raises(StorageDown, match=said), assets.folder("job/1") as folder, replacing(folder / "asset.ply"):
        raise full


def test_assets_live_in_any_fsspec_url_as_in_a_folder(tmp_path: Path) -> None:
    assets = Assets(settings(tmp_path, assets={"url": f"memory://{tmp_path.name}"}))
    assert not assets.local
    id = new_id(time.time())
    with assets.folder(f"{id}/1") as folder:
        (folder / "a").write_bytes(b"one")
    assets.put(f"{id}/input/b", b"two")
    assert (assets.read(f"{id}/1/a"), assets.read(f"{id}/input/b"), assets.jobs()) == (b"one", b"two", [id])
    assets.remove(id)
    with pytest.raises(NotFound):
        assets.read(f"{id}/1/a")

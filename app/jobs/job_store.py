"""What an engine writes about a job: its claim, progress and end. Only the engine that holds the claim can write.

An engine that counted as lost and resumes finds that its claim is void, and drops its work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from app.gate import MetricValue
from app.jobs.assets import Stored
from app.jobs.histograms import Observation, observe
from app.jobs.records import ENDED, Job, JobOutcome, Kind, State
from app.jobs.store import Store
from app.jobs.tables import assets, jobs, results, stage_times, to_job
from app.reason import Reason
from app.stage import Stage


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, void as soon as another engine claims it. start: number of the claim, from 1."""

    job: Job
    instance: str
    start: int

    def folder(self, attempt: int) -> str:
        """The folder for the files of an attempt. No other claim writes there, so finished files never change."""
        return f"{self.job.id}/{attempt}.{self.start}"


@dataclass(frozen=True)
class JobResult:
    """How a job ended. reasons: of the gate; findings, repairs: kinds, for the counts; files: the files of the job."""

    state: State
    error: str = ""
    attempt: int = 0
    seed: int | None = None
    outcome: JobOutcome | None = None
    reasons: tuple[Reason, ...] = ()
    score: float | None = None
    scores: tuple[float, ...] = ()
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    gaussians: int | None = None
    findings: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    files: tuple[Stored, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Why a running job must stop: the state it ends in, and the message."""

    state: State
    error: str


@dataclass(frozen=True)
class StageSeconds:
    attempt: int
    stage: Stage
    seconds: float


class ClaimLost(Exception):
    """The claim is void: another engine has the job, it is queued again, or the database lost the claim in a crash."""


@dataclass(frozen=True)
class JobStore:
    """The job rows, as one engine writes them. engine: its name; instance: the random id of its process.

    clock: seconds since 1970, by the database's clock.
    """

    store: Store
    engine: str
    instance: str
    max_deaths: int
    clock: Callable[[], float]

    def was_started(self, id: str) -> bool:
        """Whether an engine has started the job and did not finish it."""
        with self.store.reading() as connection:
            return bool(connection.scalar(sa.select(jobs.c.starts).where(jobs.c.id == id)))

    def claim(self, id: str) -> Claim | None:
        """Claims the job, durably, because every later write depends on it. None if there is nothing to do: the job is
        gone or has ended, or it must not run and is ended here."""
        now = self.clock()
        with self.store.writing() as connection:
            own = sa.select(jobs).where(jobs.c.id == id)
            row = connection.execute(own.with_for_update()).mappings().first()
            if not row or row["state"] in ENDED:
                return None
            if stop := _stop(row, now) or _quarantine(row, self.max_deaths):
                self._refuse(connection, id, stop, now)
                return None
            change = {
                "state": "RUNNING",
                "engine": self.engine,
                "instance": self.instance,
                "started": now,
                "starts": row["starts"] + 1,
                "version": row["version"] + 1,
                "crash_report": "",
            }
            connection.execute(sa.update(jobs).where(jobs.c.id == id).values(**change))
        return Claim(to_job({**row, **change}, ()), self.instance, change["starts"])

    def progress(self, claim: Claim, attempt: int, stage: Stage, fraction: float) -> Stop | None:
        """Records the progress of the job. Returns why it must stop, if it must. Raises ClaimLost."""
        now = self.clock()
        change = {"attempt": attempt, "stage": stage, "fraction": fraction, "version": jobs.c.version + 1}
        with self.store.writing(durable=False) as connection:
            changed = sa.update(jobs).where(_held(claim)).values(**change).returning(jobs.c.cancelled, jobs.c.deadline)
            row = connection.execute(changed).mappings().first()
        if not row:
            raise ClaimLost
        return _stop(row, now)

    def end(self, claim: Claim, result: JobResult, times: tuple[StageSeconds, ...] = ()) -> None:
        """Ends the job durably, with its files and its counts, in one transaction. Raises ClaimLost."""
        now, id = self.clock(), claim.job.id
        change = {
            "state": result.state,
            "stage": "",
            "fraction": 1.0 if result.state == "DONE" else None,
            "finished": now,
            "attempt": result.attempt or claim.job.attempt,
            "seed": claim.job.seed if result.seed is None else result.seed,
            "outcome": result.outcome,
            "reasons": [reason.to_dict() for reason in result.reasons],
            "score": result.score,
            "scores": list(result.scores),
            "metrics": {name: asdict(each) for name, each in result.metrics.items()},
            "gaussians": result.gaussians,
            "error": storable(result.error),
            "version": jobs.c.version + 1,
        }
        with self.store.writing() as connection:
            if not connection.execute(sa.update(jobs).where(_held(claim)).values(**change)).rowcount:
                raise ClaimLost
            add_files(connection, id, result.files, now)
            if times:
                connection.execute(sa.insert(stage_times), [{"job": id, **vars(time)} for time in times])
            if result.state == "DONE":
                _add_result(connection, claim, result, now)
            _count(self.store, connection, result)
            observe(self.store, connection, _observations(claim.job, result, times, now))

    def release(self, claim: Claim) -> bool:
        """Queues the job again; this start does not count against it. Returns False if the claim is void."""
        with self.store.writing() as connection:
            back = sa.update(jobs).where(_held(claim)).values(**_QUEUED, starts=jobs.c.starts - 1)
            return bool(connection.execute(back).rowcount)

    def put_back(self, id: str, instance: str) -> int:
        """Ends an engine's claim and queues the job again. Returns 1, or 0 if the engine no longer has the claim.

        instance: of the engine. Claims of older releases have none, and end too.
        """
        theirs = sa.func.coalesce(jobs.c.instance, instance) == instance
        with self.store.writing() as connection:
            running = (jobs.c.id == id) & (jobs.c.state == "RUNNING") & theirs
            return connection.execute(sa.update(jobs).where(running).values(**_QUEUED)).rowcount

    def record_crash(self, instances: Sequence[str], report: str, job: str = "") -> None:
        """Stores the crash report with the jobs of engines that died, for the engine that gets them next.

        job: the one that caused the crash, if known; then the crash does not count against the others.
        """
        theirs = sa.func.coalesce(jobs.c.instance, jobs.c.engine).in_(instances)
        open_ = theirs & jobs.c.state.not_in(ENDED) & (jobs.c.starts > 0)
        cause = (jobs.c.id == job) if job else sa.true()
        with self.store.writing() as connection:
            connection.execute(sa.update(jobs).where(open_ & cause).values(crash_report=storable(report)))
            innocent = open_ & ~cause & (jobs.c.state == "RUNNING")
            connection.execute(sa.update(jobs).where(innocent).values(starts=jobs.c.starts - 1))

    def expire(self) -> int:
        """Ends the queued jobs whose deadline has passed. Returns how many."""
        now = self.clock()
        late = (jobs.c.state == "QUEUED") & (jobs.c.deadline < now)
        with self.store.reading() as connection:
            if not connection.execute(sa.select(jobs.c.id).where(late).limit(1)).first():
                return 0
        ended = {"state": "EXPIRED", "error": LATE, "finished": now, "version": jobs.c.version + 1}
        with self.store.writing() as connection:
            count = connection.execute(sa.update(jobs).where(late).values(**ended)).rowcount
            if count:
                self.store.tally(connection, "state", "EXPIRED", count)
        return count

    def find_file(self, id: str, names: tuple[str, ...]) -> Stored | None:
        """The file of a job that has one of these names, or None."""
        with self.store.reading() as connection:
            named = (assets.c.job == id) & assets.c.name.in_(names)
            row = connection.execute(sa.select(assets).where(named)).first()
        return Stored(row.name, row.path, row.size, row.sha256) if row else None

    def attach(self, id: str, files: tuple[Stored, ...]) -> None:
        """Adds files to a job that has ended."""
        now = self.clock()
        with self.store.writing() as connection:
            if connection.execute(sa.update(jobs).where(jobs.c.id == id).values(version=jobs.c.version + 1)).rowcount:
                add_files(connection, id, files, now)

    def _refuse(self, connection: sa.Connection, id: str, stop: Stop, now: float) -> None:
        change = {"state": stop.state, "error": storable(stop.error), "finished": now, "stage": "", "fraction": None}
        ended = sa.update(jobs).where(jobs.c.id == id).values(**change, version=jobs.c.version + 1)
        connection.execute(ended)
        self.store.tally(connection, "state", stop.state)


_QUEUED = {"state": "QUEUED", "stage": "", "fraction": None, "version": jobs.c.version + 1}

WITH_SPLAT: tuple[Kind, ...] = ("validate", "repair", "turntable")
HANGS = "a stage exceeded its deadline, and would do so each time with this splat"
LATE = "the deadline of the job passed before it ended"


def _quarantine(row: sa.RowMapping, max_deaths: int) -> Stop | None:
    """Why the job must not run again, if it has killed too many engines; else None."""
    report = row["crash_report"] or ""
    if row["starts"] and row["kind"] in WITH_SPLAT and report.startswith("Timeout"):
        return Stop("QUARANTINED", f"{HANGS}: {report}")
    if row["starts"] >= max_deaths:
        last = report or "no traceback (killed from outside, or out of memory)"
        times = f"its engine died {row['starts']} times while it ran (jobs.max_deaths)"
        return Stop("QUARANTINED", f"{times}; the last time: {last}")
    return None


def _add_result(connection: sa.Connection, claim: Claim, result: JobResult, now: float) -> None:
    row = {"job": claim.job.id, "kind": claim.job.kind, "outcome": result.outcome, "score": result.score}
    seconds = _seconds(claim.job, now)
    connection.execute(sa.insert(results).values(**row, gaussians=result.gaussians, seconds=seconds))


def _observations(job: Job, result: JobResult, times: tuple[StageSeconds, ...], now: float) -> Iterator[Observation]:
    yield from (Observation("stage_seconds", time.stage, time.seconds) for time in times)
    if result.state == "DONE":
        yield Observation("job_seconds", job.kind, _seconds(job, now))
        if result.score is not None and math.isfinite(result.score):
            yield Observation("score", job.kind, result.score)
        if result.gaussians is not None:
            yield Observation("gaussians", job.kind, result.gaussians)


def _seconds(job: Job, now: float) -> float:
    """How long a job ran; not negative where the clock was set back."""
    return max(0.0, now - (job.started or now))


def _count(store: Store, connection: sa.Connection, result: JobResult) -> None:
    counted: list[tuple[str, str]] = [("state", result.state)]
    counted += [("outcome", result.outcome)] if result.outcome else []
    counted += [("reason", reason.code) for reason in result.reasons]
    counted += [("finding", kind) for kind in result.findings] + [("repair", kind) for kind in result.repairs]
    for what, label in counted:
        store.tally(connection, what, label)


def _stop(row: sa.RowMapping, now: float) -> Stop | None:
    if row["cancelled"]:
        return Stop("CANCELLED", "cancelled by the caller")
    if row["deadline"] is not None and row["deadline"] < now:
        return Stop("EXPIRED", LATE)
    return None


def storable(text: str) -> str:
    """The text without what a database rejects: lone surrogates, as in some file names, and null characters."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def add_files(connection: sa.Connection, id: str, files: tuple[Stored, ...], now: float) -> None:
    """Adds files to a job, replacing files of the same names."""
    if files:
        names = [file.name for file in files]
        connection.execute(sa.delete(assets).where(assets.c.job == id, assets.c.name.in_(names)))
        connection.execute(sa.insert(assets), [{"job": id, "modified": now, **vars(file)} for file in files])


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    own = (jobs.c.id == claim.job.id) & (jobs.c.instance == claim.instance) & (jobs.c.starts == claim.start)
    return own & (jobs.c.state == "RUNNING")

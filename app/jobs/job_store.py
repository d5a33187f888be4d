"""What an engine writes of a job: begun, how far, ended. Each job has one owner at a time, and only it writes.

An engine that was taken for lost and wakes up again finds that its claim is void, and drops what it was doing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from app.jobs.assets import Stored
from app.jobs.records import ENDED, Job, JobOutcome, Kind, State
from app.jobs.store import Store, assets, jobs, results, stage_times, to_job
from app.reason import Reason
from app.stage import Stage


@dataclass(frozen=True)
class Claim:
    """The right to work on a job: void as soon as another engine has begun it. start: the how-manieth begin it was."""

    job: Job
    engine: str
    start: int


@dataclass(frozen=True)
class JobResult:
    """How a job ended. reasons: the gate's; findings, repairs: kinds, for the counts; files: what can be fetched."""

    state: State
    error: str = ""
    attempt: int = 0
    seed: int | None = None
    outcome: JobOutcome | None = None
    reasons: tuple[Reason, ...] = ()
    score: float | None = None
    scores: tuple[float, ...] = ()
    gaussians: int | None = None
    findings: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    files: tuple[Stored, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Why a running job must not go on: the state it ends in, and the line that says so."""

    state: State
    error: str


@dataclass(frozen=True)
class StageSeconds:
    attempt: int
    stage: Stage
    seconds: float


class ClaimLost(BaseException):
    """The claim is void: the job is another engine's, or has ended.

    No Exception, because DBOS would record that as the result of the step.
    """


@dataclass(frozen=True)
class JobStore:
    """The job rows, as one engine writes them. clock: seconds since 1970. last_words: the traceback that an engine of
    this id left behind when it died; empty without one."""

    store: Store
    engine: str
    max_deaths: int
    clock: Callable[[], float]
    last_words: Callable[[str], str] = field(default=lambda _engine: "")

    def begin(self, id: str) -> Claim | None:
        """Claims the job; None where there is nothing to do: it is gone, has ended, or must not run any more."""
        with self.store.noting() as connection:
            mine = sa.select(jobs).where(jobs.c.id == id)
            row = connection.execute(mine.with_for_update()).mappings().first()
            if not row or row["state"] in ENDED:
                return None
            stop = self._stop(row)
            if row["starts"] and not stop and self._hangs_always(row):
                stop = Stop("QUARANTINED", f"{HANGS}: {self.last_words(row['engine'])}")
            if row["starts"] >= self.max_deaths and not stop:
                stop = Stop("QUARANTINED", self._obituary(row))
            if not stop:
                begun = {"state": "RUNNING", "engine": self.engine, "started": self.clock()}
                counted = {"starts": row["starts"] + 1, "version": row["version"] + 1}
                connection.execute(sa.update(jobs).where(jobs.c.id == id).values(**begun, **counted))
                return Claim(to_job({**row, **begun, **counted}, ()), self.engine, counted["starts"])
        self._refuse(id, stop)
        return None

    def progress(self, claim: Claim, attempt: int, stage: Stage, fraction: float) -> Stop | None:
        """Notes how far the job is, and returns why it must stop, if it must. Raises ClaimLost."""
        change = {"attempt": attempt, "stage": stage, "fraction": fraction, "version": jobs.c.version + 1}
        with self.store.noting() as connection:
            noted = sa.update(jobs).where(_held(claim)).values(**change).returning(jobs.c.cancelled, jobs.c.deadline)
            row = connection.execute(noted).mappings().first()
        if not row:
            raise ClaimLost
        return self._stop(row)

    def end(self, claim: Claim, ending: JobResult, times: tuple[StageSeconds, ...] = ()) -> None:
        """Ends the job, once and durably, with its files and its counts. Raises ClaimLost, having written nothing."""
        now, id = self.clock(), claim.job.id
        change = {
            "state": ending.state,
            "stage": "",
            "fraction": 1.0 if ending.state == "DONE" else None,
            "finished": now,
            "attempt": ending.attempt or claim.job.attempt,
            "seed": claim.job.seed if ending.seed is None else ending.seed,
            "outcome": ending.outcome,
            "reasons": [reason.to_dict() for reason in ending.reasons],
            "score": ending.score,
            "scores": list(ending.scores),
            "gaussians": ending.gaussians,
            "error": storable(ending.error),
            "version": jobs.c.version + 1,
        }
        with self.store.writing() as connection:
            if not connection.execute(sa.update(jobs).where(_held(claim)).values(**change)).rowcount:
                raise ClaimLost
            add_files(connection, id, ending.files, now)
            if times:
                connection.execute(sa.insert(stage_times), [{"job": id, **vars(time)} for time in times])
            if ending.state == "DONE":
                self._result(connection, claim, ending, now)
            self._tallies(connection, ending)

    def release(self, claim: Claim) -> None:
        """Gives the job back unharmed: it waits again, and this start does not count against it."""
        change = {"state": "QUEUED", "starts": jobs.c.starts - 1, "stage": "", "fraction": None}
        with self.store.writing() as connection:
            connection.execute(sa.update(jobs).where(_held(claim)).values(**change, version=jobs.c.version + 1))

    def requeue(self, engine: str) -> int:
        """Shows the jobs of an engine that has died as waiting again; DBOS hands them out. Returns how many."""
        change = {"state": "QUEUED", "stage": "", "fraction": None, "version": jobs.c.version + 1}
        with self.store.writing() as connection:
            mine = (jobs.c.engine == engine) & (jobs.c.state == "RUNNING")
            return connection.execute(sa.update(jobs).where(mine).values(**change)).rowcount

    def expire(self) -> int:
        """Ends the waiting jobs whose deadline has passed. Returns how many."""
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

    def given(self, id: str, names: tuple[str, ...]) -> Stored | None:
        """The file of a job that has one of these names, or None."""
        with self.store.reading() as connection:
            mine = (assets.c.job == id) & assets.c.name.in_(names)
            row = connection.execute(sa.select(assets).where(mine)).first()
        return Stored(row.name, row.path, row.size, row.sha256) if row else None

    def show(self, id: str, files: tuple[Stored, ...]) -> None:
        """Adds files to a job that has ended."""
        with self.store.writing() as connection:
            if connection.execute(sa.update(jobs).where(jobs.c.id == id).values(version=jobs.c.version + 1)).rowcount:
                add_files(connection, id, files, self.clock())

    def _stop(self, row: sa.RowMapping) -> Stop | None:
        if row["cancelled"]:
            return Stop("CANCELLED", "cancelled by the caller")
        if row["deadline"] is not None and row["deadline"] < self.clock():
            return Stop("EXPIRED", LATE)
        return None

    def _hangs_always(self, row: sa.RowMapping) -> bool:
        """Whether the job ran into a stage's deadline with what its caller brought: the next time would be the same."""
        return row["kind"] in BROUGHT and self.last_words(row["engine"] or "").startswith("Timeout")

    def _obituary(self, row: sa.RowMapping) -> str:
        words = self.last_words(row["engine"] or "") or "it left no traceback (killed from outside, or out of memory)"
        return f"its engine died {row['starts']} times while it ran (jobs.max_deaths); the last time: {words}"

    def _refuse(self, id: str, stop: Stop) -> None:
        change = {
            "state": stop.state,
            "error": storable(stop.error),
            "finished": self.clock(),
            "stage": "",
            "fraction": None,
        }
        with self.store.writing() as connection:
            open_ = (jobs.c.id == id) & jobs.c.state.in_(("QUEUED", "RUNNING"))
            done = connection.execute(sa.update(jobs).where(open_).values(**change, version=jobs.c.version + 1))
            if done.rowcount:
                self.store.tally(connection, "state", stop.state)

    def _result(self, connection: sa.Connection, claim: Claim, ending: JobResult, now: float) -> None:
        row = {"job": claim.job.id, "kind": claim.job.kind, "outcome": ending.outcome, "score": ending.score}
        seconds = max(0.0, now - (claim.job.started or now))  # a clock that was set back
        connection.execute(sa.insert(results).values(**row, gaussians=ending.gaussians, seconds=seconds))

    def _tallies(self, connection: sa.Connection, ending: JobResult) -> None:
        counted: list[tuple[str, str]] = [("state", ending.state)]
        counted += [("outcome", ending.outcome)] if ending.outcome else []
        counted += [("reason", reason.code) for reason in ending.reasons]
        counted += [("finding", kind) for kind in ending.findings] + [("repair", kind) for kind in ending.repairs]
        for what, label in counted:
            self.store.tally(connection, what, label)


BROUGHT: tuple[Kind, ...] = ("validate", "repair", "turntable")
HANGS = "a stage took longer than its deadline, and would with this splat each time"
LATE = "its deadline passed before it was done"


def storable(text: str) -> str:
    """Without what one of the databases does not take: half a character, as in the names of some files, and zeros."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def add_files(connection: sa.Connection, id: str, files: tuple[Stored, ...], now: float) -> None:
    """Says of a job that it has these files; those of the same names are replaced."""
    if files:
        names = [file.name for file in files]
        connection.execute(sa.delete(assets).where(assets.c.job == id, assets.c.name.in_(names)))
        connection.execute(sa.insert(assets), [{"job": id, "modified": now, **vars(file)} for file in files])


def _held(claim: Claim) -> sa.ColumnElement[bool]:
    mine = (jobs.c.id == claim.job.id) & (jobs.c.engine == claim.engine) & (jobs.c.starts == claim.start)
    return mine & (jobs.c.state == "RUNNING")

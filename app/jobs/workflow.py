"""A job's way through an engine: durable steps, so that a job whose engine died goes on after its last finished step.

This file does not know processes, GPUs or heartbeats, nor what a step does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from dbos import DBOS, PortableWorkflowError
from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from app.attempts import best_attempt
from app.errors import DatabaseDown, SplatgateError, StorageDown, Unavailable
from app.jobs.assets import Assets, Stored
from app.jobs.job_store import Claim, ClaimLost, JobResult, JobStore
from app.jobs.progress import Progress, Stopped
from app.jobs.steps import DrawResult, Steps
from app.reason import Reason
from app.stage import Stage

Values = dict[str, Any]
"""A step's result as JSON has it."""


class Worker:
    """Runs the jobs that it is given, one at a time.

    guard: runs a heavy call; what the engine does about memory and broken GPUs. arm: told each stage as it begins, and
    None when none runs. busy: told the id of the job that runs, or None. fatal: ends the process.
    """

    def __init__(
        self,
        steps: Steps,
        job_store: JobStore,
        assets: Assets,
        guard: Callable[[Callable[[], Values]], Values],
        arm: Callable[[Stage | None], None],
        busy: Callable[[str | None], None],
        fatal: Callable[[Exception], NoReturn],
    ) -> None:
        self._steps = steps
        self._job_store = job_store
        self._assets = assets
        self._guard = guard
        self._arm = arm
        self._busy = busy
        self._fatal = fatal
        self._quiet = threading.Condition()
        self._claim: Claim | None = None
        self._running = False  # from before a job is begun until after it has ended
        self._parked = self._draining = False

    def drain(self, timeout: float) -> bool:
        """Takes no further job, and waits for the running stage to end.

        Returns whether it ended within `timeout` seconds. The process must end now: a thread of it waits for ever.
        """
        with self._quiet:
            self._draining = True
            return self._quiet.wait_for(lambda: self._parked or not self._running, timeout)

    def give_back(self) -> None:
        """The job that was drained waits again. Raises DatabaseDown."""
        if claim := self._claim:
            self._job_store.release(claim)

    def run(self, id: str) -> None:
        """The workflow: one job from begin to end."""
        self._checkpoint()
        try:
            if claim := self._job_store.begin(id):
                self._hold(claim)
                with logger.contextualize(job=id), suppress(ClaimLost):
                    self._work(claim)
        except DatabaseDown as error:
            self._lose_hold(error)
        finally:
            self._hold(None)

    def _work(self, claim: Claim) -> None:
        progress = Progress(self._job_store, claim, self._arm, self._checkpoint)
        ending = self._ending(progress)
        self._job_store.end(claim, ending, tuple(progress.times))
        self._tidy(claim, ending)
        logger.info(f"job {claim.job.id}: {ending.state} {ending.outcome or ending.error}")

    def _lose_hold(self, error: DatabaseDown) -> NoReturn:
        """Without the database nothing can be said of a job, so nothing is: the next engine finds it as it was."""
        if self._claim:
            with suppress(DatabaseDown):
                self._job_store.release(self._claim)
        self._fatal(error)

    def _ending(self, progress: Progress) -> JobResult:
        """What became of the job. A failure of its own ends it; one of the database is for the engine to deal with."""
        job = progress.claim.job
        try:
            if job.kind == "generate":
                return best_attempt(job.attempts, lambda number: self._attempt(progress, number))
            step = {"validate": self._steps.validate, "repair": self._steps.repair, "turntable": self._steps.turntable}
            return _to_job_result(self._durable(job.kind, progress, lambda: asdict(step[job.kind](progress))))
        except Stopped as stopped:
            return JobResult(stopped.stop.state, stopped.stop.error)
        except ClaimLost:
            logger.warning(f"job {job.id}: another engine has it, or it is gone; what was done here is dropped")
            raise
        except DatabaseDown:
            raise
        except SQLAlchemyError as error:  # DBOS could not record a step
            reason = str(error).partition("\n")[0]
            raise DatabaseDown(f"job {job.id}: a finished step could not be recorded: {reason}") from error
        except (SplatgateError, PortableWorkflowError) as error:  # the latter: a failed step, as it was recorded
            return JobResult("FAILED", str(error))
        except Exception as error:  # noqa: BLE001  the edge: whatever a stage throws ends its job, not the engine
            logger.opt(exception=error).error(f"job {job.id}: failed")
            return JobResult("FAILED", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _attempt(self, progress: Progress, attempt: int) -> JobResult:
        drawn = _to_draw_result(
            self._durable(f"draw {attempt}", progress, lambda: asdict(self._steps.draw(progress, attempt)))
        )
        return _to_job_result(
            self._durable(f"build {attempt}", progress, lambda: asdict(self._steps.build(progress, attempt, drawn)))
        )

    def _durable(self, name: str, progress: Progress, call: Callable[[], Values]) -> Values:
        """A step: what it returned once it returns for ever. Being stopped is not a result."""

        def step() -> Values:
            try:
                return self._guard(call)
            except DatabaseDown as error:
                self._lose_hold(error)
            except StorageDown as error:
                self._fatal(error)  # not given back: should this one job's files be the trouble, it kills a few only
            finally:
                progress.close()

        return DBOS.run_step({"name": name}, step)

    def _tidy(self, claim: Claim, ending: JobResult) -> None:
        """Removes the files that nobody can ask for: attempts that were not chosen, a failed job's everything."""
        attempts = (f"{claim.job.id}/{each}" for each in range(1, claim.job.attempts + 1) if each != ending.attempt)
        try:
            for path in attempts if ending.state == "DONE" else (claim.job.id,):
                self._assets.remove(path)
        except Unavailable as error:
            logger.warning(f"{error}; it goes with the job, when that is forgotten")

    def _checkpoint(self) -> None:
        """Between two stages, and before the first: where the engine drains, this thread does not go on."""
        with self._quiet:
            self._running = True
            if not self._draining:
                return
            self._parked = True
            self._quiet.notify_all()
        threading.Event().wait()

    def _hold(self, claim: Claim | None) -> None:
        self._busy(claim.job.id if claim else None)
        with self._quiet:
            self._claim = claim
            self._running = claim is not None
            self._quiet.notify_all()


def _to_job_result(values: Values) -> JobResult:
    tuples = {name: tuple(values[name]) for name in ("scores", "findings", "repairs")}
    tuples["reasons"] = tuple(map(Reason.from_stored, values["reasons"]))
    return JobResult(**values | tuples | {"files": tuple(Stored(**file) for file in values["files"])})


def _to_draw_result(values: Values) -> DrawResult:
    picture = Stored(**values["picture"]) if values["picture"] else None
    failure = Reason.from_stored(values["failure"]) if values["failure"] else None
    return DrawResult(**values | {"picture": picture, "failure": failure})

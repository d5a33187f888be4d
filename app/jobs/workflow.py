"""The workflow of a job: durable steps, so that a job whose engine died continues after its last finished step.

Nothing here depends on processes, GPUs or heartbeats, nor on what a step does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from dbos import DBOS, PortableWorkflowError
from loguru import logger
from sqlalchemy.exc import SQLAlchemyError

from app.attempts import best_attempt
from app.errors import DatabaseDown, SplatgateError, StorageDown, Unavailable
from app.gate import MetricValue
from app.jobs.assets import Assets, Stored
from app.jobs.job_store import Claim, ClaimLost, JobResult, JobStore, Stop
from app.jobs.progress import Progress, Stopped
from app.jobs.queue import JobQueue
from app.jobs.records import Kind
from app.jobs.splat_steps import make_turntable, repair_splat, validate_splat
from app.jobs.steps import DrawResult, Steps
from app.jobs.turns import Turns
from app.reason import Reason
from app.stage import Stage

Values = dict[str, Any]
"""A step's result, as in JSON."""

SINGLE_STEPS: dict[Kind, Callable[[Steps, Progress], JobResult]] = {
    "validate": validate_splat,
    "repair": repair_splat,
    "turntable": make_turntable,
    "cutout": Steps.cut_out,
}
"""The kinds of jobs that are one step."""

STORAGE_SECONDS = 1.0
"""Between two checks whether files can be stored."""


@dataclass(frozen=True)
class EngineHooks:
    """Callbacks from the worker to its engine.

    guard: runs an expensive call, and handles lack of memory and broken GPUs. arm: gets each stage as it starts, and
    None when none runs. busy: gets the id of the running job, or None. can_store: whether the files of a job can be
    stored. fatal: ends the process.
    """

    guard: Callable[[Callable[[], Values]], Values]
    arm: Callable[[Stage | None], None]
    busy: Callable[[str | None], None]
    can_store: Callable[[], bool]
    fatal: Callable[[Exception], NoReturn]


class Worker:
    """Runs the jobs that it gets, one at a time, in the order of their arrival."""

    def __init__(self, steps: Steps, job_store: JobStore, queue: JobQueue, assets: Assets, hooks: EngineHooks) -> None:
        self._steps = steps
        self._job_store = job_store
        self._queue = queue
        self._assets = assets
        self._hooks = hooks
        self._turns = Turns()
        self._claim: Claim | None = None

    @property
    def jobs(self) -> set[str]:
        """The ids of the jobs that run or wait here."""
        return self._turns.jobs

    def drain(self, timeout: float) -> bool:
        """Starts no further job, and waits up to `timeout` seconds for the running stage to end. Returns whether it
        ended. The process must exit then."""
        return self._turns.drain(timeout)

    def release(self) -> None:
        """Returns the drained job to the queue. Raises DatabaseDown."""
        if claim := self._claim:
            self._job_store.release(claim)

    def run(self, id: str) -> None:
        """The workflow: one job from its claim to its end.

        Returns when the job has ended. If the claim was lost, the job is put back first: then DBOS records nothing of
        this run, and cannot consider a job done whose row has not ended.
        """
        with self._turns.take(id):
            self._turns.checkpoint()
            self._wait_for_storage()
            try:
                if claim := self._job_store.claim(id):
                    self._hold(claim)
                    with logger.contextualize(job=id):
                        self._work(claim)
            except ClaimLost:
                self._give_up(id)
            except DatabaseDown as error:
                self._end_process(error)
            finally:
                self._hold(None)

    def _wait_for_storage(self) -> None:
        """Returns once the files of a job can be stored, so that no job fails half-way."""
        while not self._hooks.can_store():
            time.sleep(STORAGE_SECONDS)
            self._turns.checkpoint()

    def _work(self, claim: Claim) -> None:
        progress = Progress(self._job_store, claim, self._hooks.arm, self._turns.checkpoint)
        result = self._result(progress)
        self._job_store.end(claim, result, tuple(progress.times))
        self._tidy(claim, result)
        logger.info(f"job {claim.job.id}: {result.state} {result.outcome or result.error}")

    def _give_up(self, id: str) -> None:
        """After the claim was lost: puts the job back if DBOS still assigns it to this engine. The run is void."""
        try:
            if self._queue.held().get(id) == self._job_store.instance:
                self._queue.put_back(id)
        except DatabaseDown as error:
            self._hooks.fatal(error)
        logger.warning(f"job {id}: this engine lost its claim and discards its work")

    def _end_process(self, error: DatabaseDown | StorageDown) -> NoReturn:
        """Without database or storage a job cannot continue: it is released, for the next engine."""
        if self._claim:
            with suppress(DatabaseDown):
                self._job_store.release(self._claim)
        self._hooks.fatal(error)

    def _result(self, progress: Progress) -> JobResult:
        """The result of the job. A failure of the job ends it; a failure of the database is handled by the engine."""
        job = progress.claim.job
        try:
            if job.kind == "generate":
                return best_attempt(job.attempts, lambda number: self._attempt(progress, number))
            step = SINGLE_STEPS[job.kind]
            return _to_job_result(self._durable(job.kind, progress, lambda: asdict(step(self._steps, progress))))
        except Stopped as stopped:
            return JobResult(stopped.stop.state, stopped.stop.error)
        except (ClaimLost, DatabaseDown):
            raise
        except SQLAlchemyError as error:  # DBOS could not record a step
            reason = str(error).partition("\n")[0]
            raise DatabaseDown(f"job {job.id}: a finished step could not be recorded: {reason}") from error
        except (SplatgateError, PortableWorkflowError) as error:  # the latter: a failed step, as it was recorded
            return JobResult("FAILED", str(error))
        except Exception as error:  # noqa: BLE001  any exception of a stage ends its job, not the engine
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
        """A step: once it has returned a result, it always returns that result. Being stopped is a result too.

        Raises Stopped and ClaimLost.
        """

        def step() -> Values:
            try:
                return self._hooks.guard(call)
            except Stopped as stopped:
                return {"stopped": asdict(stopped.stop)}
            except ClaimLost:
                self._give_up(progress.claim.job.id)  # first: DBOS would record the error as the step's result
                raise
            except DatabaseDown as error:
                self._end_process(error)
            except StorageDown as error:
                if self._assets.is_down():
                    self._end_process(error)
                self._hooks.fatal(error)  # the store works: this job may be the cause, so its start counts
            finally:
                progress.close()

        values = DBOS.run_step({"name": name}, step)
        if stop := values.get("stopped"):
            raise Stopped(Stop(**stop))
        return values

    def _tidy(self, claim: Claim, result: JobResult) -> None:
        """Removes files that cannot be fetched: those of attempts that were not chosen, and all of a failed job."""
        id, kept = claim.job.id, {"input", *(file.path.split("/")[1] for file in result.files)}
        try:
            if result.state != "DONE":
                self._assets.remove(id)
            elif claim.job.attempts > 1 or claim.start > 1:
                for name in set(self._assets.names(id)) - kept:
                    self._assets.remove(f"{id}/{name}")
        except Unavailable as error:
            logger.warning(f"{error}; it is deleted with the job")

    def _hold(self, claim: Claim | None) -> None:
        self._claim = claim
        self._hooks.busy(claim.job.id if claim else None)


def _to_job_result(values: Values) -> JobResult:
    tuples = {name: tuple(values[name]) for name in ("scores", "findings", "repairs")}
    tuples["reasons"] = tuple(map(Reason.from_stored, values["reasons"]))
    metrics = {
        name: MetricValue(**each) for name, each in values.get("metrics", {}).items()
    }  # none in an older release
    return JobResult(
        **values | tuples | {"metrics": metrics, "files": tuple(Stored(**file) for file in values["files"])}
    )


def _to_draw_result(values: Values) -> DrawResult:
    picture = Stored(**values["picture"]) if values["picture"] else None
    failure = Reason.from_stored(values["failure"]) if values["failure"] else None
    return DrawResult(**values | {"picture": picture, "failure": failure})

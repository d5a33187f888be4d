"""What an engine does with the jobs that it gets from the queue.

Nothing here depends on processes, GPUs or heartbeats, nor on what a step does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from loguru import logger

from app.errors import DatabaseDown, StorageDown, Unavailable
from app.jobs.assets import Assets
from app.jobs.file_writer import FileWriter
from app.jobs.held_claims import HeldClaims
from app.jobs.job_run import JobRun
from app.jobs.job_store import Claim, ClaimLost, JobResult, JobStore
from app.jobs.progress import Progress
from app.jobs.queue import JobQueue
from app.jobs.steps import JudgedAttempt, Steps
from app.jobs.turns import Turns
from app.stage import Stage

STORAGE_SECONDS = 1.0
"""Between two checks whether files can be stored."""


@dataclass(frozen=True)
class EngineHooks:
    """Callbacks from the worker to its engine.

    guard: runs an expensive call, and handles lack of memory and broken GPUs. arm: gets the stage that begins (None:
    none runs) and the id of the job. busy: gets the id of the running job, or None. can_store: whether the files
    of a job can be stored. fatal: ends the process.
    """

    guard: Callable[[Callable[[], Any]], Any]
    arm: Callable[[Stage | None, str], None]
    busy: Callable[[str | None], None]
    can_store: Callable[[], bool]
    fatal: Callable[[Exception], NoReturn]


class Worker:
    """Runs the jobs that it gets, in the order of their arrival, while the files of the last one are being written."""

    def __init__(self, steps: Steps, job_store: JobStore, queue: JobQueue, assets: Assets, hooks: EngineHooks) -> None:
        self._steps = steps
        self._job_store = job_store
        self._queue = queue
        self._assets = assets
        self._hooks = hooks
        self._turns = Turns()
        self._files = FileWriter()
        self._claims = HeldClaims(hooks.busy)

    @property
    def jobs(self) -> set[str]:
        """The ids of the jobs that run, wait, or have their files written here."""
        return self._turns.jobs | self._files.jobs

    def drain(self, timeout: float) -> bool:
        """Starts no further job, and waits up to `timeout` seconds until the running stage has ended and all files are
        written. Returns False at the timeout. The process must exit then."""
        end = time.monotonic() + timeout
        return self._turns.drain(timeout) and self._files.wait(max(0.0, end - time.monotonic()))

    def release(self) -> None:
        """Returns the drained jobs to the queue. Raises DatabaseDown."""
        self._release_except("")

    def run(self, id: str) -> None:
        """The workflow: one job from its claim until it has ended, or only its files are left to write.

        If the claim was lost, the job is put back first: then DBOS records nothing of this run. If the process dies
        while files are written, the workflow is over but the row is RUNNING: the reconciler queues the job again.
        """
        with self._turns.take(id):
            self._turns.checkpoint()
            self._wait_for_storage()
            with self._claim_errors(id):
                writing = self._files.jobs
                if writing and (id in writing or self._job_store.was_started(id)):
                    self._files.wait()  # a crash of either job must not count against the other
                if claim := self._job_store.claim(id):
                    self._claims.add(claim)
                    with logger.contextualize(job=id):
                        self._work(claim)

    def _wait_for_storage(self) -> None:
        """Returns once the files of a job can be stored, so that no job fails half-way."""
        while not self._hooks.can_store():
            time.sleep(STORAGE_SECONDS)
            self._turns.checkpoint()

    @contextmanager
    def _claim_errors(self, id: str) -> Iterator[None]:
        """Handles a lost claim or database. Afterwards the claim is forgotten, unless files are left to write."""
        try:
            yield
        except ClaimLost:
            self._give_up(id)
        except DatabaseDown as error:
            self._end_process(error)
        finally:
            if id not in self._files.jobs:
                self._claims.drop(id)

    def _work(self, claim: Claim) -> None:
        progress = Progress(self._job_store, claim, self._hooks.arm, self._turns.checkpoint)
        run = JobRun(self._steps, progress, lambda call: self._protected(progress, call))
        outcome = run.outcome()
        if isinstance(outcome, JobResult):
            self._end(progress, outcome)
            return
        self._files.start(claim.job.id, lambda: self._write(run, outcome))
        if claim.start > 1:  # a crash of the next job must not count against it
            self._files.wait()

    def _write(self, run: JobRun, judged: JudgedAttempt) -> None:
        """In the thread for files."""
        id = run.progress.claim.job.id
        try:
            with logger.contextualize(job=id), self._claim_errors(id):
                self._end(run.progress, run.write(judged))
        finally:
            self._claims.drop(id)

    def _protected(self, progress: Progress, call: Callable[[], Any]) -> Any:
        """Runs expensive work on a job. Without database or storage the process ends."""
        id = progress.claim.job.id
        try:
            return self._hooks.guard(call)
        except ClaimLost:
            self._give_up(id)  # first: DBOS would record the error as the step's result
            raise
        except DatabaseDown as error:
            self._end_process(error)
        except StorageDown as error:
            if self._assets.is_down():
                self._end_process(error)
            self._turns.close()
            with suppress(DatabaseDown):  # the store works: this job may be the cause, so only its start counts
                self._release_except(id)
            self._hooks.fatal(error)
        finally:
            progress.close()

    def _end(self, progress: Progress, result: JobResult) -> None:
        claim = progress.claim
        self._job_store.end(claim, result, tuple(progress.times))
        self._tidy(claim, result)
        logger.info(f"job {claim.job.id}: {result.state} {result.outcome or result.error}")

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

    def _give_up(self, id: str) -> None:
        """After the claim was lost: puts the job back if DBOS still assigns it to this engine. The run is void."""
        try:
            # while files are written the workflow is over, or DBOS has given this engine the job once more
            if id not in self._files.jobs and self._queue.held().get(id) == self._job_store.instance:
                self._queue.put_back(id)
        except DatabaseDown as error:
            self._hooks.fatal(error)
        logger.warning(f"job {id}: this engine lost its claim and discards its work")

    def _end_process(self, error: DatabaseDown | StorageDown) -> NoReturn:
        """Without database or storage no job can continue: all are released, for the next engine."""
        self._turns.close()  # or this engine could claim one of them again
        with suppress(DatabaseDown):
            self._release_except("")
        self._hooks.fatal(error)

    def _release_except(self, id: str) -> None:
        for claim in self._claims.except_for(id):
            if self._job_store.release(claim) and claim.job.id in self._files.jobs:  # its workflow is over
                self._queue.renew(claim.job.id, claim.job.priority, claim.job.sequence or 0)

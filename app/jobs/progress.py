"""The progress of a running job. Between stages it is recorded, and the job may be stopped or, in a drain, parked."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.jobs.job_store import Claim, JobStore, StageSeconds, Stop
from app.pipeline import OnStage
from app.stage import Stage
from app.stages.picture import OnStep

DONE_BEFORE: dict[Stage, float] = {
    Stage.SPLAT: 0.3,
    Stage.REPAIR: 0.6,
    Stage.RENDER: 0.7,
    Stage.SCORE: 0.8,
    Stage.FILES: 0.9,
}
"""Fraction of an attempt that is done when a stage begins; 0 for the first stage."""

RECORD_SECONDS = 0.5
"""Interval at which progress within a stage is recorded."""


class Stopped(Exception):
    """The job must stop: it was cancelled, or its deadline has passed."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.error)
        self.stop = stop


class Progress:
    """The stages of one job, as they begin and end.

    arm: gets the stage that begins (None: none runs) and the id of the job. checkpoint: called between stages; it does
    not return while the engine drains.
    """

    def __init__(
        self,
        job_store: JobStore,
        claim: Claim,
        arm: Callable[[Stage | None, str], None],
        checkpoint: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.times: list[StageSeconds] = []
        self._job_store = job_store
        self._arm = arm
        self._checkpoint = checkpoint
        self._running: tuple[int, Stage, float] | None = None

    def on_stage(self, attempt: int) -> OnStage:
        """The callback for the stages of an attempt."""
        return lambda stage: self.begin(attempt, stage)

    def begin(self, attempt: int, stage: Stage) -> None:
        """Begins a stage, which ends the one before. Raises Stopped or ClaimLost."""
        self.close()
        self._checkpoint()
        self._begin(attempt, stage)

    def begin_files(self, attempt: int) -> None:
        """Begins the stage in which the files are written. A drain waits for it, so this is no checkpoint.

        Raises Stopped or ClaimLost.
        """
        self.close()
        self._begin(attempt, Stage.FILES)

    def close(self) -> None:
        """Ends the running stage, if any."""
        self._arm(None, self.claim.job.id)
        if self._running:
            attempt, stage, since = self._running
            self.times.append(StageSeconds(attempt, stage, time.monotonic() - since))
            self._running = None

    def _begin(self, attempt: int, stage: Stage) -> None:
        before = self.claim.job.attempts if stage == Stage.FILES else attempt  # files are written after all attempts
        self._record(attempt, stage, (before - 1 + DONE_BEFORE.get(stage, 0)) / self.claim.job.attempts)
        self._arm(stage, self.claim.job.id)
        self._running = attempt, stage, time.monotonic()

    def _record(self, attempt: int, stage: Stage, done: float) -> None:
        if stop := self._job_store.progress(self.claim, attempt, stage, done):
            raise Stopped(stop)

    def on_step(self, attempt: int) -> OnStep:
        """The callback for the denoising steps of the picture."""
        share = DONE_BEFORE[Stage.SPLAT] / self.claim.job.attempts
        report = self.on_fraction(Stage.PICTURE, attempt, share)
        return lambda done, of: report(done / of)

    def on_fraction(self, stage: Stage, attempt: int = 1, share: float = 1.0) -> Callable[[float], None]:
        """The callback for a stage that reports its own progress, in (0, 1]. share: the stage's fraction of the job."""
        recorded, before = time.monotonic(), (attempt - 1) / self.claim.job.attempts

        def report(done: float) -> None:
            nonlocal recorded
            if time.monotonic() - recorded >= RECORD_SECONDS:
                recorded = time.monotonic()
                self._checkpoint()
                self._record(attempt, stage, before + share * done)

        return report

"""Where a running job is: between two stages it is noted, may be stopped, and an engine that drains lets go of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.jobs.job_store import Claim, JobStore, StageSeconds, Stop
from app.pipeline import OnStage
from app.stage import Stage
from app.stages.picture import OnStep

DONE_BEFORE: dict[Stage, float] = {Stage.SPLAT: 0.3, Stage.REPAIR: 0.6, Stage.RENDER: 0.7, Stage.SCORE: 0.8}
"""How much of an attempt is done when a stage begins; nothing at the first."""

NOTE_SECONDS = 0.5
"""A stage that tells how far it is is noted this often."""


class Stopped(Exception):
    """The job must not go on: it was cancelled, or its deadline has passed."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.error)
        self.stop = stop


class Progress:
    """The stages of one job, as they begin and end.

    arm: told each stage as it begins, and None when none runs. checkpoint: called between stages; it does not return
    where the engine drains.
    """

    def __init__(
        self, job_store: JobStore, claim: Claim, arm: Callable[[Stage | None], None], checkpoint: Callable[[], None]
    ) -> None:
        self.claim = claim
        self.times: list[StageSeconds] = []
        self._job_store = job_store
        self._arm = arm
        self._checkpoint = checkpoint
        self._running: tuple[int, Stage, float] | None = None

    def on_stage(self, attempt: int) -> OnStage:
        """What the pipeline tells its stages to."""
        return lambda stage: self.begin(attempt, stage)

    def begin(self, attempt: int, stage: Stage) -> None:
        """A stage begins, and the one before it has ended. Raises Stopped or ClaimLost."""
        self.close()
        done = (attempt - 1 + DONE_BEFORE.get(stage, 0)) / self.claim.job.attempts
        self.note(attempt, stage, done)
        self._arm(stage)
        self._running = attempt, stage, time.monotonic()

    def close(self) -> None:
        """No stage runs any more."""
        self._arm(None)
        if self._running:
            attempt, stage, since = self._running
            self.times.append(StageSeconds(attempt, stage, time.monotonic() - since))
            self._running = None

    def note(self, attempt: int, stage: Stage, done: float) -> None:
        self._checkpoint()
        if stop := self._job_store.progress(self.claim, attempt, stage, done):
            raise Stopped(stop)

    def on_step(self, attempt: int) -> OnStep:
        """What the drawing of a picture tells its steps to."""
        share = DONE_BEFORE[Stage.SPLAT] / self.claim.job.attempts
        told = self.on_fraction(Stage.PICTURE, attempt, share)
        return lambda done, of: told(done / of)

    def on_fraction(self, stage: Stage, attempt: int = 1, share: float = 1.0) -> Callable[[float], None]:
        """For a stage that tells how far it is itself, in (0, 1]. share: of the whole job, that this stage is."""
        noted, before = time.monotonic(), (attempt - 1) / self.claim.job.attempts

        def told(done: float) -> None:
            nonlocal noted
            if time.monotonic() - noted >= NOTE_SECONDS:
                noted = time.monotonic()
                self.note(attempt, stage, before + share * done)

        return told

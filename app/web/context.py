"""What every view uses: the configuration, the jobs, and whether the process is stopping."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Flask, current_app

from app.config import Config
from app.decoding import Decoder
from app.jobs.client import Jobs
from app.web.auth import current_caller
from app.web.caller_jobs import CallerJobs

KEY = "splatgate"
POLL_SECONDS = 1.0
"""How soon a waiting view notices that the process is stopping."""


class Drain:
    """Whether the process was asked to stop. Event streams then end at once; waits end shortly before the grace period
    does, or once no engine is left to run their job."""

    def __init__(self, grace_seconds: float) -> None:
        self._wait_seconds = max(0.0, grace_seconds - 2 * POLL_SECONDS)
        self._stopping: Callable[[], bool] = bool
        self._begun: float | None = None

    def begin_when(self, stopping: Callable[[], bool]) -> None:
        """stopping: returns whether the server was asked to stop. It is polled, so that no signal handler is needed."""
        self._stopping = stopping

    @property
    def begun(self) -> bool:
        if self._begun is None and self._stopping():
            self._begun = time.monotonic()
        return self._begun is not None

    @property
    def over(self) -> bool:
        return self.begun and time.monotonic() - (self._begun or 0.0) > self._wait_seconds


def attach(app: Flask, config: Config, jobs: Jobs) -> Drain:
    """Stores configuration, jobs and a new Drain in the application. Call it once."""
    drain = Drain(config.serve.grace_seconds)
    app.extensions[KEY] = config, jobs, drain, Decoder(config.limits)
    return drain


def current_config() -> Config:
    """The configuration of the current application."""
    config: Config = current_app.extensions[KEY][0]
    return config


def all_jobs() -> Jobs:
    """The jobs of all callers, for views that show no job: health, metrics, feedback."""
    jobs: Jobs = current_app.extensions[KEY][1]
    return jobs


def current_jobs() -> CallerJobs:
    """The jobs that the caller of the current request may see."""
    return CallerJobs(all_jobs(), current_caller())


def current_decoder() -> Decoder:
    """The decoder of the current application."""
    decoder: Decoder = current_app.extensions[KEY][3]
    return decoder


def current_drain() -> Drain:
    """The drain of the current application."""
    return drain_of(current_app)


def drain_of(app: Flask) -> Drain:
    drain: Drain = app.extensions[KEY][2]
    return drain

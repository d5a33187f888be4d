"""What every view works with: the configuration, the jobs, and whether the process is about to end."""

from __future__ import annotations

import time

from flask import Flask, current_app

from app.config import Config
from app.errors import NotYet
from app.jobs.client import Jobs
from app.jobs.records import Job

KEY = "splatgate"
LOOK_EVERY = 1.0
"""Seconds; how soon a waiting view notices that the process is about to end."""


class Drain:
    """Set when the process was asked to end: streams end at once, waits a little before the time is over."""

    def __init__(self, grace_seconds: float) -> None:
        self._waits_for = max(0.0, grace_seconds - 2 * LOOK_EVERY)
        self._begun: float | None = None

    def begin(self) -> None:
        self._begun = time.monotonic()

    @property
    def begun(self) -> bool:
        return self._begun is not None

    @property
    def over(self) -> bool:
        return self._begun is not None and time.monotonic() - self._begun > self._waits_for


def attach(app: Flask, config: Config, jobs: Jobs) -> Drain:
    """Hangs them on the application, once."""
    drain = Drain(config.serve.grace_seconds)
    app.extensions[KEY] = config, jobs, drain
    return drain


def the_config() -> Config:
    """The configuration of the application that answers the current request."""
    config: Config = current_app.extensions[KEY][0]
    return config


def the_jobs() -> Jobs:
    """The jobs of the application that answers the current request."""
    jobs: Jobs = current_app.extensions[KEY][1]
    return jobs


def the_drain() -> Drain:
    drain: Drain = current_app.extensions[KEY][2]
    return drain


def wait_for(id: str) -> Job:
    """The ended job. Raises NotYet where it has not ended within worker.wait_seconds, or the process is to end."""
    jobs, drain, seconds = the_jobs(), the_drain(), the_config().worker.wait_seconds
    end = time.monotonic() + seconds
    job = jobs.get(id)
    while not job.ended and not drain.over and (left := end - time.monotonic()) > 0:
        job = jobs.wait(id, min(left, LOOK_EVERY))
    if not job.ended:
        why = "the service is being restarted" if drain.over else f"it has not ended within {seconds:g} s"
        raise NotYet(f"job {id} is {job.state}: {why}; it goes on: ask for it at /v1/jobs/{id}")
    return job

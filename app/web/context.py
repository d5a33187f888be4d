"""What every view works with: the configuration, the jobs, and whether the process is about to end."""

from __future__ import annotations

import socket
import time

from flask import Flask, current_app, g, request
from loguru import logger

from app.config import Config
from app.errors import NotYet
from app.jobs.client import Jobs
from app.jobs.records import SERVING, Job

KEY = "splatgate"
LOOK_EVERY = 1.0
"""Seconds; how soon a waiting view notices that the process is about to end."""


class Drain:
    """Set when the process was asked to end: streams end at once, waits a little before the time is over, or as soon
    as nobody works for them any more."""

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
    """The ended job. Raises NotYet where it has not ended within worker.wait_seconds of the begin of the request, the
    process is to end, or the caller has left: then nobody reads the answer, and the thread is free for the next."""
    jobs, drain, seconds = the_jobs(), the_drain(), the_config().worker.wait_seconds
    end = g.began + seconds
    job = jobs.get(id)
    gone = False
    while not (job.ended or drain.over or gone or _left_alone(job)) and (left := end - time.monotonic()) > 0:
        job, gone = jobs.wait(id, min(left, LOOK_EVERY)), _caller_left()
    if not job.ended:
        if gone:
            logger.bind(job=id).info("its caller has left; it goes on")
        why = "the service is being restarted" if drain.begun else f"it has not ended within {seconds:g} s"
        raise NotYet(f"job {id} is {job.state}: {why}; it goes on: ask for it at /v1/jobs/{id}")
    return job


def _left_alone(job: Job) -> bool:
    """Whether the process is to end, and no engine is there, on another host perhaps, to make the job. One that drains
    takes none, but may end the one it has."""
    if not the_drain().begun:
        return False
    at_work = SERVING if job.state == "QUEUED" else (*SERVING, "DRAINING")
    return not any(engine.state in at_work for engine in the_jobs().engines())


def _caller_left() -> bool:
    """Whether the connection was closed at the other end. Nothing is taken from it: the next request may be there."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True

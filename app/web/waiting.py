"""Waits for a job within a request: until it ends, a timeout, the process stops, or the caller disconnects."""

from __future__ import annotations

import select
import time

from flask import g, request
from loguru import logger

from app.errors import Conflict, JobFailed, NotYet, SplatgateError
from app.jobs.records import SERVING, Job
from app.web.context import POLL_SECONDS, current_config, current_drain, current_jobs


def wait_for_job(id: str) -> Job:
    """The ended job. Raises NotYet if it has not ended within worker.wait_seconds of the start of the request, if the
    process is stopping, or if the caller has disconnected; the job continues in each case."""
    jobs, drain, seconds = current_jobs(), current_drain(), current_config().worker.wait_seconds
    end = g.began + seconds
    job = jobs.get(id)
    gone = False
    while not (job.ended or drain.over or gone or _abandoned(job)) and (left := end - time.monotonic()) > 0:
        job, gone = jobs.wait(id, min(left, POLL_SECONDS)), _caller_disconnected()
    if not job.ended:
        if gone:
            logger.bind(job=id).info("the caller has disconnected; the job continues")
        why = "the service is restarting" if drain.begun else f"it has not ended within {seconds:g} s"
        raise NotYet(f"job {id} is {job.state}: {why}; the job continues, its state is at /v1/jobs/{id}")
    return job


def raise_unless_done(job: Job) -> Job:
    """Returns the job if it is DONE; otherwise raises the error for its state."""
    if job.state == "DONE":
        return job
    kinds: dict[str, type[SplatgateError]] = {"CANCELLED": Conflict, "EXPIRED": NotYet}
    raise kinds.get(job.state, JobFailed)(f"job {job.id} is {job.state}: {job.error or 'no result'}")


def _abandoned(job: Job) -> bool:
    """Whether this process is stopping and no engine on any host will run the job. A draining engine finishes its
    running job, but takes no other."""
    if not current_drain().begun:
        return False
    working = SERVING if job.state == "QUEUED" else (*SERVING, "DRAINING")
    return not any(engine.state in working for engine in current_jobs().engines())


def _caller_disconnected() -> bool:
    """Whether the client closed the connection."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return False
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))

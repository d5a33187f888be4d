"""A job's life as server-sent events: one for each change, with Last-Event-ID to go on from, and heartbeats."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Response
from loguru import logger

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.records import Job
from app.web.context import LOOK_EVERY, Drain
from app.web.models import JobView

HEARTBEAT_SECONDS = 10.0


def event_stream(jobs: Jobs, drain: Drain, job: Job, seen: int) -> Response:
    """seen: the version that the caller has already. 204, which ends a browser's reconnecting, after the last one."""
    if job.ended and job.version <= seen:
        return Response(status=204)
    stream = Response(_events(jobs, drain, job, seen), mimetype="text/event-stream")
    stream.headers["X-Accel-Buffering"] = "no"  # a proxy would collect the events
    return stream


def _events(jobs: Jobs, drain: Drain, job: Job, seen: int) -> Iterator[str]:
    """Ends with the job, or when the process is about to end; a browser then reconnects by itself."""
    try:
        if job.version > seen:
            yield _event(jobs, job)
        spoke = time.monotonic()
        while not job.ended and not drain.begun:
            changed = jobs.changes(job.id, job.version, LOOK_EVERY)
            if changed:
                job = changed
                yield _event(jobs, job)
            elif time.monotonic() - spoke > HEARTBEAT_SECONDS:
                yield _event(jobs, job) if job.state == "QUEUED" else ": heartbeat\n\n"  # the place has changed
            else:
                continue
            spoke = time.monotonic()
    except SplatgateError as error:
        logger.warning(f"the events of job {job.id} end: {error}")


def _event(jobs: Jobs, job: Job) -> str:
    view = JobView.of(job, jobs.position(job.id), jobs.eta(job.id))
    return f"id: {job.version}\nevent: job\ndata: {view.model_dump_json()}\n\n"

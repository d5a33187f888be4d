"""The changes of a job as server-sent events. Last-Event-ID resumes a stream; comments keep it alive."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Response
from loguru import logger

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.records import Job
from app.web.context import POLL_SECONDS, Drain
from app.web.models import JobView

HEARTBEAT_SECONDS = 10.0


def event_stream(jobs: Jobs, drain: Drain, job: Job, seen: int) -> Response:
    """seen: the version the caller has. After the last version: 204, which stops a browser from reconnecting."""
    if job.ended and job.version <= seen:
        return Response(status=204)
    stream = Response(_events(jobs, drain, job, seen), mimetype="text/event-stream")
    stream.headers["X-Accel-Buffering"] = "no"  # a proxy would buffer the events
    return stream


def _events(jobs: Jobs, drain: Drain, job: Job, seen: int) -> Iterator[str]:
    """Ends with the job, or when the process stops; a browser then reconnects by itself."""
    try:
        if job.version > seen:
            yield _event(jobs, job)
        last_sent = time.monotonic()
        while not job.ended and not drain.begun:
            changed = jobs.changes(job.id, job.version, POLL_SECONDS)
            if changed:
                job = changed
                yield _event(jobs, job)
            elif time.monotonic() - last_sent > HEARTBEAT_SECONDS:
                yield _event(jobs, job) if job.state == "QUEUED" else ": heartbeat\n\n"  # its position may have changed
            else:
                continue
            last_sent = time.monotonic()
    except SplatgateError as error:
        logger.warning(f"event stream of job {job.id} closed: {error}")


def _event(jobs: Jobs, job: Job) -> str:
    view = JobView.of(job, jobs.position(job.id), jobs.eta(job.id))
    return f"id: {job.version}\nevent: job\ndata: {view.model_dump_json()}\n\n"

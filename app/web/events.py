"""The changes of a job as server-sent events. Last-Event-ID resumes a stream; comments keep it alive."""

from __future__ import annotations

import time
from typing import Self

from flask import Response
from loguru import logger

from app.errors import SplatgateError
from app.jobs.forecast import NOTHING
from app.jobs.records import Job
from app.web.caller_jobs import CallerJobs
from app.web.context import POLL_SECONDS, Drain
from app.web.models import JobView

HEARTBEAT_SECONDS = 10.0


def event_stream(jobs: CallerJobs, drain: Drain, job: Job, seen: int) -> Response:
    """The stream of a job. seen: the caller's version; if it is the last, 204, which stops browsers reconnecting."""
    if job.ended and job.version <= seen:
        return Response(status=204)
    stream = Response(EventStream(jobs, drain, job, seen), mimetype="text/event-stream", direct_passthrough=True)
    stream.headers["X-Accel-Buffering"] = "no"  # keeps proxies from buffering the events
    return stream


class EventStream:
    """Iterates over the events of a job. Ends with the job, or when the process stops; browsers then reconnect."""

    def __init__(self, jobs: CallerJobs, drain: Drain, job: Job, seen: int) -> None:
        self._jobs = jobs
        self._drain = drain
        self._job = job
        self._seen = seen
        self._last_sent = time.monotonic()
        self._following = jobs.follow(job.id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Waits for the next event, in a thread. Do not call this in a greenlet while the stream is idle."""
        while self.idle:
            self._following.wait(self._job.version, POLL_SECONDS)
        if self._drain.begun or (self._job.ended and self._job.version <= self._seen):
            raise StopIteration
        try:
            return self._event().encode()
        except SplatgateError as error:
            logger.warning(f"event stream of job {self._job.id} closed: {error}")
            raise StopIteration from None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send yet. Does not query the database."""
        changed = self._job.version > self._seen or self._following.version > self._seen
        return not (changed or self._job.ended or self._drain.begun or self._heartbeat_due())

    def close(self) -> None:
        self._following.close()

    def _event(self) -> str:
        if self._job.version <= self._seen:
            self._job = self._jobs.get(self._job.id)
        self._last_sent = time.monotonic()
        if self._job.version <= self._seen and self._job.state != "QUEUED":
            return ": heartbeat\n\n"
        self._seen = self._job.version  # the position of a waiting job may have changed
        view = JobView.of(self._job, self._jobs.forecast([self._job]).get(self._job.id, NOTHING))
        return f"id: {self._job.version}\nevent: job\ndata: {view.model_dump_json()}\n\n"

    def _heartbeat_due(self) -> bool:
        return time.monotonic() - self._last_sent > HEARTBEAT_SECONDS

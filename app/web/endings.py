"""What a caller who waited is told when the job did not end well."""

from __future__ import annotations

from app.errors import Conflict, NotYet, SplatgateError, StageFailed
from app.jobs.records import Job


def raise_unless_done(job: Job) -> Job:
    """The job itself where it is DONE. Raises what fits its end otherwise."""
    if job.state == "DONE":
        return job
    raise _error(job)


def _error(job: Job) -> SplatgateError:
    ended: dict[str, type[SplatgateError]] = {"CANCELLED": Conflict, "EXPIRED": NotYet}
    return ended.get(job.state, StageFailed)(f"job {job.id} is {job.state}: {job.error or 'no result'}")

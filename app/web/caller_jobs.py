"""The jobs as one caller may see and change them. Every view goes through this; nothing else checks ownership."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import replace

from app.errors import Forbidden, NotFound, QueueFull
from app.jobs.assets import Asset
from app.jobs.client import Jobs, unknown_job
from app.jobs.forecast import Forecast
from app.jobs.listing import Listing
from app.jobs.records import Engine, Job, JobRequest, Stats
from app.jobs.reordering import Passing
from app.jobs.watch import Following
from app.web.tokens import Caller

HOUR = 3_600.0
_submitting = threading.Lock()  # a quota must not change between check and submission


class CallerJobs:
    """`app.jobs.client.Jobs` for one caller.

    A job that the caller may not see raises NotFound, like one that does not exist; one that it may see but not change
    raises Forbidden. Jobs without an owner, from older releases, belong to everybody.
    """

    def __init__(self, jobs: Jobs, caller: Caller) -> None:
        self._jobs = jobs
        self._caller = caller

    def submit(self, request: JobRequest, *, key: str | None = None, shared: bool = False) -> Job:
        """Like Jobs.submit, within the quota of the caller. Raises Forbidden and QueueFull."""
        caller = self._caller
        if request.source:
            self.get(request.source)
        if request.priority < caller.quota.best_priority:
            raise Forbidden(f"priority {request.priority}: this token may use {caller.quota.best_priority} to 100")
        if (request.attempts or 1) > caller.quota.max_attempts:
            raise Forbidden(f"{request.attempts} attempts: this token may use {caller.quota.max_attempts}")
        own_key = _key(caller.name, key)
        if caller.quota.max_waiting is None and caller.quota.max_per_hour is None and caller.quota.max_gb is None:
            return self._jobs.submit(request, key=own_key, shared=shared, owner=caller.name)
        with _submitting:
            self._check_quota()
            return self._jobs.submit(request, key=own_key, shared=shared, owner=caller.name)

    def get(self, id: str) -> Job:
        """Raises NotFound."""
        job = self._jobs.get(id)
        if not self._may_see(job):
            raise NotFound(unknown_job(id))
        return job

    def list_jobs(self, listing: Listing, limit: int) -> list[Job]:
        """Like Jobs.list_jobs, of the jobs that the caller may see."""
        owner = None if self._caller.sees_all else self._caller.name
        return self._jobs.list_jobs(replace(listing, owner=owner), limit)

    def cancel(self, id: str) -> Job:
        """Like Jobs.cancel. Raises Forbidden."""
        self._check_change(id)
        return self._jobs.cancel(id)

    def move_to_front(self, id: str) -> Job:
        """Like Jobs.move_to_front. Raises Forbidden, also for a job that the token may not pass."""
        self._check_change(id)
        owner = None if self._caller.scope == "admin" else self._caller.name
        return self._jobs.move_to_front(id, Passing(self._caller.quota.best_priority, owner))

    def remove(self, id: str) -> Job:
        """Like Jobs.remove. Raises Forbidden."""
        self._check_change(id)
        return self._jobs.remove(id)

    def star(self, id: str, starred: bool) -> Job:
        """Like Jobs.star. Raises Forbidden."""
        self._check_change(id)
        return self._jobs.star(id, starred)

    def wait(self, id: str, timeout: float) -> Job:
        """Like Jobs.wait."""
        self._check_sight(id)
        return self._jobs.wait(id, timeout)

    def follow(self, id: str) -> Following:
        """Like Jobs.follow."""
        self._check_sight(id)
        return self._jobs.follow(id)

    def forecast(self, jobs: Iterable[Job]) -> dict[str, Forecast]:
        """The forecast of each of these jobs, which the caller was shown, by its id."""
        open_ = [job.id for job in jobs if not job.ended]
        known = self._jobs.forecasts() if open_ else {}
        return {id: known[id] for id in open_ if id in known}

    def open_asset(self, id: str, name: str) -> Asset:
        """Like Jobs.open_asset."""
        self._check_sight(id)
        return self._jobs.open_asset(id, name)

    def engines(self) -> list[Engine]:
        """All engines, which every caller may see."""
        return self._jobs.engines()

    def stats(self) -> Stats:
        """Statistics of all jobs, which reveal nothing about a single one."""
        return self._jobs.statistics.stats()

    def _may_see(self, job: Job) -> bool:
        return self._caller.sees_all or job.owner in (None, self._caller.name)

    def _check_sight(self, id: str) -> None:
        if not self._caller.sees_all:
            self.get(id)

    def _check_change(self, id: str) -> None:
        if self._caller.scope != "admin" and self.get(id).owner not in (None, self._caller.name):
            raise Forbidden(f"job {id} belongs to another token; only one with scope=admin may change it")

    def _check_quota(self) -> None:
        quota, used = self._caller.quota, self._jobs.statistics.usage(self._caller.name, HOUR)
        if quota.max_waiting is not None and used.waiting >= quota.max_waiting:
            raise QueueFull(f"{used.waiting} of your jobs wait, this token may have {quota.max_waiting}", 30)
        if quota.max_per_hour is not None and used.recent >= quota.max_per_hour:
            raise QueueFull(f"{used.recent} jobs in an hour, this token may submit {quota.max_per_hour}", 300)
        if quota.max_gb is not None and used.bytes >= quota.max_gb * 1e9:
            raise QueueFull(
                f"your results take {used.bytes / 1e9:.2f} GB, this token may keep {quota.max_gb:g}: delete some", 300
            )


def _key(owner: str, key: str | None) -> str | None:
    """The stored key, hashed with the owner so that callers cannot collide; it must fit the column."""
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest() if key and owner else key

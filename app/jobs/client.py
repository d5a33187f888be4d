"""The operations of the web process on jobs: submit, list, wait, cancel, fetch. No model is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from app.config import Config
from app.errors import Conflict, NotFound, Unavailable
from app.jobs import queries, submission, tables
from app.jobs.assets import Asset, Assets
from app.jobs.forecast import Forecast, forecasts
from app.jobs.heartbeats import list_engines
from app.jobs.lazy_store import LazyStore
from app.jobs.listing import Listing
from app.jobs.records import SERVING, Engine, Job, JobRequest
from app.jobs.reordering import ANY, Passing, move_to_front
from app.jobs.retention import remove_jobs
from app.jobs.statistics import Statistics
from app.jobs.storage_check import check_storage
from app.jobs.store import Store
from app.jobs.watch import Following, Watch

MAX_PAGE = 1_000


class Jobs:
    """The jobs as callers see them. Thread-safe; one per web process.

    The database is opened at the first call, so that the process starts without one. Every method raises
    DatabaseDown while the database cannot be used. clock: seconds since 1970; None: the clock of the
    database. restarted: why earlier web processes ended; counted once the database is open.
    """

    def __init__(
        self, config: Config, clock: Callable[[], float] | None = None, restarted: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self.assets = Assets(config)
        self._database = LazyStore(config, clock, restarted)
        self.statistics = Statistics(self._database)
        self._watch = Watch(self._versions)

    @property
    def store(self) -> Store:
        return self._database.store

    def clock(self) -> float:
        """Seconds since 1970. Raises DatabaseDown."""
        return self._database.clock()

    def close(self) -> None:
        """Ends the waits and closes the database."""
        self._watch.close()
        self._database.close()

    def check_storage(self) -> None:
        """Raises StorageDown if a disk is full or cannot be written."""
        check_storage(self.config, self.assets)

    def submit(
        self, request: JobRequest, *, key: str | None = None, shared: bool = False, owner: str | None = None
    ) -> Job:
        """Stores a request durably and returns its job; if the key was used before, the job of that request.

        shared: if a job without a key waits or runs for the same request of the same owner, it is returned instead,
        with a new deadline, so that a caller whose connection broke does not go to the end of the queue.
        Raises QueueFull, StorageDown, KeyReused if the key was used for another request, NotFound or Conflict if the
        source of a turntable does not exist or has no splat, BadInput if no engine here can serve it.
        """
        database = self._database
        taker = submission.Submission(self.config, database.store, database.queue, self.assets, database.clock)
        return self.get(taker.take(request, key, shared, owner))

    def cancel(self, id: str) -> Job:
        """Cancels a waiting job at once, a running one between two stages. An ended job does not change."""
        now = self.clock()
        with self.store.writing() as connection:
            if submission.cancel(connection, id, now):
                self.store.tally(connection, "state", "CANCELLED")
        return self.get(id)

    def move_to_front(self, id: str, passing: Passing = ANY) -> Job:
        """Makes a waiting job the next to run. Raises NotFound; Conflict if it does not wait; Forbidden."""
        self.get(id)
        with self.store.writing(alone=True) as connection:
            rank = move_to_front(connection, id, passing)
        self._database.queue.move(id, *rank)
        return self.get(id)

    def remove(self, id: str) -> Job:
        """Removes an ended job with its files. Returns it as it was. Raises NotFound; Conflict if it has not ended."""
        job = self.get(id)
        if not job.ended:
            raise Conflict(f"job {id} is {job.state}: cancel it first")
        remove_jobs(self.store, self.assets, self._database.queue.forget, [id])
        return job

    def star(self, id: str, starred: bool) -> Job:
        """Sets or clears the star; retention keeps starred jobs. Raises NotFound."""
        change = {"starred": starred, "version": tables.jobs.c.version + 1}
        with self.store.writing() as connection:
            connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == id).values(**change))
        return self.get(id)

    def get(self, id: str) -> Job:
        """Raises NotFound."""
        with self.store.reading() as connection:
            if not (job := queries.find(connection, id)):
                raise NotFound(unknown_job(id))
            return job

    def list_jobs(self, listing: Listing, limit: int) -> list[Job]:
        """A page of at most `limit` jobs."""
        query = listing.query(max(1, min(limit, MAX_PAGE)))
        with self.store.reading() as connection:
            return queries.with_assets(connection, connection.execute(query).mappings().all())

    def wait(self, id: str, timeout: float) -> Job:
        """Waits up to `timeout` seconds for the end of the job, and returns the job."""
        end = time.monotonic() + timeout
        job = self.get(id)
        while not job.ended and (left := end - time.monotonic()) > 0:
            job = self.changes(id, job.version, left) or job
        return job

    def changes(self, id: str, after_version: int, timeout: float) -> Job | None:
        """The job as soon as its version is above `after_version`; None if it does not change within `timeout`."""
        if self._watch.wait(id, after_version, timeout):
            return self.get(id)
        return None

    def follow(self, id: str) -> Following:
        """Watches a job: its version is known from then on without a query. Close it afterwards."""
        return self._watch.follow(id)

    def forecasts(self) -> dict[str, Forecast]:
        """By id of each waiting or running job: its position in the queue, and the expected time to its end."""
        now = self.clock()
        serving = sum(engine.state in SERVING for engine in self.engines())
        with self.store.reading() as connection:
            return forecasts(connection, serving, now)

    def engines(self) -> list[Engine]:
        """Every engine that has reported and was not removed; LOST if it has been silent for too long."""
        return list_engines(self.store, self.clock(), self.config.jobs.lost_after_seconds)

    def open_asset(self, id: str, name: str) -> Asset:
        """Opens a file of a job. Raises NotFound if there is none, Unavailable if it is damaged."""
        query = sa.select(tables.assets).where(tables.assets.c.job == id, tables.assets.c.name == name)
        with self.store.reading() as connection:
            row = connection.execute(query).mappings().first()
        if not row:
            job = self.get(id)
            there = ", ".join(job.assets) or "none yet"
            raise NotFound(f"job {id} ({job.state}) has no file {name[:64]!r}; it has: {there}")
        if row["damaged"]:
            raise Unavailable(f"{row['path']}: the file is damaged, its sha256 is not the one it was stored with")
        return Asset(name, self.assets.open(row["path"], row["size"]), row["size"], row["sha256"], row["modified"])

    def _versions(self, ids: Iterable[str]) -> dict[str, int]:
        with self.store.reading() as connection:
            return queries.versions(connection, ids)


def unknown_job(id: str) -> str:
    """The error message for a job that does not exist."""
    return f"no job {id[:64]!r}: it never existed, or it was deleted (assets.keep_days)"

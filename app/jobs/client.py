"""What the web process may do with jobs: submit, look, wait, cancel, fetch. It never loads a model.

An acknowledged job is on the disk: its row and its place in the queue are one transaction.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.config import Config
from app.errors import Conflict, KeyReused, NotFound, QueueFull
from app.jobs import tables
from app.jobs.assets import Asset, Assets, Stored, stored_bytes
from app.jobs.clock import DatabaseClock
from app.jobs.heartbeats import list_engines
from app.jobs.job_request import check, new_id, picture_name
from app.jobs.listing import Listing
from app.jobs.queue import JobQueue
from app.jobs.records import SERVING, Engine, Job, JobRequest, Kind, Result, StageTime, Stats, Tally, Usage
from app.jobs.retention import remove_jobs
from app.jobs.storage_check import check_storage
from app.jobs.store import Store
from app.jobs.tables import to_job
from app.jobs.watch import Following, Watch
from app.splat import formats

MEDIAN_OF = 50
"""Finished jobs of a kind that the expected time of the next is taken from."""

MAX_PAGE = 1_000


@dataclass(frozen=True)
class _Opened:
    store: Store
    queue: JobQueue
    clock: Callable[[], float]


class Jobs:
    """The jobs as a caller sees them. Thread-safe; one for each web process.

    The database is opened at the first call, not before, so that the process starts without one. Every method raises
    DatabaseDown while the database cannot be used. clock: seconds since 1970; None takes the database's. restarted: why
    earlier web processes ended; counted once the database is open.
    """

    def __init__(
        self, config: Config, clock: Callable[[], float] | None = None, restarted: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self.assets = Assets(config)
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._clock = clock
        self._restarted = restarted
        self._watch = Watch(self._versions)

    @property
    def store(self) -> Store:
        return self._open().store

    def clock(self) -> float:
        """Seconds since 1970. Raises DatabaseDown."""
        return self._open().clock()

    def close(self) -> None:
        """Ends the waits and closes the database."""
        self._watch.close()
        with self._opening:
            if self._opened:
                self._opened.queue.close()
                self._opened.store.close()
                self._opened = None

    def check_storage(self) -> None:
        """Raises StorageDown if a disk is full or cannot be written."""
        check_storage(self.config, self.assets)

    # ---- asking for something ----------------------------------------------------------------------------------------

    def submit(
        self, order: JobRequest, *, key: str | None = None, shared: bool = False, owner: str | None = None
    ) -> Job:
        """Takes the order, durably, and returns its job; with a key that was used before, the job it was used for.

        shared: the job that waits or runs for an order just like this, without a key, will do, and its deadline is put
        off. A caller that comes back after its connection broke is not the last in the queue again.
        Raises QueueFull, StorageDown where the disk is full, KeyReused where the key came with another order, NotFound
        or Conflict where the source of a turntable is not there or has no splat, BadInput for what no engine here could
        do.
        """
        check(order, key, self.config)
        if key and (known := self._known(key, order)):
            return known
        row = self._row(order, key) | {"owner": owner}
        given = self._keep_files(order, row["id"])
        try:
            with self.store.writing(alone=True) as connection:
                twin = _joined(connection, row) if shared and not key else None
                if not twin:
                    self.check_storage()
                    self._check_queue(connection, order)
                    sequence = _next(connection)
                    connection.execute(sa.insert(tables.jobs), row | {"sequence": sequence})
                    _insert_assets(connection, row["id"], given, row["created"])
                    self._open().queue.add(connection, row["id"], order.priority, sequence)
        except IntegrityError:  # the key was taken between the look and the insert
            self.assets.remove(row["id"])
            known = self._known(key or "", order)
            if not known:
                raise
            return known
        except Exception:
            if given:
                self.assets.remove(row["id"])
            raise
        if twin and given:
            self.assets.remove(row["id"])
        return self.get(twin or row["id"])

    def cancel(self, id: str) -> Job:
        """A waiting job ends at once, a running one between two stages; an ended one stays as it is."""
        ended = {"state": "CANCELLED", "stage": "", "finished": self.clock(), "error": "cancelled by the caller"}
        with self.store.writing() as connection:
            mine = tables.jobs.c.id == id
            waiting = mine & (tables.jobs.c.state == "QUEUED")
            change = {"cancelled": True, "version": tables.jobs.c.version + 1}
            done = connection.execute(sa.update(tables.jobs).where(waiting).values(**ended, **change)).rowcount
            if done:
                self.store.tally(connection, "state", "CANCELLED")
            else:
                connection.execute(
                    sa.update(tables.jobs).where(mine & (tables.jobs.c.state == "RUNNING")).values(**change)
                )
        return self.get(id)

    def remove(self, id: str) -> Job:
        """Removes an ended job with its files. Returns it as it was. Raises NotFound; Conflict if it has not ended."""
        job = self.get(id)
        if not job.ended:
            raise Conflict(f"job {id} is {job.state}: cancel it first")
        remove_jobs(self.store, self.assets, self._open().queue.forget, [id])
        return job

    def star(self, id: str, starred: bool) -> Job:
        """Sets or clears the star; retention keeps starred jobs. Raises NotFound."""
        change = {"starred": starred, "version": tables.jobs.c.version + 1}
        with self.store.writing() as connection:
            connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == id).values(**change))
        return self.get(id)

    # ---- looking -----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Job:
        """Raises NotFound."""
        with self.store.reading() as connection:
            row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == id)).mappings().first()
            if not row:
                raise NotFound(unknown_job(id))
            return _with_assets(connection, [row])[0]

    def usage(self, owner: str, seconds: float) -> Usage:
        """What a caller uses; recent are the jobs of the last `seconds`."""
        mine, since = tables.jobs.c.owner == owner, self.clock() - seconds
        size = sa.select(sa.func.sum(tables.assets.c.size)).join(tables.jobs, tables.jobs.c.id == tables.assets.c.job)
        with self.store.reading() as connection:
            waiting = _count(connection, mine & (tables.jobs.c.state == "QUEUED"))
            recent = _count(connection, mine & (tables.jobs.c.created > since))
            return Usage(waiting, recent, int(connection.scalar(size.where(mine)) or 0))

    def list_jobs(self, listing: Listing, limit: int) -> list[Job]:
        """A page of at most `limit` jobs."""
        query = listing.query(max(1, min(limit, MAX_PAGE)))
        with self.store.reading() as connection:
            return _with_assets(connection, connection.execute(query).mappings().all())

    def wait(self, id: str, timeout: float) -> Job:
        """The job once it has ended, or as it is after `timeout` seconds."""
        end = time.monotonic() + timeout
        job = self.get(id)
        while not job.ended and (left := end - time.monotonic()) > 0:
            job = self.changes(id, job.version, left) or job
        return job

    def changes(self, id: str, after_version: int, timeout: float) -> Job | None:
        """The job as soon as its version is above `after_version`; None where it did not change within `timeout`."""
        if self._watch.wait(id, after_version, timeout):
            return self.get(id)
        return None

    def follow(self, id: str) -> Following:
        """Watches a job: its version is known from then on without asking. To be closed."""
        return self._watch.follow(id)

    def position(self, id: str) -> int | None:
        """1: the next to be taken. None: it does not wait."""
        if self.get(id).state != "QUEUED":
            return None
        with self.store.reading() as connection:
            return 1 + _count(connection, _before(id))

    def eta(self, id: str) -> float | None:
        """Seconds until the job is likely to have ended, from the measured median; None while there is nothing to
        go by: no job of its kind has finished yet, or no engine is ready."""
        job = self.get(id)
        with self.store.reading() as connection:
            median = _median(connection, job.kind)
        serving = sum(engine.state in SERVING for engine in self.engines())
        if median is None or not serving or job.ended:
            return None
        if job.state == "RUNNING":
            return max(0.0, median - (self.clock() - (job.started or self.clock())))
        with self.store.reading() as connection:
            ahead = _count(connection, _before(id)) + _count(connection, tables.jobs.c.state == "RUNNING")
        return median * (ahead // serving + 1)

    def engines(self) -> list[Engine]:
        """Every engine that was ever seen here and not removed; LOST where it has been silent for too long."""
        return list_engines(self.store, self.clock(), self.config.jobs.lost_after_seconds)

    def open_asset(self, id: str, name: str) -> Asset:
        """Opens a file of a job. Raises NotFound where the job, or the job's file, is not there."""
        query = sa.select(tables.assets).where(tables.assets.c.job == id, tables.assets.c.name == name)
        with self.store.reading() as connection:
            row = connection.execute(query).mappings().first()
        if not row:
            job = self.get(id)
            there = ", ".join(job.assets) or "none yet"
            raise NotFound(f"job {id} ({job.state}) has no file {name[:64]!r}; it has: {there}")
        return Asset(name, self.assets.open(row["path"], row["size"]), row["size"], row["sha256"], row["modified"])

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state at this moment."""
        query = sa.select(tables.jobs.c.state, sa.func.count()).group_by(tables.jobs.c.state)
        with self.store.reading() as connection:
            return {row.state: row[1] for row in connection.execute(query)}

    def stats(self) -> Stats:
        with self.store.reading() as connection:
            counted = connection.execute(sa.select(tables.tallies).order_by(tables.tallies.c.what)).all()
            total = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(tables.assets.c.size), 0)))
            kinds: tuple[Kind, ...] = ("generate", "validate", "repair", "turntable")
            medians = {kind: median for kind in kinds if (median := _median(connection, kind)) is not None}
            queued = _count(connection, tables.jobs.c.state == "QUEUED")
            running = _count(connection, tables.jobs.c.state == "RUNNING")
            waiting = tables.jobs.c.state == "QUEUED"
            since = connection.scalar(sa.select(sa.func.min(tables.jobs.c.created)).where(waiting))
        oldest = max(0.0, self.clock() - since) if since else 0.0
        return Stats(queued, oldest, running, medians, tuple(Tally(*row) for row in counted), int(total or 0))

    def stage_times(self, after_row: int, limit: int = MAX_PAGE) -> list[StageTime]:
        """The stages finished after row `after_row`, in order."""
        return [StageTime(**row) for row in self._after(tables.stage_times, after_row, limit)]

    def results(self, after_row: int, limit: int = MAX_PAGE) -> list[Result]:
        """The jobs finished after row `after_row`, in order."""
        return [Result(**row) for row in self._after(tables.results, after_row, limit)]

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> _Opened:
        with self._opening:
            if not self._opened:
                store = Store(self.config)
                store.count_ends("web", self._restarted)
                self._restarted = ()
                self._opened = _Opened(store, JobQueue(store), self._clock or DatabaseClock(store))
            return self._opened

    def _known(self, key: str, order: JobRequest) -> Job | None:
        query = sa.select(tables.jobs.c.id, tables.jobs.c.digest).where(tables.jobs.c.key == key)
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        if not row:
            return None
        if row.digest != order.digest():
            raise KeyReused(f"this Idempotency-Key was used for job {row.id} with another body: take a new key")
        return self.get(row.id)

    def _row(self, order: JobRequest, key: str | None) -> dict[str, Any]:
        now, defaults = self.clock(), self.config.generate
        return {
            "id": new_id(now),
            "key": key,
            "digest": order.digest(),
            "kind": order.kind,
            "prompt": order.prompt,
            "seed": defaults.seed if order.seed is None else order.seed,
            "attempts": order.attempts or defaults.attempts,
            "profile": self.config.profile.name,
            "priority": order.priority,
            "source": order.source,
            "size": order.size,
            "state": "QUEUED",
            "created": now,
            "deadline": None if order.deadline_seconds is None else now + order.deadline_seconds,
        }

    def _keep_files(self, order: JobRequest, id: str) -> list[Stored]:
        """Stores what came with the order; before its row, so that no engine can miss it."""
        given = []
        if order.picture is not None:
            given.append((picture_name(order.picture), order.picture))
        if order.splat is not None:
            given.append((formats.input_name(order.splat), order.splat))
        for name, data in given:
            self.assets.put(f"{id}/input/{name}", data)
        return [stored_bytes(name, f"{id}/input/{name}", data) for name, data in given]

    def _check_queue(self, connection: sa.Connection, order: JobRequest) -> None:
        if order.source:
            _check_source(connection, order.source)
        waiting, limit = _count(connection, tables.jobs.c.state == "QUEUED"), self.config.jobs.max_queued
        if waiting >= limit:
            median = _median(connection, order.kind)
            after = max(1, math.ceil(median)) if median is not None else 30
            raise QueueFull(f"{waiting:,} jobs wait, jobs.max_queued is {limit:,}: try again in {after} s", after)

    def _versions(self, ids: Iterable[str]) -> dict[str, int]:
        query = sa.select(tables.jobs.c.id, tables.jobs.c.version).where(tables.jobs.c.id.in_(list(ids)))
        with self.store.reading() as connection:
            return {row.id: row.version for row in connection.execute(query)}

    def _after(self, table: sa.Table, row: int, limit: int) -> Sequence[sa.RowMapping]:
        query = sa.select(table).where(table.c.row > row).order_by(table.c.row).limit(limit)
        with self.store.reading() as connection:
            return connection.execute(query).mappings().all()


def unknown_job(id: str) -> str:
    """What is said of a job that does not exist."""
    return f"no job {id[:64]!r}: it never was, or its time here is over (assets.keep_days)"


def _check_source(connection: sa.Connection, source: str) -> None:
    names = _names(connection, [source])
    state = connection.scalar(sa.select(tables.jobs.c.state).where(tables.jobs.c.id == source))
    if state is None:
        raise NotFound(f"no job {source[:64]!r}: source names a finished job")
    if formats.main_asset() not in names.get(source, ()):
        raise Conflict(f"job {source} is {state} and has no splat: a turntable shows the splat of a finished job")


def _insert_assets(connection: sa.Connection, id: str, files: list[Stored], now: float) -> None:
    if files:
        connection.execute(sa.insert(tables.assets), [{"job": id, "modified": now, **vars(file)} for file in files])


def _with_assets(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> list[Job]:
    names = _names(connection, [row["id"] for row in rows])
    return [to_job(row, names.get(row["id"], ())) for row in rows]


def _names(connection: sa.Connection, ids: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    query = sa.select(tables.assets.c.job, tables.assets.c.name).where(tables.assets.c.job.in_(ids))
    for job, name in connection.execute(query.order_by(tables.assets.c.name)):
        found[job] = (*found.get(job, ()), name)
    return found


def _joined(connection: sa.Connection, row: dict[str, Any]) -> str | None:
    """The id of a job under way that is just like this row, which now has this row's deadline."""
    t = tables.jobs.c
    alike = t.key.is_(None) & (t.digest == row["digest"]) & t.state.in_(("QUEUED", "RUNNING")) & ~t.cancelled
    alike &= t.owner.is_not_distinct_from(row["owner"])
    twin = connection.scalar(sa.select(t.id).where(alike).order_by(t.id).limit(1))
    if twin:
        change = {"deadline": row["deadline"], "version": t.version + 1}
        connection.execute(sa.update(tables.jobs).where(t.id == twin).values(**change))
    return twin


def _next(connection: sa.Connection) -> int:
    """Above the sequence of all jobs that wait or run; in a transaction that takes orders alone."""
    t = tables.jobs.c
    highest = sa.select(sa.func.max(t.sequence)).where(t.state.in_(("QUEUED", "RUNNING")))
    return (connection.scalar(highest) or 0) + 1


def _before(id: str) -> sa.ColumnElement[bool]:
    """The waiting jobs that are taken before this one."""
    t, mine = tables.jobs.c, tables.jobs.alias().c
    place, own = (sa.tuple_(each.priority, sa.func.coalesce(each.sequence, 0)) for each in (t, mine))
    return (t.state == "QUEUED") & sa.exists().where((mine.id == id) & (place < own))


def _count(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(tables.jobs).where(condition)) or 0


def _median(connection: sa.Connection, kind: Kind) -> float | None:
    t = tables.results.c
    query = sa.select(t.seconds).where(t.kind == kind).order_by(t.row.desc()).limit(MEDIAN_OF)
    seconds = connection.scalars(query).all()
    return statistics.median(seconds) if seconds else None

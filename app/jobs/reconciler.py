"""Holds the queue against the job rows, mends what does not fit together, and says what it mended.

A crash of the database, a failover to a replica that lags behind, or a restored backup may take one without the other.
Every engine does this; a job that two mend at once is put back twice, which costs work and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa
from loguru import logger

from app.jobs.heartbeats import Liveness
from app.jobs.job_store import JobStore
from app.jobs.queue import JobQueue, Place
from app.jobs.records import ENDED
from app.jobs.store import Store
from app.jobs.tables import jobs


class OpenJob(NamedTuple):
    """A job that has not ended, by its row. instance: of the engine that claimed it last; empty without one."""

    id: str
    state: str
    priority: int
    sequence: int
    instance: str


class Reconciler:
    """engine: the instance id of this process. running: the ids of the jobs that it has at this moment."""

    def __init__(
        self,
        store: Store,
        queue: JobQueue,
        job_store: JobStore,
        liveness: Liveness,
        engine: str,
        running: Callable[[], set[str]],
    ) -> None:
        self._store = store
        self._queue = queue
        self._job_store = job_store
        self._liveness = liveness
        self._engine = engine
        self._running = running
        self._idle: set[str] = set()

    def take_over(self) -> int:
        """Puts back the jobs of engines that are gone. Returns how many."""
        alive = self._liveness.alive() | {self._engine}
        orphaned = {id: engine for id, engine in self._queue.held().items() if engine not in alive}
        for id, engine in orphaned.items():
            logger.warning(f"job {id}: its engine, instance {engine}, is gone; the job waits again")
            self._put_back(id, engine)
        return len(orphaned)

    def compare(self) -> int:
        """Mends the jobs that would wait for ever. Returns how many."""
        mended = self.take_over()
        active, rows = self._queue.active(), self._open_jobs()
        for id in rows.keys() - active.keys():
            mended += self._renew(rows[id])
        for id in rows.keys() & active.keys():
            if rows[id].state == "RUNNING" and active[id].waits:
                mended += self._show_waiting(rows[id])
        return mended + self._put_back_idle(active)

    def _renew(self, row: OpenJob) -> int:
        """A job that has not ended, and that the queue lost, or has as ended or in another queue."""
        place = self._queue.places([row.id]).get(row.id)
        row = self._open_jobs(row.id).get(row.id) or row._replace(state="")  # asked last: a job ends in its row first
        if not row.state or (place and (place.waits or place.held)):
            return 0
        if place and not place.over:
            self._put_back(row.id, row.instance)
        else:
            self._job_store.put_back(row.id, row.instance)
            self._queue.renew(row.id, row.priority, row.sequence)
        in_queue = place.status if place else "unknown"
        logger.warning(f"job {row.id}: {row.state} by its row, {in_queue} in the queue; mended, it waits again")
        return 1

    def _show_waiting(self, row: OpenJob) -> int:
        """A job whose row says that it runs, while it waits in the queue: a crash came between the two."""
        if not self._queue.places([row.id])[row.id].waits or not self._job_store.put_back(row.id, row.instance):
            return 0
        logger.warning(f"job {row.id}: RUNNING by its row, while it waits in the queue; mended")
        return 1

    def _put_back_idle(self, active: dict[str, Place]) -> int:
        """Jobs that are ours by the queue, and that we do not run, now and the time before."""
        idle = {id for id, place in active.items() if place.held and place.engine == self._engine} - self._running()
        mended = idle & self._idle
        for id in sorted(mended):
            logger.warning(f"job {id}: this engine has it by the queue, and does not run it; mended, it waits again")
            self._put_back(id, self._engine)
        self._idle = idle - mended
        return len(mended)

    def _put_back(self, id: str, engine: str) -> None:
        """In this order: should its engine live after all, its claim is void before another can get the job."""
        self._job_store.put_back(id, engine)
        self._queue.put_back(id)

    def _open_jobs(self, id: str | None = None) -> dict[str, OpenJob]:
        t = jobs.c
        query = sa.select(t.id, t.state, t.priority, sa.func.coalesce(t.sequence, 0), sa.func.coalesce(t.instance, ""))
        query = query.where(t.state.not_in(ENDED))
        if id:
            query = query.where(t.id == id)
        with self._store.reading() as connection:
            return {row[0]: OpenJob(*row) for row in connection.execute(query)}

"""Compares the queue with the job rows, repairs inconsistencies, and logs what it repaired.

A crash of the database, a failover to a lagging replica, or a restored backup may lose one without the other. Every
engine does this. If two repair a job at the same time it is requeued twice, which only costs work.
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
    """A job that has not ended, according to its row. instance: of the engine that claimed it last; may be empty."""

    id: str
    state: str
    priority: int
    sequence: int
    instance: str


class Reconciler:
    """engine: the instance id of this process. running: returns the ids of the jobs that it has."""

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
        """Requeues the jobs of engines that are gone. Returns how many."""
        alive = self._liveness.alive() | {self._engine}
        held, running = self._queue.held(), self._rows(jobs.c.state == "RUNNING")
        orphaned = {id: engine for id, engine in held.items() if engine not in alive}
        for id, engine in orphaned.items():
            logger.warning(f"job {id}: its engine, instance {engine}, is gone; the job is queued again")
            self._put_back(id, engine)
        unwritten = [row for id, row in running.items() if id not in held and row.instance not in alive]
        renewed = [row for row in unwritten if self._renew(row)]
        for row in renewed:
            logger.warning(f"job {row.id}: instance {row.instance}, which wrote its files, is gone; it is queued again")
        return len(orphaned) + len(renewed)

    def compare(self) -> int:
        """Repairs jobs that would otherwise never run. Returns how many."""
        repaired = self.take_over()
        alive = self._liveness.alive() - {self._engine}
        active, rows, running = self._queue.active(), self._rows(jobs.c.state.not_in(ENDED)), self._running()
        for id in rows.keys() - active.keys():
            row = rows[id]
            writes_files = row.state == "RUNNING" and (id in running or row.instance in alive)
            if not writes_files and (status := self._renew(row)):
                repaired += 1
                logger.warning(f"job {id}: {row.state} by its row, {status} in the queue; repaired, it is queued again")
        for id in rows.keys() & active.keys():
            if rows[id].state == "RUNNING" and active[id].waits:
                repaired += self._repair_row(rows[id])
        return repaired + self._put_back_idle(active)

    def _renew(self, row: OpenJob) -> str:
        """Requeues a job that has not ended, but that DBOS lost, considers ended, or has in another queue.

        Returns DBOS's status before, or an empty string if there was nothing to do.
        """
        place = self._queue.places([row.id]).get(row.id)
        # the row is read last, because a job ends there first
        now = self._rows(jobs.c.state.not_in(ENDED) & (jobs.c.id == row.id)).get(row.id)
        if now != row or (place and (place.waits or place.held)):
            return ""  # it has ended, or another engine has requeued it
        if place and not place.over:
            self._put_back(row.id, row.instance)
        else:
            if not self._job_store.put_back(row.id, row.instance) and row.state == "RUNNING":
                return ""
            self._queue.renew(row.id, row.priority, row.sequence)
        return place.status if place else "unknown"

    def _repair_row(self, row: OpenJob) -> int:
        """Repairs a job that is RUNNING by its row but queued in DBOS, after a crash between the two writes."""
        if not self._queue.places([row.id])[row.id].waits or not self._job_store.put_back(row.id, row.instance):
            return 0
        logger.warning(f"job {row.id}: RUNNING by its row, but queued; repaired")
        return 1

    def _put_back_idle(self, active: dict[str, Place]) -> int:
        """Requeues jobs that this engine has in DBOS but did not run, both now and at the previous check."""
        idle = {id for id, place in active.items() if place.held and place.engine == self._engine} - self._running()
        repaired = idle & self._idle
        for id in sorted(repaired):
            logger.warning(
                f"job {id}: this engine has it in the queue, but does not run it; repaired, it is queued again"
            )
            self._put_back(id, self._engine)
        self._idle = idle - repaired
        return len(repaired)

    def _put_back(self, id: str, engine: str) -> None:
        """The claim ends first: if its engine is alive after all, it must not hold the job when another gets it."""
        self._job_store.put_back(id, engine)
        self._queue.put_back(id)

    def _rows(self, which: sa.ColumnElement[bool]) -> dict[str, OpenJob]:
        t = jobs.c
        query = sa.select(t.id, t.state, t.priority, sa.func.coalesce(t.sequence, 0), sa.func.coalesce(t.instance, ""))
        with self._store.reading() as connection:
            return {row[0]: OpenJob(*row) for row in connection.execute(query.where(which))}

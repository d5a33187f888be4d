"""Heartbeats: what engines report about themselves, and which of them are alive.

A row is one instance of an engine, that is one process. It has a random id, because PIDs repeat in containers, and a
name for people (host and device), which its successor shares.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from app.errors import DatabaseDown
from app.jobs.records import Engine
from app.jobs.store import Store
from app.jobs.tables import engines, to_engine

FORGET_SECONDS = 86_400.0
"""An engine that has been silent for this long is removed from the table."""

DEAD = ("FAILED", "LOST")


def list_engines(store: Store, now: float, lost_after: float) -> list[Engine]:
    """The latest instance of every engine, by name; LOST if it has been silent for too long.

    now: seconds since 1970, by the database's clock; lost_after: seconds.
    """
    with store.reading() as connection:
        rows = connection.execute(sa.select(engines).order_by(engines.c.started)).mappings().all()
    latest = {engine.name: engine for engine in map(to_engine, rows)}
    return [latest[name].seen(now, lost_after) for name in sorted(latest)]


class Heartbeat:
    """The row of this process. Thread-safe. It replaces the rows of earlier instances, which had the same device.

    engine: the row, named after the device. predecessors: the ids of the earlier instances. clock: of the database.
    """

    def __init__(self, store: Store, engine: Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        with store.writing() as connection:
            earlier = sa.delete(engines).where((engines.c.name == engine.name) | (engines.c.id == engine.name))
            self.predecessors = tuple(connection.scalars(earlier.returning(engines.c.id)))
            connection.execute(sa.insert(engines).values(**vars(engine), beats=0))

    def change(self, **changes: object) -> None:
        """Changes fields of the row. The next `beat` writes them."""
        with self._lock:
            self.engine = replace(self.engine, **changes)  # type: ignore[arg-type]

    def beat(self, **changes: object) -> None:
        """Sends a heartbeat with these fields changed. An engine that counted as lost is alive again."""
        with self._lock:
            self.engine = replace(self.engine, **changes, heartbeat=self._clock())  # type: ignore[arg-type]
            with self._store.writing(durable=False) as connection:
                own = sa.update(engines).where(engines.c.id == self.engine.id)
                updated = connection.execute(own.values(**vars(self.engine), beats=engines.c.beats + 1))
                if not updated.rowcount:  # removed while it was silent
                    connection.execute(sa.insert(engines).values(**vars(self.engine), beats=1))


@dataclass(frozen=True)
class _Seen:
    beats: int
    at: float


class Liveness:
    """Which engines are alive, by their heartbeat counts and this process's monotonic clock: hosts' clocks may differ.

    While the database is down or read-only no engine can report, so silence does not count.
    """

    def __init__(self, store: Store, lost_after: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lost_after = lost_after
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}

    def alive(self) -> set[str]:
        """The instance ids of the engines that are alive. Raises DatabaseDown."""
        query = sa.select(engines.c.id, engines.c.beats, engines.c.state)
        try:
            with self._store.reading() as connection:
                rows = connection.execute(query).all()
            if any(self._silence(row) >= self._lost_after / 2 for row in rows):
                self._store.probe()
        except DatabaseDown:
            self._seen = {id: replace(seen, at=self._monotonic()) for id, seen in self._seen.items()}
            raise
        now, before = self._monotonic(), self._seen
        self._seen = {row.id: _Seen(row.beats, now) for row in rows}
        self._seen |= {row.id: before[row.id] for row in rows if row.id in before and before[row.id].beats == row.beats}
        return {row.id for row in rows if row.state not in DEAD and self._silence(row) < self._lost_after}

    def _silence(self, row: Any) -> float:
        """Seconds since the engine's heartbeat count was seen to rise."""
        seen = self._seen.get(row.id)
        return self._monotonic() - seen.at if seen and seen.beats == row.beats else 0.0

    def forget(self, before: float) -> None:
        """Removes engines that are not alive and whose last heartbeat was before this time, by the database's clock."""
        alive = self.alive()
        with self._store.writing(durable=False) as connection:
            old = (engines.c.heartbeat < before) & engines.c.id.not_in(alive)
            connection.execute(sa.delete(engines).where(old))

"""The engines, as they report themselves: state and heartbeat, and who of them has fallen silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from app.errors import DatabaseDown
from app.jobs.records import Engine
from app.jobs.store import Store, engines, to_engine

FORGET_SECONDS = 86_400.0
"""An engine that has been silent for this long is not shown any more."""


def list_engines(store: Store, now: float, lost_after: float) -> list[Engine]:
    """Every engine that was ever seen and not removed, by its id; LOST where it has been silent for too long.

    now: seconds since 1970; lost_after: seconds.
    """
    with store.reading() as connection:
        rows = connection.execute(sa.select(engines).order_by(engines.c.id)).mappings().all()
    return [to_engine(row).seen(now, lost_after) for row in rows]


class Heartbeat:
    """What one engine says of itself. Thread-safe: main thread, job thread and heartbeat all have something to say."""

    def __init__(self, store: Store, engine: Engine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        with store.noting() as connection:
            connection.execute(sa.delete(engines).where(engines.c.id == engine.id))
            connection.execute(sa.insert(engines).values(**vars(engine), beats=0))

    def say(self, **changes: object) -> None:
        """Changes fields of the report, and beats."""
        with self._lock:
            self.engine = replace(self.engine, **changes, heartbeat=self._clock())  # type: ignore[arg-type]
            with self._store.noting() as connection:
                mine = sa.update(engines).where(engines.c.id == self.engine.id)
                beaten = connection.execute(mine.values(**vars(self.engine), beats=engines.c.beats + 1))
                if not beaten.rowcount:  # forgotten, by somebody with another idea of the time
                    connection.execute(sa.insert(engines).values(**vars(self.engine), beats=1))


@dataclass(frozen=True)
class _Seen:
    beats: int
    at: float


class Liveness:
    """Notices engines that have fallen silent, by the own monotonic clock: no other host's clock has to be right.

    While the database is away or takes no writes nobody can speak, so nobody's silence counts.
    """

    def __init__(
        self, store: Store, own: str, lost_after: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._own = own
        self.lost_after = lost_after
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._settled: set[str] = set()

    def lost(self) -> list[str]:
        """The ids of the other engines that have been silent for too long, and are not settled. Raises DatabaseDown."""
        try:
            return self._silent(self._monotonic())
        except DatabaseDown:
            self._seen = {id: replace(seen, at=self._monotonic()) for id, seen in self._seen.items()}
            raise

    def _silent(self, now: float) -> list[str]:
        query = sa.select(engines.c.id, engines.c.beats, engines.c.state).where(engines.c.id != self._own)
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(engines.c.id)).all()
        for row in rows:
            seen = self._seen.get(row.id)
            if not seen or seen.beats != row.beats:
                self._seen[row.id] = _Seen(row.beats, now)
                self._settled.discard(row.id)
        quiet = {row.id: now - self._seen[row.id].at for row in rows if row.id not in self._settled}
        serving = {row.id for row in rows if row.state not in ("FAILED", "LOST")}
        self._note({id: quiet[id] for id in quiet if id in serving and 2 * quiet[id] >= self.lost_after})
        return [id for id, seconds in quiet.items() if seconds >= self.lost_after]

    def _note(self, quiet: dict[str, float]) -> None:
        """Writes down for how long (seconds) they have been silent, which they could not say either if we could not."""
        if not quiet:
            return
        with self._store.noting() as connection:
            for id, seconds in quiet.items():
                connection.execute(
                    sa.update(engines).where(self._as_seen(id)).values(why=f"silent for {seconds:.1f} s")
                )

    def _as_seen(self, id: str) -> sa.ColumnElement[bool]:
        """Its row, unless it has spoken meanwhile, or has said why it ended."""
        beats = self._seen[id].beats
        return (engines.c.id == id) & (engines.c.beats == beats) & (engines.c.state != "FAILED")

    def settled(self, id: str) -> None:
        """What that engine left is taken care of, until it speaks again."""
        self._settled.add(id)

    def mark(self, id: str) -> None:
        """Says of an engine that it is lost, unless it has spoken meanwhile."""
        with self._store.noting() as connection:
            gone = {"state": "LOST", "why": f"silent for {self.lost_after:g} s", "job": None}
            connection.execute(sa.update(engines).where(self._as_seen(id)).values(**gone))

    def forget(self, before: float) -> None:
        """Removes the settled engines whose last heartbeat was before that time (seconds since 1970)."""
        old = (engines.c.heartbeat < before) & engines.c.id.in_(self._settled)
        with self._store.noting() as connection:
            gone = connection.scalars(sa.delete(engines).where(old).returning(engines.c.id)).all()
        for id in gone:
            self._settled.discard(id)
            del self._seen[id]

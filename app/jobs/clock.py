"""The time of the database, for what several hosts compare: deadlines, heartbeats, ages. Hosts' clocks may differ."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from app.jobs.store import Store

QUERY_SECONDS = 10.0
"""Between queries of this interval, the monotonic clock of this process is added to the database's last answer."""


class DatabaseClock:
    """Seconds since 1970. With SQLite this is the wall clock, because all processes are on one host. Thread-safe.

    Raises DatabaseDown if the database has to be queried and fails.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._queried = float("-inf")
        self._answer = 0.0

    def __call__(self) -> float:
        if self._store.sqlite:
            return time.time()
        with self._lock:
            if time.monotonic() - self._queried > QUERY_SECONDS:
                with self._store.reading() as connection:
                    now = sa.func.extract("epoch", sa.func.clock_timestamp())
                    self._answer = float(connection.scalar(sa.select(now)) or 0.0)
                self._queried = time.monotonic()
            return self._answer + time.monotonic() - self._queried

"""The time of the database, for what several hosts compare: deadlines, heartbeats, ages. No host's clock is trusted."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from app.jobs.store import Store

TRUSTED_SECONDS = 10.0
"""For so long the steady clock of this process is added to what the database said last."""


class DatabaseClock:
    """Seconds since 1970. On SQLite the wall clock: all its processes are on one host. Thread-safe.

    Raises DatabaseDown where the database has to be asked and cannot.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._then = 0.0

    def __call__(self) -> float:
        if self._store.sqlite:
            return time.time()
        with self._lock:
            if time.monotonic() - self._asked > TRUSTED_SECONDS:
                with self._store.reading() as connection:
                    now = sa.func.extract("epoch", sa.func.clock_timestamp())
                    self._then = float(connection.scalar(sa.select(now)) or 0.0)
                self._asked = time.monotonic()
            return self._then + time.monotonic() - self._asked

"""A database that is opened at first use, so that a process can start without one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from app.config import Config
from app.jobs.clock import DatabaseClock
from app.jobs.queue import JobQueue
from app.jobs.store import Store


@dataclass(frozen=True)
class _Opened:
    store: Store
    queue: JobQueue
    clock: Callable[[], float]


class LazyStore:
    """Store, queue and clock. Thread-safe. Everything but `close` raises DatabaseDown while it cannot be opened.

    clock: seconds since 1970; None: the clock of the database. restarted: why earlier processes of this kind
    ended; counted once the database is open.
    """

    def __init__(self, config: Config, clock: Callable[[], float] | None, restarted: tuple[str, ...]) -> None:
        self._config = config
        self._clock = clock
        self._restarted = restarted
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    @property
    def store(self) -> Store:
        return self._open().store

    @property
    def queue(self) -> JobQueue:
        return self._open().queue

    def clock(self) -> float:
        """Seconds since 1970."""
        return self._open().clock()

    def close(self) -> None:
        """Closes the database if it is open; the next use opens it again."""
        with self._lock:
            self._close()

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened and self._opened.store.damaged:
                self._close()  # opening it again checks the whole file
            if not self._opened:
                store = Store(self._config)
                store.count_ends("web", self._restarted)
                self._restarted = ()
                self._opened = _Opened(store, JobQueue(store), self._clock or DatabaseClock(store))
            return self._opened

    def _close(self) -> None:
        if self._opened:
            self._opened.queue.close()
            self._opened.store.close()
            self._opened = None

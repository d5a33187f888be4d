"""Turns on the device of an engine: one job at a time, in the order of arrival, until the engine drains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Thread-safe. The thread of each job takes a turn, and calls `checkpoint` wherever it may be stopped."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: dict[object, str] = {}  # job ids, in the order of their arrival; the first has the device
        self._running = False  # from the checkpoint before a job is claimed until after it has ended
        self._parked = self._draining = False

    @property
    def jobs(self) -> set[str]:
        """The ids of the jobs that have the device or wait for it."""
        with self._changed:
            return set(self._turns.values())

    @contextmanager
    def take(self, id: str) -> Iterator[None]:
        """Waits for the device and holds it while the block runs. DBOS counts a job as running when its thread starts,
        so a busy engine can get a second job before the first has started."""
        ticket = object()
        with self._changed:
            self._turns[ticket] = id
            self._changed.wait_for(lambda: next(iter(self._turns)) is ticket)
        try:
            yield
        finally:
            with self._changed:
                del self._turns[ticket]
                self._running = False
                self._changed.notify_all()

    def checkpoint(self) -> None:
        """Call it between two stages and before the first. It does not return if the engine drains."""
        with self._changed:
            self._running = True
            if not self._draining:
                return
            self._parked = True
            self._changed.notify_all()
        threading.Event().wait()

    def close(self) -> None:
        """Lets no job pass a checkpoint any more: the process is about to end."""
        with self._changed:
            self._draining = True

    def drain(self, timeout: float) -> bool:
        """Stops every job at its next checkpoint, and waits until none runs. Returns whether none runs after at most
        `timeout` seconds. The process must exit then, because a thread may wait at its checkpoint for ever."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._parked or not self._running, timeout)

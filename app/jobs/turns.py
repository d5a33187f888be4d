"""Who has the device of an engine: one job at a time, in the order of arrival, until the engine drains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Thread-safe. A thread for each job takes a turn, and calls `checkpoint` wherever it may be held."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: dict[object, str] = {}  # job ids, in the order of their arrival; the first has the device
        self._running = False  # from the checkpoint before a job is claimed until after it has ended
        self._parked = self._draining = False

    @property
    def jobs(self) -> set[str]:
        """The ids of the jobs that are here, running or about to."""
        with self._changed:
            return set(self._turns.values())

    @contextmanager
    def take(self, id: str) -> Iterator[None]:
        """Waits for the device, and has it while the block runs. DBOS counts a job as running when its thread begins,
        so a busy machine can get a second one before the first has begun."""
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
        """Between two stages, and before the first: does not return if the engine drains."""
        with self._changed:
            self._running = True
            if not self._draining:
                return
            self._parked = True
            self._changed.notify_all()
        threading.Event().wait()

    def drain(self, timeout: float) -> bool:
        """Lets no job past a checkpoint any more, and waits until none runs. Returns whether that was so within
        `timeout` seconds. The process must end now, because a thread may wait at its checkpoint for ever."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._parked or not self._running, timeout)

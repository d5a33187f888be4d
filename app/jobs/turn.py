"""One job at a time for each engine, however many it is handed at once; the others wait here, the first in order first.

DBOS counts the jobs that an engine runs when their threads begin, and on a busy machine hands out another before that.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager

Place = tuple[int, int]
"""Where a job stands in the queue: its priority, and its sequence within it. The lowest is first."""


class Turn:
    """Held by the job that runs. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Place] = []
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._changed:
            return len(self._waiting)

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Begins when nobody has the turn and nobody who waits comes before; has the turn until it ends."""
        with self._changed:
            insort(self._waiting, place)
            self._changed.wait_for(lambda: not self._taken and self._waiting[0] == place)
            self._waiting.remove(place)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

"""Waiting for changes: one thread asks the database for everybody who waits, however many they are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from app.errors import DatabaseDown

EVERY = 0.02
"""Seconds between two looks, while somebody waits and nothing tells that there is something to see."""

Versions = Callable[[Iterable[str]], dict[str, int]]
"""The versions of the jobs of these ids, as they are now."""

Pause = Callable[[float], None]
"""Returns after that many seconds, or sooner where something may have changed."""


class Watch:
    """Tells waiting threads when the version of their job rises."""

    def __init__(self, versions: Versions, pause: Pause) -> None:
        self._versions = versions
        self._pause = pause
        self._changed = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._known: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def wait(self, id: str, after: int, timeout: float) -> bool:
        """Returns whether the job's version has risen above `after`; False at the timeout or the end of the watch."""
        end = time.monotonic() + timeout
        with self._changed:
            self._waiting[id] += 1
            self._start()
            try:
                while self._known.get(id, 0) <= after and not self._closed and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
                return self._known.get(id, 0) > after
            finally:
                self._waiting[id] -= 1
                if not self._waiting[id]:
                    del self._waiting[id]
                    self._known.pop(id, None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self) -> None:
        if not self._thread:
            self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        """Ends when nobody waits any more."""
        while True:
            with self._changed:
                if self._closed or not self._waiting:
                    self._thread = None
                    return
                ids = list(self._waiting)
            try:
                now = self._versions(ids)
                with self._changed:
                    self._known |= {id: version for id, version in now.items() if id in self._waiting}
                    self._changed.notify_all()
                self._pause(EVERY)
            except DatabaseDown:
                time.sleep(EVERY)  # the waiting go on until their timeout; their next question says what is wrong

"""Waiting for changes: one thread asks the database for everybody who waits, however many they are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from app.errors import DatabaseDown
from app.jobs.bell import Wait

EVERY = 0.25
"""Seconds between two looks, while somebody waits and no commit was heard of; the hearing may fail."""

LINGER_SECONDS = 5.0
"""Who waits for one change after the other is not there for a moment after each; a new connection would cost more."""

CLOSE_SECONDS = 10.0
"""A database that does not answer holds up the end of the process for no longer."""

Versions = Callable[[Iterable[str]], dict[str, int]]
"""The versions of the jobs of these ids, as they are now."""

Hearing = Callable[[], AbstractContextManager[Wait]]


class Watch:
    """Tells waiting threads when the version of their job rises."""

    def __init__(self, versions: Versions, hearing: Hearing) -> None:
        self._versions = versions
        self._hearing = hearing
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
            self._tell(self._versions([id]))  # the thread may have seen the change before anybody waited for it
            with self._changed:
                while self._known.get(id, 0) <= after and not self._closed and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
                return self._known.get(id, 0) > after
        finally:
            with self._changed:
                self._waiting[id] -= 1
                if not self._waiting[id]:
                    del self._waiting[id]
                    self._known.pop(id, None)

    def close(self) -> None:
        """Ends all waits. The database may be closed afterwards: nothing here asks it any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread:
            thread.join(CLOSE_SECONDS)

    def _start(self) -> None:
        if not self._thread:
            self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _look(self) -> None:
        """The thread."""
        while self._asked():
            try:
                with self._hearing() as wait:
                    while ids := self._asked():
                        self._tell(self._versions(ids))
                        wait(EVERY)
                    return
            except DatabaseDown:
                time.sleep(EVERY)  # the waiting go on until their timeout; their next question says what is wrong

    def _asked(self) -> list[str]:
        """The ids that somebody waits for; without any for a while the thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting), LINGER_SECONDS)
            ids = [] if self._closed else list(self._waiting)
            if not ids:
                self._thread = None
            return ids

    def _tell(self, now: dict[str, int]) -> None:
        with self._changed:
            for id, version in now.items():
                if id in self._waiting:
                    self._known[id] = max(version, self._known.get(id, 0))  # of two looks the later may tell first
            self._changed.notify_all()

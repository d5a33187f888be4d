"""Waiting for changes: one thread asks the database for all who wait, however many they are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing

from loguru import logger

from app.errors import DatabaseDown

POLL_SECONDS = 0.015
"""Between two looks, while somebody waits. A look is one query, whatever the number of those who wait."""

RETRY_SECONDS = 0.25
"""After a look that failed."""

LINGER_SECONDS = 5.0
"""Who waits for one change after the other is not there for a moment after each; a new thread would cost more."""

CLOSE_SECONDS = 10.0
"""A database that does not answer holds up the end of the process for no longer."""

Versions = Callable[[Iterable[str]], dict[str, int]]
"""The versions of the jobs of these ids, as they are now."""


class Watch:
    """Wakes waiting threads when the version of their job rises."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._changed = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._known: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def wait(self, id: str, after: int, timeout: float) -> bool:
        """Returns whether the job's version has risen above `after`; False at the timeout or the end of the watch."""
        with closing(self.follow(id)) as following:
            self._update(self._versions([id]))  # the thread may have seen the change before anybody waited for it
            return following.wait(after, timeout)

    def follow(self, id: str) -> Following:
        """Asks for the versions of this job from now on, until the result is closed."""
        with self._changed:
            self._waiting[id] += 1
            self._start()
        return Following(self, id)

    def known(self, id: str) -> int:
        """The newest version that was seen of a job that is followed; 0 before the first look."""
        return self._known.get(id, 0)

    def wait_for(self, id: str, after: int, timeout: float) -> bool:
        """As `wait`, for a job that is followed."""
        end = time.monotonic() + timeout
        with self._changed:
            while self.known(id) <= after and not self._closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return self.known(id) > after

    def unfollow(self, id: str) -> None:
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
            self._thread = threading.Thread(target=self._poll, name="watch", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _poll(self) -> None:
        """The thread. It outlives whatever a look throws: without it every wait would end at its timeout."""
        while ids := self._asked():
            try:
                self._update(self._versions(ids))
                time.sleep(POLL_SECONDS)
            except DatabaseDown:
                time.sleep(RETRY_SECONDS)  # those who wait go on; their next question says what is wrong
            except Exception as error:  # noqa: BLE001  the edge of the thread
                logger.opt(exception=error).error("waiting for changes: a look at the database failed")
                time.sleep(RETRY_SECONDS)

    def _asked(self) -> list[str]:
        """The ids that somebody waits for; without any for a while the thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._waiting), LINGER_SECONDS)
            ids = [] if self._closed else list(self._waiting)
            if not ids:
                self._thread = None
            return ids

    def _update(self, now: dict[str, int]) -> None:
        with self._changed:
            for id, version in now.items():
                if id in self._waiting:
                    self._known[id] = max(version, self._known.get(id, 0))  # of two looks the later may come first
            self._changed.notify_all()


class Following:
    """One job that is watched."""

    def __init__(self, watch: Watch, id: str) -> None:
        self._watch = watch
        self._id = id
        self._closed = False

    @property
    def version(self) -> int:
        """The newest version that was seen, without asking the database; 0 before the first look."""
        return self._watch.known(self._id)

    def wait(self, after: int, timeout: float) -> bool:
        """Returns whether the version has risen above `after`; False at the timeout or the end of the watch."""
        return self._watch.wait_for(self._id, after, timeout)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._watch.unfollow(self._id)

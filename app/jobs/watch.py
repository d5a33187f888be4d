"""Waiting for changes: one thread polls the database for all waiting threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing

from loguru import logger

from app.errors import DatabaseDown

POLL_SECONDS = 0.01
"""Interval between polls while a thread waits. A poll is one query, however many threads wait."""

RETRY_SECONDS = 0.25
"""Interval after a failed poll."""

LINGER_SECONDS = 5.0
"""How long the thread stays without waiters, because callers that follow a job wait again soon after each change."""

CLOSE_SECONDS = 10.0
"""How long a database that does not respond may delay the end of the process."""

Versions = Callable[[Iterable[str]], dict[str, int]]
"""Returns the current versions of these jobs, by id."""


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
            self._update(self._versions([id]))  # the change may have happened before this call
            return following.wait(after, timeout)

    def follow(self, id: str) -> Following:
        """Polls the version of this job until the result is closed."""
        with self._changed:
            self._waiting[id] += 1
            self._start()
        return Following(self, id)

    def known(self, id: str) -> int:
        """The newest version seen of a followed job; 0 before the first poll."""
        return self._known.get(id, 0)

    def wait_for(self, id: str, after: int, timeout: float) -> bool:
        """Like `wait`, for a followed job."""
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
        """Ends all waits and the polling; the database may be closed afterwards."""
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
        """Runs the thread. It survives any error, because without it every wait would run into its timeout."""
        while ids := self._followed():
            try:
                self._update(self._versions(ids))
                time.sleep(POLL_SECONDS)
            except DatabaseDown:
                time.sleep(RETRY_SECONDS)  # waiters keep waiting; their next query raises the error
            except Exception as error:  # noqa: BLE001  the edge of the thread
                logger.opt(exception=error).error("waiting for changes: a poll of the database failed")
                time.sleep(RETRY_SECONDS)

    def _followed(self) -> list[str]:
        """The followed ids; empty, which ends the thread, after LINGER_SECONDS without any."""
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
                    self._known[id] = max(version, self._known.get(id, 0))  # polls may arrive out of order
            self._changed.notify_all()


class Following:
    """One followed job."""

    def __init__(self, watch: Watch, id: str) -> None:
        self._watch = watch
        self._id = id
        self._closed = False

    @property
    def version(self) -> int:
        """The newest version seen, without a query; 0 before the first poll."""
        return self._watch.known(self._id)

    def wait(self, after: int, timeout: float) -> bool:
        """Returns whether the version has risen above `after`; False at the timeout or the end of the watch."""
        return self._watch.wait_for(self._id, after, timeout)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._watch.unfollow(self._id)

"""What an engine reports while it loads: what it reads, how much of it is done, and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.weights.manifest import gigabytes

REPORT_SECONDS = 1.0
"""How often the figures of the same activity are reported."""

MEASURED_SECONDS = 3.0
"""For this long a rate predicts nothing."""


class LoadProgress:
    """Called by any thread, as `app.weights.store.OnLoad`, with what is being read; reports it at most once a second.

    report: takes why (words), progress (share in [0, 1]) and eta (seconds); the latter two are None while unknown.
    """

    def __init__(self, report: Callable[..., None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._report_to = report
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._activity = ""
        self._done = self._done_before = 0
        self._began = self._reported = 0.0

    def __call__(self, activity: str, more: int, total: int) -> None:
        """activity: starts with the verb. more: bytes done since the last call. total: bytes in all."""
        with self._lock:
            self._begin(activity, 0)
            self._done += more
            self._report(total)

    def set(self, activity: str, done: int, total: int) -> None:
        """The same for what others do: `done` is the sum so far, and part of it may have been done before."""
        with self._lock:
            self._begin(activity, done)
            self._done = done
            self._report(total)

    def _begin(self, activity: str, done: int) -> None:
        if activity != self._activity:
            self._activity, self._done, self._done_before = activity, done, done
            self._began, self._reported = self._monotonic(), float("-inf")

    def _report(self, total: int) -> None:
        now = self._monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            known = self._done > 0
            size = f"{gigabytes(self._done)} of {gigabytes(total)}" if known else gigabytes(total)
            progress = min(1.0, self._done / max(total, 1)) if known else None
            self._report_to(why=f"{self._activity}, {size}", progress=progress, eta=self._eta(total, now - self._began))

    def _eta(self, total: int, seconds: float) -> float | None:
        since = self._done - self._done_before
        if seconds < MEASURED_SECONDS or since <= 0:
            return None
        return max(0, total - self._done) * seconds / since

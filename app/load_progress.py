"""What an engine reports while it loads models: the activity, the progress and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.weights.manifest import gigabytes

REPORT_SECONDS = 1.0
"""Interval between reports of the same activity."""

MEASURED_SECONDS = 3.0
"""An ETA is reported only after this time: before, the measured rate is too noisy."""


class LoadProgress:
    """An `app.weights.store.OnLoad`: any thread calls it with what was read; it reports at most once a second.

    report: takes why (text), progress (fraction in [0, 1]) and eta (seconds); the last two are None while unknown.
    """

    def __init__(self, report: Callable[..., None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._report_to = report
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._activity = ""
        self._done = self._done_before = 0
        self._began = self._reported = 0.0

    def __call__(self, activity: str, more: int, total: int) -> None:
        """activity: starts with a verb. more: bytes read since the last call. total: bytes to read in all."""
        with self._lock:
            self._begin(activity, 0)
            self._done += more
            self._report(total)

    def set(self, activity: str, done: int, total: int) -> None:
        """Reports the work of other processes: `done` is the total so far, some of which may predate the first call."""
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

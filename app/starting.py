"""What an engine says of itself while it starts: what it reads, how much of it is done, and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.weights.manifest import gigabytes

SAY_SECONDS = 1.0
"""How often the same thing is said again, with other figures."""

MEASURED_SECONDS = 3.0
"""For so long a rate says nothing about what is to come."""


class Starting:
    """Told by any thread, as `app.weights.store.OnLoad`, what is being read; tells it on, in moderation.

    say: takes why (words), progress (share in [0, 1]) and eta (seconds); the latter two are None while unknown.
    """

    def __init__(self, say: Callable[..., None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._what = ""
        self._done = self._done_before = 0
        self._began = self._said = 0.0

    def __call__(self, what: str, more: int, of: int) -> None:
        """what: begins with the verb. more: bytes that were done since the last call. of: bytes in all."""
        with self._lock:
            self._begin(what, 0)
            self._done += more
            self._tell(of)

    def at(self, what: str, done: int, of: int) -> None:
        """The same of what others do, of which the bytes done are known as a sum; some may have been done before."""
        with self._lock:
            self._begin(what, done)
            self._done = done
            self._tell(of)

    def _begin(self, what: str, done: int) -> None:
        if what != self._what:
            self._what, self._done, self._done_before = what, done, done
            self._began, self._said = self._monotonic(), float("-inf")

    def _tell(self, of: int) -> None:
        now = self._monotonic()
        if now - self._said >= SAY_SECONDS:
            self._said = now
            known = self._done > 0
            size = f"{gigabytes(self._done)} of {gigabytes(of)}" if known else gigabytes(of)
            progress = min(1.0, self._done / max(of, 1)) if known else None
            self._say(why=f"{self._what}, {size}", progress=progress, eta=self._eta(of, now - self._began))

    def _eta(self, of: int, seconds: float) -> float | None:
        since = self._done - self._done_before
        if seconds < MEASURED_SECONDS or since <= 0:
            return None
        return max(0, of - self._done) * seconds / since

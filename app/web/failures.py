"""Counts failed log-ins by address, and makes addresses that fail often wait."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from threading import Lock

from app.errors import TooManyFailures

ALLOWED, WITHIN_SECONDS = 20, 60.0
MAX_ADDRESSES = 10_000


class Failures:
    """Counts failures. monotonic: seconds. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, address: str) -> None:
        """Counts a failure. Raises TooManyFailures after ALLOWED failures of the address within WITHIN_SECONDS.

        Valid tokens are never delayed, because other clients may share the address.
        """
        now = self._monotonic()
        with self._lock:
            times = self._times.setdefault(address, deque(maxlen=ALLOWED))
            self._times.move_to_end(address)
            if len(self._times) > MAX_ADDRESSES:
                self._times.popitem(last=False)
            wait = WITHIN_SECONDS - (now - times[0]) if len(times) == ALLOWED else 0.0
            if wait <= 0:
                times.append(now)
        if wait > 0:
            seconds = math.ceil(wait)
            message = f"{ALLOWED} wrong tokens from {address} within {WITHIN_SECONDS:g} s: try again in {seconds} s"
            raise TooManyFailures(message, seconds)

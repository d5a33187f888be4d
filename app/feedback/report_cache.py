"""A cache of the web process's reports. One is computed again when answers are added or deleted, or after a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 60.0
"""How long a report is reused while no answer changes: it also counts jobs, which the version does not cover."""

MOST = 16


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    version: tuple[int, int]
    until: float


class ReportCache(Generic[T]):
    """Values by key. Thread-safe: callers wait while a value is computed. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[object, _Entry[T]] = {}

    def get(self, key: object, version: tuple[int, int], compute: Callable[[], T]) -> T:
        """The cached value if it has this version and is not too old, else a new one."""
        with self._lock:
            now, entry = self._clock(), self._entries.pop(key, None)
            if entry is None or entry.version != version or entry.until <= now:
                entry = _Entry(compute(), version, self._clock() + SECONDS)
            self._entries[key] = entry  # most recently used last
            while len(self._entries) > MOST:
                del self._entries[next(iter(self._entries))]
            return entry.value

"""Detects a wall clock that jumps ahead, so that results are not removed weeks too early.

The database keeps the time of the last check. If the clock has advanced much more than the process has run since then,
nothing is removed by age for a while, so that the clock can be corrected. The same happens after the service was off
for longer than the tolerance, because the two cases look alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from loguru import logger

from app.config import AssetsConfig
from app.jobs.facts import read_facts, set_fact, warn
from app.jobs.store import Store

CLOCK, HELD_UNTIL = "clock", "clock_held_until"
WARNING = "clock"
SET_BACK_SECONDS = 60.0
DAY = 86_400.0


def clock_tolerance(settings: AssetsConfig) -> float:
    """Seconds: a day, or less if results are kept only for a few days."""
    return min(DAY, settings.keep_days * DAY / 4)


class ClockGuard:
    """tolerance: seconds that the clock may jump ahead, and for which nothing is removed by age after a larger jump.

    clock: seconds since 1970; monotonic: seconds.
    """

    def __init__(
        self,
        store: Store,
        tolerance: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._tolerance = tolerance
        self._clock = clock
        self._monotonic = monotonic
        self._checked: float | None = None

    def trusted(self) -> bool:
        """Whether the wall clock may be used to decide what is too old. Raises DatabaseDown."""
        now, checked = self._clock(), self._monotonic()
        ran = 0.0 if self._checked is None else checked - self._checked
        values = read_facts(self._store)
        last, held_until = float(values.get(CLOCK, now)), float(values.get(HELD_UNTIL, 0.0))
        if now < last - SET_BACK_SECONDS:
            held_until = 0.0
        elif now > last + ran + self._tolerance:
            held_until = now + self._tolerance
            logger.warning(f"the clock jumped ahead by {(now - last - ran) / DAY:.1f} days; {_held(held_until)}")
        self._checked = checked
        with self._store.writing() as connection:
            set_fact(self._store, connection, CLOCK, repr(now))
            set_fact(self._store, connection, HELD_UNTIL, repr(held_until))
        held = now < held_until
        why = f"the clock jumped ahead or the service was off; {_held(held_until)}" if held else ""
        warn(self._store, WARNING, why)
        return not held


def _held(until: float) -> str:
    return f"nothing is removed by age until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC; check the clock"

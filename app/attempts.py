"""Retries a request with the next seed until the gate does not refuse the result.

Both the command line and the durable workflow use this loop. This file does not know how an attempt is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from loguru import logger


class Judged(Protocol):
    """An attempt after the gate. outcome: "refused" leads to another attempt. score: None if nothing was scored."""

    @property
    def outcome(self) -> str | None: ...

    @property
    def score(self) -> float | None: ...


AnyAttempt = TypeVar("AnyAttempt", bound=Judged)


def best_attempt(attempts: int, run: Callable[[int], AnyAttempt]) -> AnyAttempt:
    """The first attempt that is not refused; if all are, the one with the highest score.

    attempts: at least 1. run: makes an attempt, given its number, which starts at 1.
    """
    best = run(1)
    for number in range(2, attempts + 1):
        if best.outcome != "refused":
            break
        logger.info(f"attempt {number - 1} of {attempts} refused; trying again with the next seed")
        best = max(best, run(number), key=_rank)
    return best


def _rank(attempt: Judged) -> tuple[bool, float]:
    score = attempt.score
    return attempt.outcome != "refused", -math.inf if score is None or math.isnan(score) else score

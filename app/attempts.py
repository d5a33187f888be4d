"""The attempts at one request: run again, with the next seed, until the gate does not refuse.

The command line and the durable workflow both use this loop. This file does not know how an attempt is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from loguru import logger


class Judged(Protocol):
    """An attempt after the gate. outcome: "refused" asks for another one. score: None where nothing was scored."""

    @property
    def outcome(self) -> str | None: ...

    @property
    def score(self) -> float | None: ...


AnyAttempt = TypeVar("AnyAttempt", bound=Judged)


def best_attempt(attempts: int, run: Callable[[int], AnyAttempt]) -> AnyAttempt:
    """The first attempt that is not refused; if all are, the one with the highest score.

    attempts: at least 1. run: makes the attempt of that number, 1 and up.
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

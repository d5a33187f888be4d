"""The loop over attempts: when it stops, and which attempt it keeps."""

import math
from dataclasses import dataclass

import pytest

from app.attempts import best_attempt


@dataclass(frozen=True)
class Result:
    outcome: str
    score: float | None = None


PASSED, UNJUDGED = Result("passed", 0.21), Result("not validated")
FAILED, LOW, HIGH, NOT_A_NUMBER = (Result("refused", score) for score in (None, -0.5, 0.19, math.nan))


@pytest.mark.parametrize(
    ("results", "kept", "made"),
    [
        ([PASSED, HIGH], PASSED, 1),
        ([UNJUDGED, PASSED], UNJUDGED, 1),
        ([LOW, PASSED, HIGH], PASSED, 2),
        ([HIGH, UNJUDGED], UNJUDGED, 2),
        ([LOW, HIGH, LOW], HIGH, 3),
        ([FAILED, LOW], LOW, 2),
        ([LOW, FAILED], LOW, 2),
        ([NOT_A_NUMBER, LOW, NOT_A_NUMBER], LOW, 3),
        ([FAILED, FAILED], FAILED, 2),
    ],
)
def test_the_first_that_is_not_refused_is_kept_else_the_best(results: list[Result], kept: Result, made: int) -> None:
    numbers: list[int] = []

    def run(number: int) -> Result:
        numbers.append(number)
        return results[number - 1]

    assert best_attempt(len(results), run) is kept
    assert numbers == list(range(1, made + 1))


def test_of_equals_the_first_is_kept() -> None:
    results = [Result("refused", 0.1), Result("refused", 0.1)]
    assert best_attempt(2, lambda number: results[number - 1]) is results[0]

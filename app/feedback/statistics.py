"""Shares with their uncertainty, and scores of which the low ones are not known. Pure functions of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_BELOW = 20
"""Trials under which the interval is the exact one (Clopper-Pearson): never too narrow, but wide."""


@dataclass(frozen=True)
class Share:
    """count of total, and the 95 % interval of the share behind it; everything None where total is 0."""

    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """after - before of two shares, with its 95 % interval; everything None where either is empty."""

    before: Share
    after: Share
    change: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Quartiles:
    """Of judges' scores. None: that quartile lies among the rejected, whose scores are not known."""

    low: float | None
    median: float | None
    high: float | None


def share(count: int, total: int) -> Share:
    """The Wilson interval; under EXACT_BELOW trials the exact one."""
    if not total:
        return Share(0, 0, None, None, None)
    method = "exact" if total < EXACT_BELOW else "wilson"
    from scipy.stats import binomtest  # takes long to import, and who serves jobs needs none of it

    interval = binomtest(count, total).proportion_ci(0.95, method)
    return Share(count, total, count / total, float(interval.low), float(interval.high))


def difference(before: Share, after: Share) -> Difference:
    """Newcombe's interval: the two shares' own intervals, combined by squares."""
    if before.share is None or after.share is None:
        return Difference(before, after, None, None, None)
    assert before.low is not None
    assert before.high is not None
    assert after.low is not None
    assert after.high is not None
    change = after.share - before.share
    down = math.hypot(after.share - after.low, before.high - before.share)
    up = math.hypot(after.high - after.share, before.share - before.low)
    return Difference(before, after, change, change - down, change + up)


def quartiles(scores: NDArray[np.float64]) -> Quartiles | None:
    """Of verdicts of which 0.0 means "under the cut": a quartile needs to know of those only that they are low."""
    if not len(scores):
        return None
    found = np.quantile(scores, (0.25, 0.5, 0.75), method="inverted_cdf")
    low, median, high = (float(value) if value > 0 else None for value in found)
    return Quartiles(low, median, high)

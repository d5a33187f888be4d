"""Shares with confidence intervals, and quartiles of scores whose low values are unknown. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_BELOW = 20
"""Below this many trials the interval is the exact one (Clopper-Pearson), which is conservative."""


@dataclass(frozen=True)
class Share:
    """count of total, and the 95 % interval of the share; None if total is 0."""

    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """after - before of two shares, with the 95 % interval; None if either is empty."""

    before: Share
    after: Share
    change: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Quartiles:
    """Quartiles of judges' scores. None: the quartile is among the rejected results, whose scores are unknown."""

    low: float | None
    median: float | None
    high: float | None


def share(count: int, total: int) -> Share:
    """The share with its Wilson interval, or the exact interval below EXACT_BELOW trials."""
    if not total:
        return Share(0, 0, None, None, None)
    method = "exact" if total < EXACT_BELOW else "wilson"
    from scipy.stats import binomtest  # slow to import, and not needed to serve jobs

    interval = binomtest(count, total).proportion_ci(0.95, method)
    return Share(count, total, count / total, float(interval.low), float(interval.high))


def difference(before: Share, after: Share) -> Difference:
    """The difference with Newcombe's interval, which combines the intervals of the two shares."""
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
    """Quartiles of scores in which 0.0 means "below the cut-off"; None without scores."""
    if not len(scores):
        return None
    found = np.quantile(scores, (0.25, 0.5, 0.75), method="inverted_cdf")
    low, median, high = (float(value) if value > 0 else None for value in found)
    return Quartiles(low, median, high)

"""What a setting of the gate should be, by the judges' verdicts: named only where the verdicts can carry it.

A result that is delivered earns 1 when it is accepted and loses `cost` when it is rejected; a refusal costs nothing.
Advice is given in three steps, each of which can end it; docs/feedback.md explains them with their error rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.feedback.statistics import share

Answer = Literal["too few", "no relation", "keep", "change"]
Floats = NDArray[np.float64]

FEWEST = 20
"""Accepted, and rejected, results under which nothing is advised; also the results that must remain delivered."""

MOVED = 10
"""Results that a candidate must deliver or hold back otherwise than the present setting does."""

CANDIDATES = 64
DRAWS = 4_000
LEVEL = 0.05
"""Chance of each of the two tests to pass by luck where there is nothing to find."""


@dataclass(frozen=True)
class Evidence:
    """A value for each delivered and judged job (its score, or its number of Gaussians) and its verdicts, all (N,)."""

    values: Floats
    accepted: Floats
    rejected: Floats


@dataclass(frozen=True)
class Advice:
    """What to do with `setting`.

    value, low, high: the advised setting and the 95 % range of where the best one lies. gain, gain_low: in accepted
    results for each 100 verdicts, against the present setting, and its lower bound. order: the chance that an accepted
    result has the higher value of a pair. needed: verdicts, in all, that an answer would take, as far as can be told.
    """

    setting: str
    present: float
    answer: Answer
    reason: str
    verdicts: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    order: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Gains:
    """Of each candidate over the present setting, a job: the mean (T,), and the covariance of the means (T, T)."""

    candidates: Floats
    mean: Floats
    covariance: Floats


def advise(
    setting: str, evidence: Evidence, present: float, step: float, cost: float, rng: np.random.Generator
) -> Advice:
    """Advice on a lower limit of the gate that stands at `present` and moves in multiples of `step`."""
    accepted, rejected = int(evidence.accepted.sum()), int(evidence.rejected.sum())
    verdicts = accepted + rejected
    if min(accepted, rejected) < FEWEST:
        needed = _needed_for_enough(accepted, rejected)
        reason = (
            f"{accepted} accepted and {rejected} rejected results with a known value; nothing is advised before "
            f"{FEWEST} of each are there, which takes about {needed:,} verdicts at this rate"
        )
        return Advice(setting, present, "too few", reason, verdicts, needed=needed)
    order, luck = _order(evidence)
    if luck >= LEVEL:
        return _unrelated(setting, present, accepted, verdicts, order, luck)
    gains = weigh(evidence, present, step, cost)
    if not len(gains.candidates):
        reason = f"no other value moves at least {MOVED} results and leaves {FEWEST}: the values lie too close together"
        return Advice(setting, present, "keep", reason + _untried(gains, present), verdicts, order=order)
    return _choose(setting, present, gains, len(evidence.values), verdicts, order, rng)


def weigh(evidence: Evidence, present: float, step: float, cost: float) -> Gains:
    """What each candidate would have gained over the present setting on the same results."""
    values, worth = evidence.values, evidence.accepted - cost * evidence.rejected
    jobs, candidates = len(values), _candidates(values, present, step)
    sign = np.where(candidates > present, -1.0, 1.0)
    moved = [(values >= candidate) != (values >= present) for candidate in candidates]
    mean = sign * np.array([worth[where].sum() for where in moved]) / max(jobs, 1)
    squares = np.array([(worth[where] ** 2).sum() for where in moved]) / max(jobs, 1)
    # what two candidates on one side of the present setting move is nested, on two sides disjoint
    shared = np.where(np.equal.outer(sign, sign), np.minimum.outer(squares, squares), 0.0)
    return Gains(candidates, mean, (shared - np.outer(mean, mean)) / max(jobs, 1))


def _choose(
    setting: str, present: float, gains: Gains, jobs: int, verdicts: int, order: float, rng: np.random.Generator
) -> Advice:
    """The candidate that gained most, if its gain stands against all candidates having been looked at."""
    spread = np.sqrt(np.maximum(np.diag(gains.covariance), 1e-18))
    noise = rng.multivariate_normal(np.zeros(len(spread)), gains.covariance, DRAWS, check_valid="ignore", method="eigh")
    critical = float(np.quantile((noise / spread).max(axis=1), 1 - LEVEL))
    best = int(gains.mean.argmax())
    gain = float(gains.mean[best])
    bound = gain - critical * float(spread[best])
    hundred = 100 * jobs / verdicts
    keep = Advice(setting, present, "keep", "", verdicts, order=order, gain=gain * hundred, gain_low=bound * hundred)
    if gain <= 0:
        reason = "no other value would have done better than the present one on these verdicts"
        return replace(keep, reason=reason + _untried(gains, present))
    value = float(gains.candidates[best])
    if bound <= 0:
        needed = max(math.ceil(verdicts * (critical * spread[best] / gain) ** 2), verdicts + 1)
        reason = (
            f"{value:g} would have done best, but that may be luck; "
            f"if it is as good as it looks, about {needed:,} verdicts would show it"
        )
        return replace(keep, reason=reason + _untried(gains, present), needed=needed)
    places = gains.candidates[(gains.mean + noise).argmax(axis=1)]
    low, high = (float(place) for place in np.quantile(places, (0.025, 0.975), method="inverted_cdf"))
    reason = (
        f"{value:g} in place of {present:g} would have gained {keep.gain:.1f} accepted results for each 100 verdicts "
        f"(at least {keep.gain_low:.1f}, with all candidates allowed for)"
    )
    return replace(keep, answer="change", reason=reason, value=value, low=low, high=high)


def _unrelated(setting: str, present: float, accepted: int, verdicts: int, order: float, luck: float) -> Advice:
    needed = _needed_for_order(accepted / verdicts)
    weak = "even a weak relation (an accepted result above a rejected one in 60 of 100 pairs)"
    if needed > verdicts:
        outlook = f"about {needed:,} verdicts would show {weak}"
    else:
        outlook = f"so many would most likely have shown {weak}"
    reason = (
        f"accepted results do not have higher values than rejected ones so far as {verdicts:,} verdicts tell "
        f"(p = {luck:.2f}), so no value of this setting separates them; {outlook}"
    )
    wait = needed if needed > verdicts else None
    return Advice(setting, present, "no relation", reason, verdicts, order=order, needed=wait)


def _untried(gains: Gains, present: float) -> str:
    if (gains.candidates < present).any():
        return ""
    return "; of lower ones nothing is known, as too little was delivered under them"


def _candidates(values: Floats, present: float, step: float) -> Floats:
    """At most CANDIDATES multiples of `step`, each of which tells enough results apart."""
    grid = np.unique(np.floor(values / step + 1e-9)) * step
    ordered = np.sort(values)
    delivered = len(values) - np.searchsorted(ordered, grid, side="left")
    today = len(values) - np.searchsorted(ordered, present, side="left")
    grid = grid[(np.abs(delivered - today) >= MOVED) & (delivered >= FEWEST)]
    if len(grid) > CANDIDATES:
        grid = grid[np.linspace(0, len(grid) - 1, CANDIDATES).round().astype(int)]
    return np.round(grid, 6)


def _order(evidence: Evidence) -> tuple[float, float]:
    """The chance that an accepted job has the higher value of a pair, and the p-value of "not over one half".

    A job of several verdicts counts once, by their majority.
    """
    accepted = evidence.values[evidence.accepted > evidence.rejected]
    rejected = evidence.values[evidence.rejected > evidence.accepted]
    if not len(accepted) or not len(rejected):
        return 0.5, 1.0
    from scipy.stats import mannwhitneyu  # a third of the web process's start, if it stood at the top

    test = mannwhitneyu(accepted, rejected, alternative="greater")
    return float(test.statistic / (len(accepted) * len(rejected))), float(test.pvalue)


def _needed_for_enough(accepted: int, rejected: int) -> int:
    """Verdicts until FEWEST of both kinds are there, at the rate seen, or at its upper bound where none was seen."""
    total = accepted + rejected
    fewer = share(min(accepted, rejected), total)
    rate = fewer.share or fewer.high or 0.5
    return max(math.ceil(FEWEST / min(rate, 0.5)), total + 1)


def _needed_for_order(accepted: float, order: float = 0.6, power: float = 0.9) -> int:
    """Noether's sample size of the rank test, for a share `accepted` of all verdicts."""
    z = NormalDist().inv_cdf(1 - LEVEL) + NormalDist().inv_cdf(power)
    return math.ceil(z**2 / (12 * accepted * (1 - accepted) * (order - 0.5) ** 2))

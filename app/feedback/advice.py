"""Advice on a setting of the gate from the judges' verdicts, given only if there is enough evidence.

A delivered result earns 1 if it is accepted and costs `cost` if it is rejected; a refusal costs nothing. The advice
takes three steps and stops at the first that fails; docs/feedback.md explains them and gives their error rates.
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
"""Accepted results, and rejected ones, that advice requires; also the results that must remain delivered."""

MOVED = 10
"""Results whose outcome a candidate must change compared with the current setting."""

CANDIDATES = 64
DRAWS = 4_000
LEVEL = 0.05
"""Significance level of each of the two tests."""


@dataclass(frozen=True)
class Evidence:
    """The value (score or number of Gaussians) and the verdicts of each delivered and judged job, all (N,)."""

    values: Floats
    accepted: Floats
    rejected: Floats


@dataclass(frozen=True)
class Advice:
    """Advice on `setting`.

    value, low, high: the advised value and the 95 % range of the best one. gain, gain_low: accepted results per 100
    verdicts gained over the current setting, and the lower bound. order: the probability that an accepted result has a
    higher value than a rejected one. needed: the estimated number of verdicts, in total, for an answer.
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
    """The gain of each candidate over the current setting, per job: mean (T,), and covariance of the means (T, T)."""

    candidates: Floats
    mean: Floats
    covariance: Floats


def advise(
    setting: str, evidence: Evidence, present: float, step: float, cost: float, rng: np.random.Generator
) -> Advice:
    """Advice on a lower limit of the gate whose current value is `present`; candidates are multiples of `step`."""
    accepted, rejected = int(evidence.accepted.sum()), int(evidence.rejected.sum())
    verdicts = accepted + rejected
    if min(accepted, rejected) < FEWEST:
        needed = _needed_for_enough(accepted, rejected)
        reason = (
            f"there are {accepted} accepted and {rejected} rejected results with a known value; advice needs "
            f"{FEWEST} of each, about {needed:,} verdicts at this rate"
        )
        return Advice(setting, present, "too few", reason, verdicts, needed=needed)
    order, luck = _order(evidence)
    if luck >= LEVEL:
        return _unrelated(setting, present, accepted, verdicts, order, luck)
    gains = estimate_gains(evidence, present, step, cost)
    if not len(gains.candidates):
        reason = f"no other value changes at least {MOVED} outcomes and leaves {FEWEST} results"
        return Advice(setting, present, "keep", reason + _untried(gains, present), verdicts, order=order)
    return _choose(setting, present, gains, len(evidence.values), verdicts, order, rng)


def estimate_gains(evidence: Evidence, present: float, step: float, cost: float) -> Gains:
    """The gain of each candidate over the current setting on the same results."""
    values, worth = evidence.values, evidence.accepted - cost * evidence.rejected
    jobs, candidates = len(values), _candidates(values, present, step)
    sign = np.where(candidates > present, -1.0, 1.0)
    moved = [(values >= candidate) != (values >= present) for candidate in candidates]
    mean = sign * np.array([worth[where].sum() for where in moved]) / max(jobs, 1)
    squares = np.array([(worth[where] ** 2).sum() for where in moved]) / max(jobs, 1)
    # candidates on one side of the current setting change nested sets of results, on two sides disjoint ones
    shared = np.where(np.equal.outer(sign, sign), np.minimum.outer(squares, squares), 0.0)
    return Gains(candidates, mean, (shared - np.outer(mean, mean)) / max(jobs, 1))


def _choose(
    setting: str, present: float, gains: Gains, jobs: int, verdicts: int, order: float, rng: np.random.Generator
) -> Advice:
    """The candidate with the largest gain, if that is significant among all candidates."""
    spread = np.sqrt(np.maximum(np.diag(gains.covariance), 1e-18))
    noise = rng.multivariate_normal(np.zeros(len(spread)), gains.covariance, DRAWS, check_valid="ignore", method="eigh")
    critical = float(np.quantile((noise / spread).max(axis=1), 1 - LEVEL))
    best = int(gains.mean.argmax())
    gain = float(gains.mean[best])
    bound = gain - critical * float(spread[best])
    hundred = 100 * jobs / verdicts
    keep = Advice(setting, present, "keep", "", verdicts, order=order, gain=gain * hundred, gain_low=bound * hundred)
    if gain <= 0:
        reason = "no other value would have done better on these verdicts"
        return replace(keep, reason=reason + _untried(gains, present))
    value = float(gains.candidates[best])
    if bound <= 0:
        needed = max(math.ceil(verdicts * (critical * spread[best] / gain) ** 2), verdicts + 1)
        reason = (
            f"{value:g} would have done best, but that is not significant; "
            f"if the gain is real, about {needed:,} verdicts would show it"
        )
        return replace(keep, reason=reason + _untried(gains, present), needed=needed)
    places = gains.candidates[(gains.mean + noise).argmax(axis=1)]
    low, high = (float(place) for place in np.quantile(places, (0.025, 0.975), method="inverted_cdf"))
    reason = (
        f"{value:g} instead of {present:g} would have gained {keep.gain:.1f} accepted results per 100 verdicts "
        f"(at least {keep.gain_low:.1f}, corrected for the number of candidates)"
    )
    return replace(keep, answer="change", reason=reason, value=value, low=low, high=high)


def _unrelated(setting: str, present: float, accepted: int, verdicts: int, order: float, luck: float) -> Advice:
    needed = _needed_for_order(accepted / verdicts)
    weak = "a weak relation (an accepted result above a rejected one in 60 of 100 pairs)"
    if needed > verdicts:
        outlook = f"about {needed:,} verdicts would show {weak}"
    else:
        outlook = f"this many would most likely have shown {weak}"
    reason = (
        f"{verdicts:,} verdicts do not show that accepted results have higher values than rejected ones "
        f"(p = {luck:.2f}), so no value of this setting separates them; {outlook}"
    )
    wait = needed if needed > verdicts else None
    return Advice(setting, present, "no relation", reason, verdicts, order=order, needed=wait)


def _untried(gains: Gains, present: float) -> str:
    if (gains.candidates < present).any():
        return ""
    return "; nothing is known about lower values, because too little was delivered below the current one"


def _candidates(values: Floats, present: float, step: float) -> Floats:
    """At most CANDIDATES multiples of `step`, each of which changes enough outcomes."""
    grid = np.unique(np.floor(values / step + 1e-9)) * step
    ordered = np.sort(values)
    delivered = len(values) - np.searchsorted(ordered, grid, side="left")
    today = len(values) - np.searchsorted(ordered, present, side="left")
    grid = grid[(np.abs(delivered - today) >= MOVED) & (delivered >= FEWEST)]
    if len(grid) > CANDIDATES:
        grid = grid[np.linspace(0, len(grid) - 1, CANDIDATES).round().astype(int)]
    return np.round(grid, 6)


def _order(evidence: Evidence) -> tuple[float, float]:
    """The probability that an accepted job has a higher value than a rejected one, and the p-value of "at most 1/2".

    A job with several verdicts counts once, by their majority.
    """
    accepted = evidence.values[evidence.accepted > evidence.rejected]
    rejected = evidence.values[evidence.rejected > evidence.accepted]
    if not len(accepted) or not len(rejected):
        return 0.5, 1.0
    from scipy.stats import mannwhitneyu  # a third of the web process's start-up time

    test = mannwhitneyu(accepted, rejected, alternative="greater")
    return float(test.statistic / (len(accepted) * len(rejected))), float(test.pvalue)


def _needed_for_enough(accepted: int, rejected: int) -> int:
    """Verdicts until there are FEWEST of both kinds, at the observed rate, or at its upper bound if there was none."""
    total = accepted + rejected
    fewer = share(min(accepted, rejected), total)
    rate = fewer.share or fewer.high or 0.5
    return max(math.ceil(FEWEST / min(rate, 0.5)), total + 1)


def _needed_for_order(accepted: float, order: float = 0.6, power: float = 0.9) -> int:
    """Noether's sample size of the rank test, for a share `accepted` of all verdicts."""
    z = NormalDist().inv_cdf(1 - LEVEL) + NormalDist().inv_cdf(power)
    return math.ceil(z**2 / (12 * accepted * (1 - accepted) * (order - 0.5) ** 2))

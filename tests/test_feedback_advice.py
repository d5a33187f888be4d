"""Shares, intervals and the advice, against known values and against judges with a known cut-off."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.feedback.advice import FEWEST, Advice, Evidence, advise, estimate_gains
from app.feedback.statistics import difference, quartiles, share


def wilson(count: int, total: int) -> tuple[float, float]:
    """The textbook formula, for z = 1.959964."""
    z, p = 1.959963984540054, count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return middle - half, middle + half


@pytest.mark.parametrize(("count", "total"), [(56, 70), (0, 50), (50, 50), (1, 20), (999, 1_000)])
def test_a_share_has_the_interval_of_wilson(count: int, total: int) -> None:
    found = share(count, total)
    assert (found.low, found.high) == pytest.approx(wilson(count, total), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 5, 0, 1 - 0.025 ** (1 / 5)), (5, 5, 0.025 ** (1 / 5), 1), (2, 10, 0.025210726, 0.556095463)],
)
def test_a_share_of_few_has_the_exact_interval(count: int, total: int, low: float, high: float) -> None:
    found = share(count, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-8)


def test_a_share_of_none_is_not_a_number() -> None:
    assert share(0, 0).share is None


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_a_share_lies_in_its_interval(counts: tuple[int, int]) -> None:
    found = share(*counts)
    assert found.share is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.share + 1e-12
    assert found.share - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((5, 56), (0, 29), -0.0381, 0.1926)],  # Newcombe 1998, table II, method 10
)
def test_a_difference_has_the_interval_of_newcombe(first: tuple, second: tuple, low: float, high: float) -> None:
    found = difference(share(*second), share(*first))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.change == pytest.approx(first[0] / first[1] - second[0] / second[1])


def test_a_difference_needs_both_sides() -> None:
    assert difference(share(0, 0), share(3, 4)).change is None


def test_scores_under_the_cut_are_low_but_not_zero() -> None:
    found = quartiles(np.array([0.0, 0.0, 0.7, 0.8, 0.9]))
    assert found
    assert (found.low, found.median, found.high) == (None, 0.7, 0.8)
    mostly_rejected = quartiles(np.array([0.0, 0.0, 0.0, 0.9]))
    assert mostly_rejected
    assert mostly_rejected.median is None
    assert quartiles(np.array([])) is None


@given(st.lists(st.floats(0.6, 1), min_size=5, max_size=40), st.data())
def test_quartiles_do_not_depend_on_what_the_censored_scores_were(scores: list[float], data: st.DataObject) -> None:
    """Replacing rejected scores by any values under the cut-off changes no quartile that is reported."""
    rejected = data.draw(st.lists(st.floats(0.01, 0.59), max_size=20))
    found, whole = quartiles(np.array(scores + [0.0] * len(rejected))), quartiles(np.array(scores + rejected))
    assert found
    assert whole
    for censored, true in ((found.low, whole.low), (found.median, whole.median), (found.high, whole.high)):
        assert censored == true if censored is not None else true < 0.6  # type: ignore[operator]


# ---- advice ----------------------------------------------------------------------------------------------------------


def evidence(rng: np.random.Generator, count: int, steepness: float, middle: float, low: float = 0.20) -> Evidence:
    """Scores that were delivered (at or above `low`), accepted with a chance that is one half at `middle`."""
    scores = rng.normal(0.26, 0.03, count)
    scores = scores[scores >= low]
    accepted = (rng.random(len(scores)) < 1 / (1 + np.exp(-steepness * (scores - middle)))).astype(float)
    return Evidence(scores, accepted, 1 - accepted)


def ask(found: Evidence, rng: np.random.Generator, present: float = 0.20, cost: float = 1.0) -> Advice:
    return advise("validate.threshold", found, present, 0.001, cost, rng)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("middle", "cost"), [(0.24, 1.0), (0.26, 1.0), (0.24, 3.0)])
def test_the_advised_threshold_lies_near_the_true_optimum(seed: int, middle: float, cost: float) -> None:
    rng = np.random.default_rng(seed)
    best = middle + math.log(cost) / 100  # where the chance of acceptance is cost / (1 + cost)
    advice = ask(evidence(rng, 3_000, 100, middle), rng, cost=cost)
    assert advice.answer == "change"
    assert advice.value == pytest.approx(best, abs=0.008)
    assert advice.low is not None
    assert advice.high is not None
    assert advice.low - 0.002 <= best <= advice.high + 0.002
    assert advice.gain_low is not None
    assert advice.gain is not None
    assert 0 < advice.gain_low < advice.gain


def test_a_threshold_that_is_too_high_is_lowered() -> None:
    """Only where something was delivered under the present one: here it stood at 0.20 before."""
    rng = np.random.default_rng(1)
    advice = ask(evidence(rng, 3_000, 100, 0.22), rng, present=0.27)
    assert advice.answer == "change"
    assert advice.value == pytest.approx(0.22, abs=0.008)


def test_nothing_is_advised_from_noise() -> None:
    """40 sets of verdicts that the score does not decide; by luck each may pass a test of 5 % twice over."""
    answers = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        answers.append(ask(evidence(rng, 300, 0, 0), rng).answer)
    assert answers.count("change") <= 2
    assert answers.count("no relation") >= 32


def test_a_judge_who_accepts_everything_gives_no_reason_to_refuse_more() -> None:
    rng = np.random.default_rng(0)
    advice = ask(evidence(rng, 5_000, 100, 0.19), rng)
    assert advice.answer == "keep"
    assert "no other value" in advice.reason


@pytest.mark.parametrize("rejected", [0, 3, FEWEST - 1])
def test_too_few_verdicts_are_said_with_the_number_needed(rejected: int) -> None:
    values = np.linspace(0.2, 0.3, 100)
    verdicts = (np.arange(100) < rejected).astype(float)
    advice = ask(Evidence(values, 1 - verdicts, verdicts), np.random.default_rng(0))
    assert advice.answer == "too few"
    assert advice.value is None
    assert advice.needed is not None
    assert advice.needed > 100
    assert f"{rejected} rejected" in advice.reason
    if rejected:
        assert advice.needed == max(math.ceil(FEWEST * 100 / rejected), 101)


def test_no_verdicts_at_all_are_too_few() -> None:
    nothing = np.zeros(0)
    assert ask(Evidence(nothing, nothing, nothing), np.random.default_rng(0)).answer == "too few"


def test_a_better_value_that_may_be_luck_is_not_advised_but_the_number_needed_is() -> None:
    answers = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        answers.append(ask(evidence(rng, 200, 20, 0.24), rng))
    maybe = [advice for advice in answers if advice.answer == "keep" and advice.needed]
    assert maybe
    assert all(advice.value is None and advice.needed > advice.verdicts for advice in maybe)  # type: ignore[operator]


def test_values_that_are_all_the_same_advise_nothing() -> None:
    verdicts = np.arange(100) % 2.0
    advice = ask(Evidence(np.full(100, 200_000.0), verdicts, 1 - verdicts), np.random.default_rng(0))
    assert advice.answer == "no relation"


def test_the_gain_is_what_counting_gives() -> None:
    """Against plain sums and covariances over the jobs, on both sides of the present threshold."""
    rng = np.random.default_rng(3)
    found = evidence(rng, 400, 40, 0.25)
    gains = estimate_gains(found, 0.25, 0.001, 2.0)
    worth = found.accepted - 2.0 * found.rejected
    delivered = np.stack([found.values >= candidate for candidate in gains.candidates]).astype(float)
    each = worth * (delivered - (found.values >= 0.25))
    assert (gains.candidates < 0.25).any()
    assert (gains.candidates > 0.25).any()
    np.testing.assert_allclose(gains.mean, each.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(gains.covariance, np.cov(each, bias=True) / len(worth), atol=1e-12)


def test_the_same_verdicts_give_the_same_advice() -> None:
    found = evidence(np.random.default_rng(0), 1_000, 100, 0.24)
    assert ask(found, np.random.default_rng(5)) == ask(found, np.random.default_rng(5))

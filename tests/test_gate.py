import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import ValidateConfig
from app.gate import MetricValue, judge
from app.reason import Reason


def test_passes_at_the_threshold_and_the_minimum() -> None:
    assert judge(150_000, {"clip": 0.20}, ValidateConfig()).passed


def test_every_reason_is_given_not_the_first_only() -> None:
    verdict = judge(149_999, {"clip": 0.1999}, ValidateConfig())
    assert verdict.outcome == "refused"
    assert len(verdict.reasons) == 2
    assert "149,999 Gaussians are fewer than 150,000" in str(verdict.reasons[0])
    assert "CLIP score 0.199 is below the threshold 0.2" in str(verdict.reasons[1])


@pytest.mark.parametrize("score", [None, math.nan, -math.inf, -1.0])
def test_a_missing_or_broken_score_is_refused(score: float | None) -> None:
    verdict = judge(1_000_000, {} if score is None else {"clip": score}, ValidateConfig())
    assert verdict.outcome == "refused"
    stored = json.loads(json.dumps(verdict.reasons[0].to_dict(), allow_nan=False))
    assert str(Reason.from_stored(stored)) == str(verdict.reasons[0])


def test_validation_switched_off_never_says_passed() -> None:
    verdict = judge(1_000_000, {"clip": 1.0}, ValidateConfig(enabled=False))
    assert verdict.outcome == "not validated"
    assert not verdict.passed
    assert "OFF" in str(verdict.reasons[0])


@given(st.integers(0, 10**7), st.floats(-1, 1))
def test_passed_means_both_conditions_hold(gaussians: int, score: float) -> None:
    verdict = judge(gaussians, {"clip": score}, ValidateConfig())
    assert verdict.passed == (gaussians >= 150_000 and score >= 0.20) == (not verdict.reasons)


def test_the_likeness_to_a_picture_has_a_threshold_of_its_own() -> None:
    verdict = judge(150_000, {"likeness": 0.6999}, ValidateConfig())
    assert [str(reason) for reason in verdict.reasons] == ["likeness score 0.699 is below the image threshold 0.7"]
    assert verdict.score == 0.6999
    assert judge(150_000, {"likeness": 0.6999}, ValidateConfig(image_threshold=0.6)).passed


def test_every_metric_decides_and_the_first_is_the_score() -> None:
    verdict = judge(150_000, {"likeness": 0.9, "clip": 0.1}, ValidateConfig())
    assert (verdict.outcome, verdict.score) == ("refused", 0.1)
    assert verdict.metrics["likeness"] == MetricValue(0.9, 0.7)


def test_a_threshold_of_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="'sharpness' is not a metric with a threshold here"):
        ValidateConfig(thresholds={"sharpness": 0.5})
    with pytest.raises(ValueError, match=r"its threshold is validate\.threshold"):
        ValidateConfig(thresholds={"clip": 0.5})

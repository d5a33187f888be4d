"""The gate: decides what passes and what is refused, and why. A pure function of numbers.

This file does not know how a splat is made, rendered or measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.config import ValidateConfig
from app.metrics import METRICS, score_of
from app.metrics.metric import Metric
from app.reason import Reason

Outcome = Literal["passed", "refused", "not validated"]


@dataclass(frozen=True)
class MetricValue:
    """A metric's value and the threshold that it was compared with."""

    value: float
    threshold: float


@dataclass(frozen=True)
class Verdict:
    """The outcome with every reason for it, and the metrics by name."""

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    @property
    def score(self) -> float | None:
        """The value of the first metric; None if there is none."""
        return score_of({name: each.value for name, each in self.metrics.items()})


def judge(gaussians: int, values: Mapping[str, float], config: ValidateConfig) -> Verdict:
    """The verdict on a splat with this many Gaussians. values: by metric; each metric has a threshold in `config`.

    With validation switched off the outcome is never "passed".
    """
    metrics = {name: MetricValue(value, _threshold(METRICS[name], config)) for name, value in values.items()}
    if not config.enabled:
        return Verdict("not validated", (Reason("validation_off"),), metrics)
    reasons = []
    if gaussians < config.min_gaussians:
        reasons.append(Reason("too_few_gaussians", {"gaussians": gaussians, "min_gaussians": config.min_gaussians}))
    if not metrics:
        reasons.append(Reason("no_score"))
    failed = ((METRICS[name], each) for name, each in metrics.items())
    reasons += [_reason(metric, each) for metric, each in failed if not metric.passes(each.value, each.threshold)]
    return Verdict("refused" if reasons else "passed", tuple(reasons), metrics)


def _threshold(metric: Metric, config: ValidateConfig) -> float:
    threshold = config.threshold_of(metric)
    if threshold is None:
        raise ValueError(f"metric {metric.name!r} has no threshold: set validate.thresholds")
    return threshold


def _reason(metric: Metric, found: MetricValue) -> Reason:
    figures = {
        "metric": metric.name,
        "label": metric.label,
        "value": found.value if math.isfinite(found.value) else str(found.value),  # JSON has no NaN
        "setting": (metric.setting or "threshold").replace("_", " "),
        "threshold": found.threshold,
    }
    return Reason("below_threshold" if metric.higher_is_better else "above_threshold", figures)

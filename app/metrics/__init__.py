"""The registry of metrics. The gate, the configuration and the certificate ask here; no other module names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from app.metrics import clip, likeness
from app.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    "clip": clip.METRIC,
    "likeness": likeness.METRIC,
}
"""By name. The score of a job is the value of the first metric that was measured."""


def score_of(values: Mapping[str, float]) -> float | None:
    """The score of a splat: the value of its first metric in the order of METRICS; None without any."""
    return next((values[name] for name in METRICS if name in values), None)


def _known(thresholds: dict[str, float]) -> dict[str, float]:
    for name, value in thresholds.items():
        metric = METRICS.get(name)
        if metric is None or metric.setting:
            others = ", ".join(each.name for each in METRICS.values() if not each.setting) or "none"
            own = f"; its threshold is validate.{metric.setting}" if metric else ""
            raise ValueError(f"{name!r} is not a metric with a threshold here{own}; known are: {others}")
        if not metric.low <= value <= metric.high:
            raise ValueError(f"{name} ranges from {metric.low:g} to {metric.high:g}")
    return thresholds


Thresholds = Annotated[dict[str, float], AfterValidator(_known)]

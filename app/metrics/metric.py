"""What is known about a metric before it is loaded. Nothing in this package imports torch."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

Need = Literal["views", "prompt", "picture", "splat"]


@dataclass(frozen=True)
class Metric:
    """A number that the gate compares with a threshold. Code is given as "module:function", and imported when called.

    label: its name in the log and in reasons. title: a longer name.
    compute: function (loaded, app.stages.measurement.Subject, config) -> app.stages.measurement.Measurement.
    load: function (config, on_load) -> what `compute` needs; empty if it needs nothing. Metrics that name the same
    function share what it returns.
    needs: what it is computed from. unless: it is skipped if one of these is present.
    low, high: its range. higher_is_better: whether values below the threshold are refused, or values above it.
    setting: the key of [validate] with its threshold; if empty, the threshold is in validate.thresholds, by name.
    """

    name: str
    label: str
    title: str
    compute: str
    load: str = ""
    needs: frozenset[Need] = frozenset({"views"})
    unless: frozenset[Need] = frozenset()
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    setting: str = ""

    def applies(self, there: Set[Need]) -> bool:
        """Whether it can be measured on a subject with these parts."""
        return self.needs <= there and not self.unless & there

    def passes(self, value: float, threshold: float) -> bool:
        """Whether the value passes; a value equal to the threshold does, NaN does not."""
        return value >= threshold if self.higher_is_better else value <= threshold

    def is_as_strict(self, threshold: float, other: float) -> bool:
        """Whether every value that passes `threshold` also passes `other`."""
        return threshold >= other if self.higher_is_better else threshold <= other

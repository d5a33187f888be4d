"""What is known of a metric before it is loaded. This file imports no torch, nor does any file of this package."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

Need = Literal["views", "prompt", "picture", "splat"]


@dataclass(frozen=True)
class Metric:
    """A number by which the gate judges a splat. Code is named as "module:function", and imported when it is called.

    label: what the log and the reasons call it. title: the same in more words.
    compute: function (loaded, app.stages.measurement.Subject, config) -> app.stages.measurement.Measurement.
    load: function (config, on_load) -> what `compute` needs; empty if it needs nothing. Metrics that name the same
    function share what it returns.
    needs: what it is computed from. unless: it is left out if one of these is there.
    low, high: its range. higher_is_better: whether a value under the threshold is refused, or one over it.
    setting: the key of [validate] that holds its threshold; empty: validate.thresholds holds it, under its name.
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
        """Whether it is measured on a subject that has these parts."""
        return self.needs <= there and not self.unless & there

    def passes(self, value: float, threshold: float) -> bool:
        """At the threshold it passes; NaN never does."""
        return value >= threshold if self.higher_is_better else value <= threshold

    def is_as_strict(self, threshold: float, other: float) -> bool:
        """Whether whatever passes `threshold` passes `other` too."""
        return threshold >= other if self.higher_is_better else threshold <= other

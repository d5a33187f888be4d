"""The gate: what passes, what is refused and why. A pure function of numbers.

This file does not know how a splat is made, drawn or scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.config import ValidateConfig

Outcome = Literal["passed", "refused", "not validated"]


@dataclass(frozen=True)
class Verdict:
    """outcome, and every reason for it, not the first one only."""

    outcome: Outcome
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def judge(gaussians: int, score: float | None, config: ValidateConfig) -> Verdict:
    """The verdict on a splat of that many Gaussians whose views scored `score` (None: it was not scored).

    Validation that is switched off never says "passed".
    """
    if not config.enabled:
        return Verdict("not validated", ("validation is OFF (validate.enabled = false): nobody judged this splat",))
    reasons = []
    if gaussians < config.min_gaussians:
        reasons.append(f"{gaussians:,} gaussians, fewer than {config.min_gaussians:,}")
    if score is None:
        reasons.append("no score")
    elif not score >= config.threshold:  # NaN is refused too
        reasons.append(f"CLIP={score:.3f}, under the threshold {config.threshold:g}")
    return Verdict("refused" if reasons else "passed", tuple(reasons))

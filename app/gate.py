"""The gate: what passes, what is refused and why. A pure function of numbers.

This file does not know how a splat is made, drawn or scored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from app.config import ValidateConfig
from app.reason import Reason

Outcome = Literal["passed", "refused", "not validated"]


@dataclass(frozen=True)
class Verdict:
    """outcome, and every reason for it, not the first one only."""

    outcome: Outcome
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def judge(gaussians: int, score: float | None, config: ValidateConfig, *, against_picture: bool = False) -> Verdict:
    """The verdict on a splat of that many Gaussians whose views scored `score` (None: it was not scored).

    against_picture: the score is the likeness to a picture, and has a threshold of its own.
    Validation that is switched off never says "passed".
    """
    if not config.enabled:
        return Verdict("not validated", (Reason("validation_off"),))
    reasons = []
    if gaussians < config.min_gaussians:
        reasons.append(Reason("too_few_gaussians", {"gaussians": gaussians, "min_gaussians": config.min_gaussians}))
    if score is None:
        reasons.append(Reason("no_score"))
    elif not score >= (threshold := config.image_threshold if against_picture else config.threshold):  # NaN too
        figures = {
            "label": "CLIP",
            "value": score if math.isfinite(score) else str(score),  # JSON has no NaN
            "setting": "image threshold" if against_picture else "threshold",
            "threshold": threshold,
        }
        reasons.append(Reason("below_threshold", figures))
    return Verdict("refused" if reasons else "passed", tuple(reasons))

"""The gate: what passes, what is refused and why. A pure function of numbers.

This file does not know how a splat is made, drawn or scored.
"""

from __future__ import annotations

import math
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


def judge(gaussians: int, score: float | None, config: ValidateConfig, *, against_picture: bool = False) -> Verdict:
    """The verdict on a splat of that many Gaussians whose views scored `score` (None: it was not scored).

    against_picture: the score is the likeness to a picture, and has a threshold of its own.
    Validation that is switched off never says "passed".
    """
    if not config.enabled:
        return Verdict("not validated", ("validation is OFF (validate.enabled = false): nobody judged this splat",))
    reasons = []
    if gaussians < config.min_gaussians:
        reasons.append(f"{gaussians:,} gaussians, fewer than {config.min_gaussians:,}")
    if score is None:
        reasons.append("no score")
    elif not score >= (threshold := config.image_threshold if against_picture else config.threshold):  # NaN too
        kind = "image threshold" if against_picture else "threshold"
        # rounded down: 0.1999 is under 0.2, and should not read 0.200
        shown = f"{math.floor(score * 1000) / 1000:.3f}" if math.isfinite(score) else f"{score}"
        reasons.append(f"CLIP={shown}, under the {kind} {threshold:g}")
    return Verdict("refused" if reasons else "passed", tuple(reasons))

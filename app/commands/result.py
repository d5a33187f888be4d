"""Generates and writes one splat, for a single prompt and for a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.commands.output_folder import complete_folder
from app.config import Config
from app.errors import NothingMade
from app.stage import Stage

if TYPE_CHECKING:
    from app.certificate import Certificate
    from app.pipeline import GenerationRequest, Stages

OnText = Callable[[str], None]
"""Called with the current activity, for a progress line."""


@dataclass(frozen=True)
class PromptResult:
    """The result of one prompt. folder, certificate: None if no attempt produced a splat."""

    outcome: str
    reasons: tuple[str, ...]
    codes: tuple[str, ...] = ()
    folder: Path | None = None
    certificate: Certificate | None = None

    def document(self) -> dict[str, Any]:
        if self.certificate:
            return {"folder": str(self.folder), "certificate": self.certificate.model_dump(mode="json")}
        verdict = {"outcome": self.outcome, "reasons": self.reasons, "reason_codes": self.codes}
        return {"folder": None, "certificate": None, "verdict": verdict}


def run_one(
    request: GenerationRequest,
    seed: int,
    attempts: int,
    stages: Stages,
    config: Config,
    folder: Path,
    on_text: OnText,
) -> PromptResult:
    """Generates one splat and writes its folder."""
    from app import outputs, pipeline

    def on_stage(stage: Stage) -> None:
        on_text(stage.line())

    def on_step(done: int, of: int) -> None:
        on_text(Stage.PICTURE.line(f"the picture: step {done} of {of}"))

    try:
        attempt = pipeline.generate(request, seed, attempts, stages, config, on_stage, on_step)
    except NothingMade as error:
        return PromptResult("refused", (str(error),), (error.reason.code,))
    on_text("Writing the files")
    with complete_folder(folder) as temporary:
        issued = outputs.write_outputs(attempt, temporary, config, datetime.now(UTC))
    return PromptResult(attempt.outcome, issued.verdict.reasons, issued.verdict.reason_codes, folder, issued)

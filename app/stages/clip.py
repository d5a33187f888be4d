"""The metrics of the open_clip scorer: views compared with the prompt, or with a picture."""

from __future__ import annotations

from app.config import Config
from app.stages import score
from app.stages.measurement import Measurement, Subject
from app.stages.score import Scorer, ScorerParams
from app.weights.manifest import SCORER, scorer_is_ours
from app.weights.store import OnLoad, locate_file, no_progress


def load(config: Config, on_load: OnLoad = no_progress) -> Scorer:
    """Loads the scorer of [score]. Raises NotFetched, BadWeights, or Unavailable if the device is missing."""
    weights = config.score.weights
    if scorer_is_ours(config):
        file = locate_file(SCORER, config, on_load)
        on_load(f"loading {SCORER}", 0, file.stat().st_size)
        weights = str(file)
    return score.load(ScorerParams(**config.score.model_dump() | {"weights": weights}))


def compare_with_prompt(scorer: Scorer, subject: Subject, _config: Config) -> Measurement:
    """The cosine of views and prompt. Raises StageFailed for a number that is not finite."""
    return scorer.run(subject.views.images, subject.prompt)


def compare_with_picture(scorer: Scorer, subject: Subject, config: Config) -> Measurement:
    """The cosine of views and picture. Raises StageFailed for a number that is not finite."""
    assert subject.picture
    return scorer.run_against(subject.views.images, subject.picture.image, config.render.background)

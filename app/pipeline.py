"""THE STORY: prompt → picture → splat → diagnosed and repaired → seen from four sides → scored → passed or refused.

This file does not know HTTP, queues, or how any stage does its work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loguru import logger

from app.config import Config
from app.errors import Unavailable
from app.gate import Verdict, judge
from app.prompt import check_prompt
from app.splat.cameras import IDENTITY, Placement, judge_placement, judging_views
from app.splat.diagnosis import Diagnosis, Finding, diagnose
from app.splat.model import Splat
from app.splat.raster import Views, render
from app.splat.repair import RepairReport, repair
from app.stages import score, shapes
from app.stages.picture import Picture
from app.stages.score import Score, Scorer, ScorerParams, shapes_scorer_params

STAND_IN = (
    "profile 'shapes' is the embedded stand-in: a small built-in world and its own small scorer, not FLUX + TRELLIS"
)


class Generator(Protocol):
    """What turns words into a splat, by way of a picture or, like the stand-in, without one."""

    model_id: str

    def draw(self, prompt: str, seed: int) -> Picture | None: ...

    def build(self, prompt: str, picture: Picture | None, seed: int) -> Splat: ...


@dataclass(frozen=True)
class Stages:
    """What a profile brings, loaded."""

    generator: Generator
    scorer: Scorer | None  # None: validation is off


@dataclass(frozen=True)
class Brief:
    """What is asked for: words, and a picture where the caller brings one."""

    prompt: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Judged:
    """One attempt, whole: the repaired splat and everything that is known about it."""

    prompt: str
    seed: int
    attempt: int
    generator: str
    picture: Picture | None
    splat: Splat
    diagnosis: Diagnosis
    repairs: RepairReport
    findings_left: tuple[Finding, ...]
    views: Views
    score: Score | None
    verdict: Verdict


OnStage = Callable[[str], None]
"""Told the name of each stage as it begins."""


def load_stages(config: Config) -> Stages:
    """Loads what the configured profile needs. Raises Unavailable or BadWeights, naming what is missing."""
    if config.profile.name == "full":
        raise Unavailable(
            "profile 'full' (FLUX + TRELLIS) cannot generate yet: its two generators are not part of this release. "
            "Use --profile shapes (the embedded stand-in); inspect, repair, render and validate take any splat"
        )
    scorer = load_scorer(config)
    return Stages(shapes.load(shapes.ShapesParams(config.shapes.gaussians)), scorer)


def load_scorer(config: Config) -> Scorer | None:
    """The profile's scorer, or None, with a warning, where validation is switched off."""
    if config.profile.name == "shapes":
        logger.warning(STAND_IN)
    if not config.validation.enabled:
        logger.warning("Validation: OFF (validate.enabled = false): nothing will be scored or refused")
        return None
    if config.profile.name == "shapes":
        params = shapes_scorer_params(config.score.aggregate)
    else:
        params = ScorerParams(**config.score.model_dump())
    scorer = score.load(params)
    logger.info(f"CLIP validator ready (threshold={config.validation.threshold:g})")
    logger.info("Validation: ON")
    return scorer


def generate(brief: Brief, seed: int, attempts: int, stages: Stages, config: Config, on_stage: OnStage) -> Judged:
    """Up to `attempts` attempts with consecutive seeds; the first that passes, else the best that was refused."""
    best: Judged | None = None
    for attempt in range(1, attempts + 1):
        picture = draw(brief, seed + attempt - 1, stages, config, on_stage)
        judged = build(brief, picture, seed + attempt - 1, attempt, stages, config, on_stage)
        best = max(best or judged, judged, key=_rank)
        if judged.verdict.outcome != "refused":
            break
        if attempt < attempts:
            logger.info(f"attempt {attempt} of {attempts} refused; trying seed {seed + attempt}")
    assert best is not None
    return best


def draw(brief: Brief, seed: int, stages: Stages, config: Config, on_stage: OnStage) -> Picture | None:
    """The first half of an attempt: the picture, the caller's own or a drawn one; None where the profile needs none."""
    check_prompt(brief.prompt, config.limits)
    if brief.picture:
        return brief.picture
    _announce(
        f"[1/4] Generating a splat for {brief.prompt!r} (profile {config.profile.name}, seed {seed})...", on_stage
    )
    return stages.generator.draw(brief.prompt, seed)


def build(
    brief: Brief, picture: Picture | None, seed: int, attempt: int, stages: Stages, config: Config, on_stage: OnStage
) -> Judged:
    """The second half: the splat, healed, looked at and judged."""
    _announce("[1/4] Building the splat...", on_stage)
    raw = stages.generator.build(brief.prompt, picture, seed)
    _announce("[2/4] Diagnosing and repairing...", on_stage)
    splat, diagnosis, repairs = heal(raw, config)
    left = () if diagnosis.healthy else diagnose(splat, config.diagnose).findings
    _announce(f"[3/4] Rendering {len(config.render.views)} views...", on_stage)
    views = look(splat, config)
    _announce("[4/4] Validating with CLIP...", on_stage)
    judgement, verdict = validate(splat, views, brief.prompt, stages.scorer, config)
    made_by = stages.generator.model_id
    return Judged(
        brief.prompt, seed, attempt, made_by, picture, splat, diagnosis, repairs, left, views, judgement, verdict
    )


def heal(splat: Splat, config: Config) -> tuple[Splat, Diagnosis, RepairReport]:
    """Diagnoses, then repairs what was found; a healthy splat comes back as the same object."""
    diagnosis = diagnose(splat, config.diagnose)
    if diagnosis.findings and not config.repair.enabled:
        logger.warning("repair is OFF (repair.enabled = false): findings are left as they are")
        return splat, diagnosis, RepairReport(len(splat), len(splat), ())
    repaired, report = repair(splat, diagnosis, config.repair)
    return repaired, diagnosis, report


def look(splat: Splat, config: Config) -> Views:
    """The judging views of the configuration."""
    settings = config.render
    return render(
        splat,
        judging_views(settings),
        placement=place(splat, settings.placement, settings.extent),
        background=settings.background,
        device=settings.device,
    )


def place(splat: Splat, placement: str, extent: float) -> Placement:
    return judge_placement(splat, extent) if placement == "judge" else IDENTITY


def validate(
    splat: Splat, views: Views, prompt: str, scorer: Scorer | None, config: Config
) -> tuple[Score | None, Verdict]:
    """Scores the views against the prompt and asks the gate; the log says it in the words operators look for."""
    judgement = scorer.run(views.images, prompt) if scorer else None
    verdict = judge(len(splat), judgement.value if judgement else None, config.validation)
    if judgement:
        logger.info(f"DIAGNOSTIC - 3D Render CLIP score: {judgement.value:.3f}")
    if verdict.outcome == "passed" and judgement:
        logger.info(f"VALIDATION PASSED: CLIP={judgement.value:.3f}")
    elif verdict.outcome == "refused":
        logger.warning(f"VALIDATION FAILED: {'; '.join(verdict.reasons)}")
    else:
        logger.warning(f"NOT VALIDATED: {verdict.reasons[0]}")
    return judgement, verdict


def _announce(line: str, on_stage: OnStage) -> None:
    logger.info(line)
    on_stage(line)


def _rank(judged: Judged) -> tuple[bool, float]:
    return judged.verdict.passed, judged.score.value if judged.score else 0.0

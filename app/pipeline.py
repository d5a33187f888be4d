"""The pipeline: prompt → picture → splat → diagnosis and repair → four views → scores → passed or refused.

This file does not know HTTP, queues, or how any stage does its work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

from loguru import logger

from app.attempts import best_attempt
from app.config import Config
from app.errors import BadInput, NotFetched, NothingMade, StageFailed
from app.gate import Outcome, Verdict
from app.generators import check_takes_pictures, without_models
from app.generators.generator import resolve
from app.prompt import check_prompt
from app.reason import Reason
from app.sampler_request import requested_samplers
from app.samplers import SamplerSettings
from app.splat.cameras import IDENTITY, Placement, judge_placement, judging_views
from app.splat.diagnosis import diagnose
from app.splat.findings import Diagnosis, Finding
from app.splat.formats import asset_name, certified
from app.splat.model import Splat
from app.splat.raster import Views, overdraw, render
from app.splat.repair import RepairReport, repair
from app.stage import Stage
from app.stages.measurement import Subject
from app.stages.picture import ModelInfo, OnStep, Picture
from app.stages.score import Scorer
from app.trellis.samplers import Sampling
from app.validation import Measurements, Validator, load_validator, validate
from app.weights.store import OnLoad, no_progress, require


class LoadedGenerator(Protocol):
    """Turns a request into a splat, directly or through a picture; returned by app.generators.Generator.load."""

    @property
    def model_id(self) -> str: ...

    @property
    def models(self) -> tuple[ModelInfo, ...]: ...

    def draw(self, prompt: str, seed: int, on_step: OnStep, /) -> Picture | None: ...

    def build(self, prompt: str, picture: Picture | None, seed: int, /) -> Splat: ...

    def place_weights(self, scorer: Scorer | None, config: Config, /) -> None: ...


class SamplingGenerator(LoadedGenerator, Protocol):
    """A generator with samplers, whose settings a request may change."""

    @property
    def sampling(self) -> Sampling: ...

    def with_samplers(self, settings: SamplerSettings, /) -> SamplingGenerator: ...


@runtime_checkable
class CutsOut(Protocol):
    """A generator that separates the object in a picture from its background."""

    def cut_out(self, picture: Picture, /) -> Picture: ...


@dataclass(frozen=True)
class Stages:
    """The loaded models of a profile."""

    generator: LoadedGenerator
    validator: Validator | None  # None if validation is off


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt, a picture from the caller, or both. If the prompt is empty, the views are compared with the picture.

    samplers: the fields that are given override the configured ones.
    """

    prompt: str
    picture: Picture | None = None
    samplers: SamplerSettings = field(default_factory=SamplerSettings)

    def check(self, config: Config) -> None:
        """Raises BadPrompt if a prompt is missing or unusable for the profile, BadInput if the picture or the sampler
        settings are unusable."""
        requested_samplers(self.samplers, config)
        if self.picture:
            check_takes_pictures(config.profile.generator)
        if self.prompt or not self.picture:
            check_prompt(self.prompt, config.limits)
            config.profile.generator.check(self.prompt)


@dataclass(frozen=True)
class Attempt:
    """A finished attempt: the repaired splat and everything known about it. number: 1 for the first attempt."""

    prompt: str
    seed: int
    number: int
    generator: str
    models: tuple[ModelInfo, ...]
    sampling: Sampling | None  # None: the generator has no samplers
    picture: Picture | None
    splat: Splat
    diagnosis: Diagnosis
    repairs: RepairReport
    findings_left: tuple[Finding, ...]
    views: Views
    measurements: Measurements
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        return self.verdict.outcome

    @property
    def score(self) -> float | None:
        return self.verdict.score


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that ended because a stage produced nothing usable. It counts as refused."""

    error: StageFailed
    outcome: Outcome = "refused"
    score: float | None = None


OnStage = Callable[[Stage], None]
"""Called with each stage as it begins."""


def load_stages(config: Config, on_load: OnLoad = no_progress) -> Stages:
    """Loads what the configured profile needs. on_load: called with what is verified and loaded.

    Raises Unavailable or BadWeights, naming what is missing.
    """
    config = config.with_generator_settings()
    try:
        require(config)  # names all missing models at once, before anything heavy begins
    except NotFetched as error:
        raise NotFetched(f"{error}\nor use profile {without_models()}, which needs none") from None
    generator: LoadedGenerator = resolve(config.profile.generator.load)(config, on_load)
    validator = load_validator(config, on_load)
    models = validator.models.values() if validator else ()
    generator.place_weights(next((each for each in models if isinstance(each, Scorer)), None), config)
    return Stages(generator, validator)


def cut_out(picture: Picture, stages: Stages) -> Picture:
    """The object in a caller's picture, transparent around it. Raises BadInput if the generator cuts nothing out, and
    StageFailed if there is no object."""
    if not isinstance(stages.generator, CutsOut):
        raise BadInput("the generator of this profile does not cut objects out of pictures")
    return stages.generator.cut_out(picture)


def generate(
    request: GenerationRequest,
    seed: int,
    attempts: int,
    stages: Stages,
    config: Config,
    on_stage: OnStage,
    on_step: OnStep = lambda _done, _of: None,
) -> Attempt:
    """Makes up to `attempts` attempts with consecutive seeds; returns the first that is not refused, else the best.

    Raises NothingMade if no attempt produced a splat.
    """

    def run(number: int) -> Attempt | FailedAttempt:
        try:
            picture = draw(request, seed + number - 1, stages, config, on_stage, on_step)
            return build(request, picture, seed + number - 1, number, stages, config, on_stage)
        except StageFailed as error:
            logger.warning(f"VALIDATION FAILED: {error}")
            return FailedAttempt(error)

    best = best_attempt(attempts, run)
    if isinstance(best, FailedAttempt):
        raise NothingMade(best.error.reason)
    return best


def draw(
    request: GenerationRequest,
    seed: int,
    stages: Stages,
    config: Config,
    on_stage: OnStage,
    on_step: OnStep = lambda _done, _of: None,
) -> Picture | None:
    """The first half of an attempt: the caller's picture, or a generated one; None if the profile needs none.

    Raises BadPrompt, and StageFailed if nothing usable was generated.
    """
    request.check(config)
    if request.picture:
        return request.picture
    _announce(Stage.PICTURE, on_stage, f"{request.prompt!r} (profile {config.profile.name}, seed {seed})")
    return stages.generator.draw(request.prompt, seed, on_step)


def build(
    request: GenerationRequest,
    picture: Picture | None,
    seed: int,
    number: int,
    stages: Stages,
    config: Config,
    on_stage: OnStage,
) -> Attempt:
    """The second half: the splat, repaired, rendered and validated. Raises StageFailed if there is none."""
    _announce(Stage.SPLAT, on_stage)
    generator, sampling = _sampled(stages.generator, request, config)
    raw = generator.build(request.prompt, picture, seed)
    _announce(Stage.REPAIR, on_stage)
    splat, diagnosis, repairs = diagnose_and_repair(raw, config)
    for format in certified():
        if problem := format.refusal(splat):
            raise StageFailed(Reason("not_storable", {"problem": problem, "file": asset_name(format)}))
    left = () if diagnosis.healthy else diagnose(splat, config.diagnose).findings
    _announce(Stage.RENDER, on_stage)
    views = render_views(splat, config)
    _announce(Stage.SCORE, on_stage)
    measurements, verdict = validate(Subject(splat, views, request.prompt, picture), stages.validator, config)
    return Attempt(
        prompt=request.prompt,
        seed=seed,
        number=number,
        generator=stages.generator.model_id,
        models=_models_used(stages.generator, picture),
        sampling=sampling,
        picture=picture,
        splat=splat,
        diagnosis=diagnosis,
        repairs=repairs,
        findings_left=left,
        views=views,
        measurements=measurements,
        verdict=verdict,
    )


def _sampled(
    generator: LoadedGenerator, request: GenerationRequest, config: Config
) -> tuple[LoadedGenerator, Sampling | None]:
    """The generator with the samplers of the request, and how it samples."""
    settings = requested_samplers(request.samplers, config)
    if not config.profile.generator.has_samplers:
        return generator, None
    sampled = cast(SamplingGenerator, generator).with_samplers(settings)
    return sampled, sampled.sampling


def _models_used(generator: LoadedGenerator, picture: Picture | None) -> tuple[ModelInfo, ...]:
    """The generator's models, without the text-to-image model if the caller gave the picture."""
    given = picture is not None and picture.seed is None
    return tuple(model for model in generator.models if not (given and model.role == "text_to_image"))


def diagnose_and_repair(splat: Splat, config: Config) -> tuple[Splat, Diagnosis, RepairReport]:
    """Diagnoses a splat and repairs what was found; returns the same object if the splat is healthy."""
    diagnosis = diagnose(splat, config.diagnose)
    if diagnosis.findings and not config.repair.enabled:
        logger.warning("repair is OFF (repair.enabled = false): findings are left as they are")
        return splat, diagnosis, RepairReport(len(splat), len(splat), ())
    repaired, report = repair(splat, diagnosis, config.repair)
    return repaired, diagnosis, report


def render_views(splat: Splat, config: Config) -> Views:
    """Renders the judging views of the configuration."""
    settings = config.render
    return render(
        splat,
        judging_views(settings),
        placement=place(splat, settings.placement, settings.extent),
        background=settings.background,
        device=settings.device,
    )


def overdrawn(splat: Splat, config: Config) -> Reason | None:
    """Why a caller's splat is too costly to render; None if it is not.

    Millions of Gaussians that each fill the picture would take minutes on a CPU or all memory of a GPU, and every later
    job would wait. Generated splats are not checked: generators make no such splats.
    """
    settings, most = config.render, config.limits.max_overdraw
    count = overdraw(splat, judging_views(settings), place(splat, settings.placement, settings.extent))
    return Reason("overdraw", {"gaussians_per_tile": count, "max_overdraw": most}) if count > most else None


def place(splat: Splat, placement: str, extent: float) -> Placement:
    return judge_placement(splat, extent) if placement == "judge" else IDENTITY


def _announce(stage: Stage, on_stage: OnStage, detail: str = "") -> None:
    logger.info(stage.line(detail))
    on_stage(stage)

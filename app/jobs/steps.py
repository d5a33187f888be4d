"""The steps of a job, which return references to files, and numbers.

A step that runs again, because its engine died before it was recorded, gives the same result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app import outputs, pipeline
from app.config import Config
from app.decoding import Decoder
from app.errors import BadFile, StageFailed
from app.jobs.assets import Assets, Stored, stored
from app.jobs.job_store import Claim, JobResult, JobStore
from app.jobs.progress import Progress
from app.jobs.records import Job
from app.pipeline import GenerationRequest, Stages
from app.reason import Reason
from app.samplers import SamplerSettings
from app.splat import formats
from app.splat.model import Splat
from app.stage import Stage
from app.stages.picture import FORMATS, Picture, encode_png, read_picture
from app.validation import per_view_scores
from app.writing import replacing

GIVEN = "given"
CUTOUT = "cutout.png"
GIVEN_PICTURES = ("picture.png", "picture.jpg")


@dataclass(frozen=True)
class DrawResult:
    """The first half of an attempt. picture: None if the profile needs none; model, seed: what generated it.

    failure: why the attempt ends here; None if it goes on.
    """

    picture: Stored | None = None
    model: str = ""
    seed: int | None = None
    failure: Reason | None = None


@dataclass(frozen=True)
class JudgedAttempt:
    """An attempt after the gate. result: without files. made: None if there is no splat, or if an earlier process
    made it."""

    result: JobResult
    drawn: DrawResult
    made: pipeline.Attempt | None = None

    @property
    def outcome(self) -> str | None:
        return self.result.outcome

    @property
    def score(self) -> float | None:
        return self.result.score


class Steps:
    """The steps of every kind of job, with loaded stages. They raise what the stages raise."""

    def __init__(self, config: Config, stages: Stages, job_store: JobStore, assets: Assets) -> None:
        self.config = config
        self.stages = stages
        self.job_store = job_store
        self.assets = assets
        self.decoder = Decoder(config.limits)
        self._drawn: tuple[Stored, Picture] | None = None  # the last drawn picture, for the build that comes next

    def draw(self, progress: Progress, attempt: int) -> DrawResult:
        """Draws the picture of an attempt, or takes the caller's."""
        job, seed = progress.claim.job, progress.claim.job.seed + attempt - 1
        if given := self.job_store.find_file(job.id, GIVEN_PICTURES):
            return DrawResult(given, GIVEN, None)
        on_stage, step = progress.on_stage(attempt), progress.on_step(attempt)
        try:
            picture = pipeline.draw(GenerationRequest(job.prompt), seed, self.stages, self.config, on_stage, step)
        except StageFailed as error:
            return DrawResult(failure=error.reason)
        if not picture:
            return DrawResult()
        picture = replace(picture, png=encode_png(picture.image))
        file = self._store_picture(progress, attempt, "picture.png", picture)
        self._drawn = file, picture
        return DrawResult(file, picture.model, picture.seed)

    def build(self, progress: Progress, attempt: int, drawn: DrawResult) -> JudgedAttempt:
        """Builds and validates the splat of an attempt. It counts as refused if a stage produced nothing usable."""
        seed = progress.claim.job.seed + attempt - 1
        failed = JobResult("DONE", attempt=attempt, seed=seed, outcome="refused")
        if drawn.failure:
            return JudgedAttempt(replace(failed, reasons=(drawn.failure,)), drawn)
        try:
            made = self._build(progress, attempt, drawn)
        except StageFailed as error:
            return JudgedAttempt(replace(failed, reasons=(error.reason,)), drawn)
        result = JobResult(
            "DONE",
            attempt=attempt,
            seed=seed,
            outcome=made.verdict.outcome,
            reasons=made.verdict.reasons,
            score=made.score,
            scores=per_view_scores(made.measurements),
            metrics=made.verdict.metrics,
            gaussians=len(made.splat),
            findings=tuple(finding.kind for finding in made.diagnosis.findings),
            repairs=tuple(done["field"] for done in made.repairs.to_dict()["repairs"]),
        )
        return JudgedAttempt(result, drawn, made)

    def write(self, claim: Claim, judged: JudgedAttempt) -> JobResult:
        """Writes the files of an attempt. Needs no model, so it may run beside the steps of another job."""
        made = judged.made
        assert made
        path = claim.folder(made.number)
        with self.assets.folder(path) as folder:
            issued = outputs.write_outputs(made, folder, self.config, datetime.now(UTC))
            hashes: dict[str, str] = {asset.name: asset.sha256 for asset in issued.assets}
            files = stored(folder, path, (*hashes, "views.png", "certificate.json"), hashes)
        return replace(judged.result, files=files)

    def cut_out(self, progress: Progress) -> JobResult:
        """The object in a caller's picture, as the generator sees it: cutout.png. Raises StageFailed."""
        progress.begin(1, Stage.PICTURE)
        given = self.job_store.find_file(progress.claim.job.id, GIVEN_PICTURES)
        if not given:
            raise BadFile(f"job {progress.claim.job.id} came without a picture")
        picture = self.decoder.picture(self.assets.read(given.path), FORMATS)
        cut = pipeline.cut_out(picture, self.stages)
        return JobResult("DONE", attempt=1, files=(self._store_picture(progress, 1, CUTOUT, cut),))

    def given_splat(self, job: Job) -> Splat:
        """The splat that the caller sent with the job."""
        file = self.job_store.find_file(job.id, formats.input_names())
        if not file:
            raise BadFile(f"job {job.id} has no splat")
        return self.decoder.splat(self.assets.read(file.path), "the given splat")

    def _build(self, progress: Progress, attempt: int, drawn: DrawResult) -> pipeline.Attempt:
        job, picture = progress.claim.job, self._picture(drawn)
        samplers = SamplerSettings.model_validate(job.trellis)
        request = GenerationRequest(job.prompt, picture if drawn.model == GIVEN else None, samplers)
        seed, on_stage = job.seed + attempt - 1, progress.on_stage(attempt)
        return pipeline.build(request, picture, seed, attempt, self.stages, self.config, on_stage)

    def _store_picture(self, progress: Progress, attempt: int, name: str, picture: Picture) -> Stored:
        path = progress.claim.folder(attempt)
        with self.assets.folder(path) as folder:
            with replacing(folder / name) as stream:
                stream.write(picture.png or encode_png(picture.image))
            (file,) = stored(folder, path, (name,))
        return file

    def _picture(self, drawn: DrawResult) -> Picture | None:
        if not drawn.picture:
            return None
        last, self._drawn = self._drawn, None
        if last and last[0] == drawn.picture:
            return last[1]
        data = self.assets.read(drawn.picture.path)
        if drawn.model == GIVEN:
            return self.decoder.picture(data, FORMATS)
        return Picture(read_picture(data, self.config.limits).image, drawn.seed, drawn.model, data)

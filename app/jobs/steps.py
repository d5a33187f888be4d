"""What is done for a job, in steps that each put their files away and give back references and numbers.

A step that is done again, because its engine died before it was recorded, writes the same files to the same places.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app import outputs, pipeline
from app.config import Config
from app.decoding import Decoder
from app.errors import BadFile, StageFailed
from app.gate import Verdict
from app.jobs.assets import Assets, Stored, stored
from app.jobs.job_store import JobResult, JobStore
from app.jobs.progress import Progress
from app.jobs.records import Job
from app.pipeline import GenerationRequest, Stages
from app.reason import Reason
from app.splat import formats
from app.splat.diagnosis import diagnose
from app.splat.files import decode_splat, replacing, write_splat
from app.splat.model import Splat
from app.splat.raster import Views
from app.stage import Stage
from app.stages.measurement import Subject
from app.stages.picture import FORMATS, Picture, encode_png, read_picture
from app.turntable import write_turntable
from app.validation import Measurements, per_view_scores, to_report, validate

GIVEN = "given"
GIVEN_PICTURES = ("picture.png", "picture.jpg")


@dataclass(frozen=True)
class DrawResult:
    """The first half of an attempt. picture: None where the profile needs none; model, seed: what drew it.

    failure: why the attempt ends here; None if it goes on.
    """

    picture: Stored | None = None
    model: str = ""
    seed: int | None = None
    failure: Reason | None = None


class Steps:
    """The steps of every kind of job, on loaded stages. Raises what the stages raise."""

    def __init__(self, config: Config, stages: Stages, job_store: JobStore, assets: Assets) -> None:
        self.config = config
        self.stages = stages
        self._job_store = job_store
        self._assets = assets
        self._decoder = Decoder(config.limits)

    def draw(self, progress: Progress, attempt: int) -> DrawResult:
        """The picture of an attempt."""
        job, seed = progress.claim.job, progress.claim.job.seed + attempt - 1
        if given := self._job_store.find_file(job.id, GIVEN_PICTURES):
            return DrawResult(given, GIVEN, None)
        told, step = progress.on_stage(attempt), progress.on_step(attempt)
        try:
            picture = pipeline.draw(GenerationRequest(job.prompt), seed, self.stages, self.config, told, step)
        except StageFailed as error:
            return DrawResult(failure=error.reason)
        if not picture:
            return DrawResult()
        path = f"{job.id}/{attempt}"
        with self._assets.folder(path) as folder:
            with replacing(folder / "picture.png") as stream:
                stream.write(encode_png(picture))
            (file,) = stored(folder, path, ("picture.png",))
        return DrawResult(file, picture.model, picture.seed)

    def build(self, progress: Progress, attempt: int, drawn: DrawResult) -> JobResult:
        """The splat of an attempt, judged. A stage that produced nothing usable makes it refused."""
        seed = progress.claim.job.seed + attempt - 1
        nothing = JobResult("DONE", attempt=attempt, seed=seed, outcome="refused")
        if drawn.failure:
            return replace(nothing, reasons=(drawn.failure,))
        try:
            made = self._build(progress, attempt, drawn)
        except StageFailed as error:
            return replace(nothing, reasons=(error.reason,))
        path = f"{progress.claim.job.id}/{attempt}"
        with self._assets.folder(path) as folder:
            issued = outputs.write_outputs(made, folder, self.config, datetime.now(UTC))
            hashes: dict[str, str] = {asset.name: asset.sha256 for asset in issued.assets}
            files = stored(folder, path, (*hashes, "views.png", "certificate.json"), hashes)
        return JobResult(
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
            files=files,
        )

    def validate(self, progress: Progress) -> JobResult:
        """A given splat, as it is, held against the prompt: verdict.json and views.png, unless it is not drawn."""
        job, told = progress.claim.job, progress.on_stage(1)
        told(Stage.REPAIR)
        splat = self._given_splat(job)
        findings = diagnose(splat, self.config.diagnose).to_dict()["findings"]
        told(Stage.RENDER)
        views: Views | None = None
        measured: Measurements = {}
        if costly := pipeline.overdrawn(splat, self.config):
            verdict = Verdict("refused", (costly,))
        else:
            views = pipeline.render_views(splat, self.config)
            told(Stage.SCORE)
            measured, verdict = validate(Subject(splat, views, job.prompt), self.stages.validator, self.config)
        report = {
            "prompt": job.prompt,
            "profile": self.config.profile.name,
            "stand_in": bool(self.config.profile.generator.stand_in),
            "gaussians": len(splat),
            **to_report(measured, verdict),
            "views": [view.name for view in self.config.render.views],
            "findings": findings,
        }
        with self._assets.folder(f"{job.id}/1") as folder:
            if views:
                outputs.write_picture(folder / "views.png", views)
            _write_json(folder / "verdict.json", report)
            files = stored(folder, f"{job.id}/1", ("views.png", "verdict.json") if views else ("verdict.json",))
        return JobResult(
            "DONE",
            attempt=1,
            outcome=verdict.outcome,
            reasons=verdict.reasons,
            score=verdict.score,
            scores=per_view_scores(measured),
            metrics=verdict.metrics,
            gaussians=len(splat),
            findings=tuple(finding["kind"] for finding in findings),
            files=files,
        )

    def repair(self, progress: Progress) -> JobResult:
        """A given splat, repaired, in the main format, and report.json."""
        job = progress.claim.job
        progress.on_stage(1)(Stage.REPAIR)
        splat = self._given_splat(job)
        repaired, diagnosis, repairs = pipeline.diagnose_and_repair(splat, self.config)
        left = () if diagnosis.healthy else diagnose(repaired, self.config.diagnose).findings
        report = {
            "gaussians_in": len(splat),
            "gaussians_out": len(repaired),
            "changed": repaired is not splat,
            "diagnosis": diagnosis.to_dict(),
            "repairs": repairs.to_dict(),
            "findings_left": [finding.kind for finding in left],
        }
        fields = tuple(done["field"] for done in repairs.to_dict()["repairs"])
        asset = formats.main_asset()
        with self._assets.folder(f"{job.id}/1") as folder:
            write_splat(folder / asset, repaired)
            _write_json(folder / "report.json", report)
            files = stored(folder, f"{job.id}/1", (asset, "report.json"))
        return JobResult(
            "DONE",
            attempt=1,
            gaussians=len(repaired),
            findings=tuple(finding.kind for finding in diagnosis.findings),
            repairs=fields,
            files=files,
        )

    def turntable(self, progress: Progress) -> JobResult:
        """turntable.mp4, among the files of the job whose splat it shows."""
        job = progress.claim.job
        source = job.source or ""
        progress.begin(1, Stage.TURNTABLE)
        shown = self._job_store.find_file(source, (formats.main_asset(),))
        if not shown:
            raise BadFile(f"job {source} has no splat any more: its time is over (assets.keep_days, assets.max_gb)")
        splat = decode_splat(self._assets.read(shown.path), self.config.limits.max_gaussians, shown.name)
        if costly := pipeline.overdrawn(splat, self.config):  # it may be one that a caller brought to be repaired
            raise BadFile(f"job {source}: its splat is {costly}")
        path = shown.path.rpartition("/")[0]
        with self._assets.folder(path) as folder:
            told = progress.on_fraction(Stage.TURNTABLE)
            write_turntable(folder / "turntable.mp4", splat, self.config, size=job.size, on_progress=told)
            files = stored(folder, path, ("turntable.mp4",))
        self._job_store.attach(source, files)
        return JobResult("DONE", attempt=1, gaussians=len(splat))

    def _given_splat(self, job: Job) -> Splat:
        file = self._job_store.find_file(job.id, formats.input_names())
        if not file:
            raise BadFile(f"job {job.id} came without a splat")
        return self._decoder.splat(self._assets.read(file.path), "the given splat")

    def _build(self, progress: Progress, attempt: int, drawn: DrawResult) -> pipeline.Attempt:
        job, picture = progress.claim.job, self._picture(drawn)
        request = GenerationRequest(job.prompt, picture if drawn.model == GIVEN else None)
        seed, told = job.seed + attempt - 1, progress.on_stage(attempt)
        return pipeline.build(request, picture, seed, attempt, self.stages, self.config, told)

    def _picture(self, drawn: DrawResult) -> Picture | None:
        if not drawn.picture:
            return None
        data = self._assets.read(drawn.picture.path)
        if drawn.model == GIVEN:
            return self._decoder.picture(data, FORMATS)
        return Picture(read_picture(data, self.config.limits).image, drawn.seed, drawn.model)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as stream:
        stream.write(json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")

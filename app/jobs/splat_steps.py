"""The steps of jobs on an existing splat: validate, repair, turntable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app import outputs, pipeline
from app.errors import BadFile
from app.gate import Verdict
from app.jobs.assets import stored
from app.jobs.job_store import JobResult
from app.jobs.progress import Progress
from app.jobs.steps import Steps
from app.pipeline import OnStage
from app.splat import formats
from app.splat.diagnosis import diagnose
from app.splat.files import decode_splat, write_splat
from app.splat.model import Splat
from app.splat.raster import Views
from app.stage import Stage
from app.stages.measurement import Subject
from app.turntable import write_turntable
from app.validation import Measurements, per_view_scores, to_report, validate
from app.writing import replacing

VIDEO, VIDEO_FOLDER = "turntable.mp4", "film-"
"""The file name of a turntable, and the prefix of its folder, which is beside the attempts of the source job."""


def validate_splat(steps: Steps, progress: Progress) -> JobResult:
    """Validates a caller's splat as it is, against the prompt; writes verdict.json and, if rendered, views.png."""
    job, on_stage = progress.claim.job, progress.on_stage(1)
    on_stage(Stage.REPAIR)
    splat = steps.given_splat(job)
    findings = diagnose(splat, steps.config.diagnose).to_dict()["findings"]
    views, measured, verdict = _judge(splat, job.prompt, steps, on_stage)
    report = {
        "prompt": job.prompt,
        "profile": steps.config.profile.name,
        "stand_in": bool(steps.config.profile.generator.stand_in),
        "gaussians": len(splat),
        **to_report(measured, verdict),
        "views": [view.name for view in steps.config.render.views],
        "findings": findings,
    }
    path = progress.claim.folder(1)
    with steps.assets.folder(path) as folder:
        if views:
            outputs.write_picture(folder / "views.png", views)
        _write_json(folder / "verdict.json", report)
        files = stored(folder, path, ("views.png", "verdict.json") if views else ("verdict.json",))
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


def _judge(splat: Splat, prompt: str, steps: Steps, on_stage: OnStage) -> tuple[Views | None, Measurements, Verdict]:
    """The rendered views, the measurements and the verdict. A splat that is too costly is not rendered."""
    on_stage(Stage.RENDER)
    if costly := pipeline.overdrawn(splat, steps.config):
        return None, {}, Verdict("refused", (costly,))
    views = pipeline.render_views(splat, steps.config)
    on_stage(Stage.SCORE)
    return views, *validate(Subject(splat, views, prompt), steps.stages.validator, steps.config)


def repair_splat(steps: Steps, progress: Progress) -> JobResult:
    """Repairs a caller's splat; writes it in the main format, and report.json."""
    job = progress.claim.job
    progress.on_stage(1)(Stage.REPAIR)
    splat = steps.given_splat(job)
    repaired, diagnosis, repairs = pipeline.diagnose_and_repair(splat, steps.config)
    left = () if diagnosis.healthy else diagnose(repaired, steps.config.diagnose).findings
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
    path = progress.claim.folder(1)
    with steps.assets.folder(path) as folder:
        write_splat(folder / asset, repaired)
        _write_json(folder / "report.json", report)
        files = stored(folder, path, (asset, "report.json"))
    return JobResult(
        "DONE",
        attempt=1,
        gaussians=len(repaired),
        findings=tuple(finding.kind for finding in diagnosis.findings),
        repairs=fields,
        files=files,
    )


def make_turntable(steps: Steps, progress: Progress) -> JobResult:
    """Writes turntable.mp4 and adds it to the files of the source job."""
    job = progress.claim.job
    source = job.source or ""
    progress.begin(1, Stage.TURNTABLE)
    shown = steps.job_store.find_file(source, (formats.main_asset(),))
    if not shown:
        raise BadFile(f"job {source} no longer has a splat: it was removed (assets.keep_days, assets.max_gb)")
    splat = decode_splat(steps.assets.read(shown.path), steps.config.limits.max_gaussians, shown.name)
    if costly := pipeline.overdrawn(splat, steps.config):  # it may be a caller's repaired splat
        raise BadFile(f"job {source}: its splat is {costly}")
    before = steps.job_store.find_file(source, (VIDEO,))
    path = f"{source}/{VIDEO_FOLDER}{job.id}.{progress.claim.start}"
    with steps.assets.folder(path) as folder:
        report = progress.on_fraction(Stage.TURNTABLE)
        write_turntable(folder / VIDEO, splat, steps.config, size=job.size, on_progress=report)
        files = stored(folder, path, (VIDEO,))
    steps.job_store.attach(source, files)
    if before and before.path.split("/")[1].startswith(VIDEO_FOLDER):
        steps.assets.remove(before.path.rpartition("/")[0])
    return JobResult("DONE", attempt=1, gaussians=len(splat))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as stream:
        stream.write(json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")

"""/v1/validate and /v1/repair: an uploaded splat is scored or repaired by an engine while the caller waits."""

from __future__ import annotations

import json
from typing import Any, Literal

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger

from app.errors import BadInput
from app.jobs.records import Job, JobRequest
from app.prompt import check_prompt
from app.web.context import current_config, current_jobs
from app.web.form import text_fields
from app.web.limits import acquire_upload_slot, release_upload_slot
from app.web.models import JobView, Judgement, json_answer
from app.web.problems import described
from app.web.request_validation import validate_splat
from app.web.waiting import raise_unless_done, wait_for_job

splats = APIBlueprint("splats", __name__, url_prefix="/v1", abp_tags=[Tag(name="splats")], abp_responses=described())

SPLAT = {"type": "string", "format": "binary", "description": "A PLY or SPZ file."}
PROMPT = {"type": "string", "minLength": 1, "description": "What the splat should show."}


def _form(**fields: dict[str, Any]) -> dict[str, Any]:
    """A multipart form with required fields. Not a model, because flask_openapi3 parses each form field as JSON
    first: a prompt of "2001" would become a number."""
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@splats.post("/validate", responses={200: Judgement}, openapi_extensions=_form(splat=SPLAT, prompt=PROMPT))
def validate() -> Response:
    """Score a splat against a prompt and apply the gate. Waits for the verdict."""
    prompt = text_fields().get("prompt", "")
    check_prompt(prompt, current_config().limits)
    job = _done("validate", prompt)
    return json_answer(Judgement(job=JobView.of(job), verdict=_read(job, "verdict.json")))


@splats.post("/repair", responses={200: Judgement}, openapi_extensions=_form(splat=SPLAT))
def repair() -> Response:
    """Repair a splat. Waits for the report; the repaired splat is the file asset.ply of the job."""
    job = _done("repair", "")
    return json_answer(Judgement(job=JobView.of(job), report=_read(job, "report.json")))


def _done(kind: Literal["validate", "repair"], prompt: str) -> Job:
    job = current_jobs().submit(JobRequest(kind=kind, prompt=prompt, splat=_splat()))
    logger.bind(job=job.id).info(f"{kind} submitted")
    release_upload_slot()
    return raise_unless_done(wait_for_job(job.id))


def _splat() -> bytes:
    """The validated bytes of the field `splat`. Raises BadInput, BadFile, TooBusy."""
    file = request.files.get("splat")
    if file is None:
        raise BadInput("no file in the field splat: send a multipart form, e.g. curl -F splat=@asset.ply")
    acquire_upload_slot(current_config().limits)
    with file.stream:  # closed, its temporary file does not outlast the wait
        data = file.read()
    validate_splat(data, current_config())
    return data


def _read(job: Job, name: str) -> dict[str, Any]:
    with current_jobs().open_asset(job.id, name).stream as stream:
        found: dict[str, Any] = json.load(stream)
    return found

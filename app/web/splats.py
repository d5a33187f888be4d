"""/v1/validate and /v1/repair: a splat that the caller brings, judged or mended by an engine while the caller waits."""

from __future__ import annotations

import json
from typing import Any, Literal

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger

from app.errors import BadInput
from app.jobs.records import Job, JobRequest
from app.prompt import check_prompt
from app.web.context import the_config, the_jobs, wait_for
from app.web.endings import raise_unless_done
from app.web.intake import check_splat
from app.web.limits import done_uploading
from app.web.models import JobView, Judgement, json_answer
from app.web.problems import described

splats = APIBlueprint("splats", __name__, url_prefix="/v1", abp_tags=[Tag(name="splats")], abp_responses=described())

SPLAT = {"type": "string", "format": "binary", "description": "A PLY or SPZ file."}
PROMPT = {"type": "string", "minLength": 1, "description": "What it should show."}


def _form(**fields: dict[str, Any]) -> dict[str, Any]:
    """A multipart form, all of whose fields are needed. Described here and not by a model, because the schema check of
    forms reads each field as JSON first: a prompt of "2001" would arrive as a number."""
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@splats.post("/validate", responses={200: Judgement}, openapi_extensions=_form(splat=SPLAT, prompt=PROMPT))
def validate() -> Response:
    """Score a splat against a prompt and ask the gate. Waits for the verdict."""
    prompt = request.form.get("prompt", "")
    check_prompt(prompt, the_config().limits)
    job = _done("validate", prompt)
    return json_answer(Judgement(job=JobView.of(job), verdict=_read(job, "verdict.json")))


@splats.post("/repair", responses={200: Judgement}, openapi_extensions=_form(splat=SPLAT))
def repair() -> Response:
    """Mend what is broken in a splat. Waits; the report comes at once, the splat lies under the job as asset.ply."""
    job = _done("repair", "")
    return json_answer(Judgement(job=JobView.of(job), report=_read(job, "report.json")))


def _done(kind: Literal["validate", "repair"], prompt: str) -> Job:
    job = the_jobs().submit(JobRequest(kind=kind, prompt=prompt, splat=_splat()))
    logger.bind(job=job.id).info(f"{kind} ordered")
    done_uploading()
    return raise_unless_done(wait_for(job.id))


def _splat() -> bytes:
    """The bytes of the field `splat`, which are a splat. Raises BadInput, BadFile."""
    file = request.files.get("splat")
    if file is None:
        raise BadInput("no file in the field splat: send a multipart form, e.g. curl -F splat=@asset.ply")
    data = file.read()
    check_splat(data, the_config())
    return data


def _read(job: Job, name: str) -> dict[str, Any]:
    with the_jobs().open_asset(job.id, name).stream as stream:
        found: dict[str, Any] = json.load(stream)
    return found

"""The worker protocol: a form field in, a PLY or an MP4 out, while the caller waits.

Its callers know no tokens, keys or ids. One that does send an Idempotency-Key can come back for the same result.
A refusal is 422 with the reason as JSON, or, for callers that expect it, 200 with an empty body (worker.refusal).
"""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger
from pydantic import BaseModel

from app.bounds import FILM_SIZE, SEED, Bounds
from app.errors import BadInput
from app.jobs.records import Job, JobRequest
from app.web.assets import file_answer
from app.web.context import the_config, the_jobs, wait_for
from app.web.endings import raise_unless_done
from app.web.intake import check_words, looks_like_picture, picture_from
from app.web.limits import done_uploading
from app.web.problems import described

worker = APIBlueprint("worker", __name__, abp_tags=[Tag(name="worker")], abp_responses=described())

FIELDS = {
    "prompt": {"type": "string", "minLength": 1, "description": "Words; or a PNG or JPEG in base64."},
    "seed": SEED.schema(),
}
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def _form(**more: dict[str, object]) -> dict[str, object]:
    schema = {"schema": {"type": "object", "properties": FIELDS | more, "required": ["prompt"]}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(FORMS, schema)}}


class Refusal(BaseModel):
    """The gate's answer, with every reason."""

    reason: str
    reasons: tuple[str, ...]
    score: float | None
    gaussians: int | None
    job: str


REFUSED: dict[str, object] = {
    "description": "The gate refused (JSON), or the request is wrong (problem+json).",
    "content": {
        "application/json": {"schema": Refusal.model_json_schema()},
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
    },
}


def _file(media_type: str) -> dict[str, object]:
    return {
        "description": "The file; or nothing, where the gate refused and worker.refusal is empty.",
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
    }


@worker.post(
    "/generate/",
    strict_slashes=False,
    responses={200: _file("application/octet-stream"), 422: REFUSED},
    openapi_extensions=_form(),
)
def generate() -> Response:
    """Make a splat of the prompt: the binary PLY, or a refusal."""
    job = _generated()
    if job.outcome == "refused":
        return _refusal(job)
    return _with_headers(file_answer(the_jobs().open_asset(job.id, "asset.ply"), job.id), job)


@worker.post(
    "/generate_video/",
    strict_slashes=False,
    responses={200: _file("video/mp4"), 422: REFUSED},
    openapi_extensions=_form(video_res=FILM_SIZE.schema()),
)
def generate_video() -> Response:
    """Make a splat of the prompt: a film of it from all sides as MP4, or a refusal."""
    size = _number("video_res", FILM_SIZE)
    job = _generated()
    if job.outcome == "refused":
        return _refusal(job)
    _ended(JobRequest(kind="turntable", source=job.id, size=size))
    return _with_headers(file_answer(the_jobs().open_asset(job.id, "turntable.mp4"), job.id), job)


def _generated() -> Job:
    return _ended(_order())


def _ended(order: JobRequest) -> Job:
    """The ended job. One that its callers have given up on need not be made, unless a key says that it is asked for
    again: then it has no deadline, and the next call with the key finds it. Without a key, callers that ask for the
    same (the seed makes their splats the same, too) share the job that is under way."""
    key = request.headers.get("Idempotency-Key")
    if key:
        key = f"{key} {order.kind}" if order.kind == "turntable" else key
    else:
        order = replace(order, deadline_seconds=the_config().worker.wait_seconds)
    job = the_jobs().submit(order, key=key, shared=True)
    done_uploading()
    with logger.contextualize(job=job.id):
        logger.info(f"{job.kind} for a waiting caller: {job.prompt!r}")
        job = wait_for(job.id)
        logger.info(f"{job.state} {job.outcome or ''}".strip())
    return raise_unless_done(job)


def _order() -> JobRequest:
    if "prompt" not in request.form:
        raise BadInput('no form field prompt: send a form, e.g. curl -F prompt="a blue rocket"; JSON goes to /v1/jobs')
    prompt, config = request.form["prompt"], the_config()
    if looks_like_picture(prompt):
        return JobRequest(picture=picture_from(prompt, config), seed=_number("seed", SEED))
    check_words(prompt, config)
    return JobRequest(prompt=prompt, seed=_number("seed", SEED))


def _number(name: str, bounds: Bounds) -> int | None:
    """A whole number from the form, None where it was left out. Raises BadInput."""
    text = request.form.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) not in bounds:
        raise BadInput(f"{name} = {text[:64]!r}: give {bounds}")
    return int(text)


def _refusal(job: Job) -> Response:
    reason = "; ".join(job.reasons)
    if the_config().worker.refusal == "empty":
        answer = Response(status=200, mimetype="application/octet-stream")
    else:
        refusal = Refusal(reason=reason, reasons=job.reasons, score=job.score, gaussians=job.gaussians, job=job.id)
        answer = Response(refusal.model_dump_json(), 422, mimetype="application/json")
    answer.headers["X-Validation-Failed"] = "true"
    answer.headers["X-Skip-Reason"] = _one_line(reason)
    return _with_headers(answer, job)


def _with_headers(answer: Response, job: Job) -> Response:
    """What the callers in use read."""
    took = (job.finished or 0.0) - (job.started or job.finished or 0.0)
    answer.headers["X-Generation-Time"] = f"{took:.2f}"
    answer.headers["X-Gaussian-Count"] = str(job.gaussians or 0)
    size = 0 if job.outcome == "refused" else answer.content_length or 0
    answer.headers["X-File-Size-MB"] = f"{size / 2**20:.2f}"
    if job.score is not None:
        answer.headers["X-CLIP-Score"] = f"{job.score:.4f}"
    answer.headers["X-Job-Id"] = job.id
    return answer


def _one_line(text: str) -> str:
    """What a header can hold."""
    return " ".join(text.encode("ascii", "replace").decode().split())

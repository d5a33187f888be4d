"""The worker protocol: the caller sends a form with a prompt or a picture, and waits for a PLY or an MP4.

Its callers use no tokens, keys or ids. A caller that sends an Idempotency-Key can fetch the same result again.
A refusal is 422 with the reasons as JSON, or 200 with an empty body for callers that expect that (worker.refusal).
"""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger
from pydantic import BaseModel

from app.bounds import SEED, VIDEO_SIZE, Bounds
from app.encoded_picture import find
from app.errors import BadInput
from app.jobs.records import Job, JobRequest
from app.prompt import is_blank
from app.splat.formats import main_asset
from app.web.assets import file_answer
from app.web.context import current_config, current_jobs
from app.web.form import EXAMPLES, PICTURE_FIELDS, sent_picture, text_fields
from app.web.limits import release_upload_slot
from app.web.problems import described
from app.web.request_validation import validate_prompt
from app.web.waiting import raise_unless_done, wait_for_job

worker = APIBlueprint("worker", __name__, abp_tags=[Tag(name="worker")], abp_responses=described())

FIELDS = {
    "prompt": {"type": "string", "minLength": 1, "description": "A prompt, or a PNG or JPEG in base64."},
    "seed": SEED.schema(),
}
PICTURE = {
    "type": "string",
    "format": "binary",
    "description": "A PNG or JPEG to generate the splat from, in place of the prompt or beside it.",
}


def _form(**more: dict[str, object]) -> dict[str, object]:
    fields, files = FIELDS | more, dict.fromkeys(PICTURE_FIELDS, PICTURE)
    one_of_them = [{"required": [name]} for name in ("prompt", *files)]
    words = {"type": "object", "properties": fields, "required": ["prompt"]}
    pictures = {"type": "object", "properties": fields | files, "anyOf": one_of_them}
    forms = {"application/x-www-form-urlencoded": words, "multipart/form-data": pictures}
    content = {media: {"schema": schema} for media, schema in forms.items()}
    return {"requestBody": {"required": True, "content": content}}


class Refusal(BaseModel):
    """Why the gate refused."""

    reason: str
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...]
    score: float | None
    gaussians: int | None
    job: str


REFUSED: dict[str, object] = {
    "description": "The gate refused (JSON), or the request is invalid (problem+json).",
    "content": {
        "application/json": {"schema": Refusal.model_json_schema()},
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
    },
}


def _file(media_type: str) -> dict[str, object]:
    return {
        "description": 'The file, or an empty body if the gate refused and worker.refusal is "empty".',
        "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
    }


@worker.post(
    "/generate/",
    strict_slashes=False,
    responses={200: _file("application/octet-stream"), 422: REFUSED},
    openapi_extensions=_form(),
)
def generate() -> Response:
    """Generate a splat. Answers with the binary PLY, or a refusal."""
    job = _generated()
    if job.outcome == "refused":
        return _refusal(job)
    return _with_headers(file_answer(current_jobs().open_asset(job.id, main_asset()), job), job)


@worker.post(
    "/generate_video/",
    strict_slashes=False,
    responses={200: _file("video/mp4"), 422: REFUSED},
    openapi_extensions=_form(video_res=VIDEO_SIZE.schema()),
)
def generate_video() -> Response:
    """Generate a splat and a turntable of it. Answers with an MP4, or a refusal."""
    size = _number("video_res", VIDEO_SIZE)
    job = _generated()
    if job.outcome == "refused":
        return _refusal(job)
    _run(JobRequest(kind="turntable", source=job.id, size=size))
    return _with_headers(file_answer(current_jobs().open_asset(job.id, "turntable.mp4"), job), job)


def _generated() -> Job:
    return _run(_job_request())


def _run(job_request: JobRequest) -> Job:
    """The ended job. Without an Idempotency-Key the job expires once its caller has stopped waiting, and callers with
    the same prompt and seed share the job in progress. With a key it does not expire: a later call with the same
    key finds it."""
    key = request.headers.get("Idempotency-Key")
    if key:
        key = f"{key} {job_request.kind}" if job_request.kind == "turntable" else key
    else:
        job_request = replace(job_request, deadline_seconds=current_config().worker.wait_seconds)
    job = current_jobs().submit(job_request, key=key, shared=True)
    release_upload_slot()
    with logger.contextualize(job=job.id):
        logger.info(f"{job.kind} requested, the caller waits: {job.prompt!r}")
        job = wait_for_job(job.id)
        logger.info(f"{job.state} {job.outcome or ''}".strip())
    return raise_unless_done(job)


def _job_request() -> JobRequest:
    config = current_config()
    picture, prompt = sent_picture(config), text_fields().get("prompt")
    if picture is None and prompt is None:
        raise BadInput(f"no form field prompt or image: send a form, e.g. curl {EXAMPLES}; JSON goes to /v1/jobs")
    if picture is not None and (prompt is None or is_blank(prompt) or find(prompt)):
        prompt = ""  # the picture alone
    else:
        validate_prompt(prompt or "", config)
    return JobRequest(prompt=prompt or "", picture=picture, seed=_number("seed", SEED))


def _number(name: str, bounds: Bounds) -> int | None:
    """A whole number from the form; None if it is missing. Raises BadInput."""
    text = text_fields().get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) not in bounds:
        raise BadInput(f"{name} = {text[:64]!r}: send {bounds}")
    return int(text)


def _refusal(job: Job) -> Response:
    reason = "; ".join(job.reasons)
    if current_config().worker.refusal == "empty":
        answer = Response(status=200, mimetype="application/octet-stream")
    else:
        refusal = Refusal(
            reason=reason,
            reasons=job.reasons,
            reason_codes=job.reason_codes,
            score=job.score,
            gaussians=job.gaussians,
            job=job.id,
        )
        answer = Response(refusal.model_dump_json(), 422, mimetype="application/json")
    answer.headers["X-Validation-Failed"] = "true"
    answer.headers["X-Skip-Reason"] = _one_line(reason)
    return _with_headers(answer, job)


def _with_headers(answer: Response, job: Job) -> Response:
    """Adds the headers that known callers read."""
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
    """The text as ASCII on one line, as headers require."""
    return " ".join(text.encode("ascii", "replace").decode().split())

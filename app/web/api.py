"""/v1: jobs, their files, and statistics."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger
from werkzeug.exceptions import BadRequest

from app.errors import BadInput
from app.jobs.forecast import NOTHING
from app.jobs.records import Job, JobRequest
from app.web.assets import file_answer
from app.web.auth import describe_caller
from app.web.context import current_config, current_drain, current_jobs
from app.web.events import event_stream
from app.web.form import utf8_problem
from app.web.models import (
    ASSETS,
    AssetPath,
    EventsHeader,
    IdempotencyHeader,
    JobChange,
    JobPath,
    JobsQuery,
    JobView,
    NewJob,
    Page,
    StatsView,
    json_answer,
)
from app.web.problems import described
from app.web.request_validation import decode_picture, validate_prompt

api = APIBlueprint("api", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=described())

BINARY = {"schema": {"type": "string", "format": "binary"}}
OBJECT = {"schema": {"type": "object"}}
FILE: dict[str, Any] = {
    "description": "The file.",
    "content": {media: OBJECT if media == "application/json" else BINARY for media in sorted(set(ASSETS.values()))},
}
NO_CONTENT: dict[str, Any] = {"description": "The job has ended and the caller has seen its last version."}
TEXT = {"type": "string"}
MAX_VERSION_DIGITS = 18
STREAM: dict[str, Any] = {
    "description": "Events `job`: the job as JSON, with its version as id.",
    "content": {
        "text/event-stream": {"schema": {"type": "object", "properties": {"id": TEXT, "event": TEXT, "data": TEXT}}}
    },
}


@api.before_request
def json_only() -> None:
    """Raises 415 or 400 for a body that is not JSON; the schema check would only report missing fields."""
    if request.method == "PATCH" or (request.method == "POST" and request.endpoint == "api.submit"):
        try:
            request.get_json()
        except BadRequest as error:
            raise BadRequest(utf8_problem(request.get_data(), "JSON document") or error.description) from None


@api.post("/jobs", responses={202: JobView})
def submit(header: IdempotencyHeader, body: NewJob) -> Response:
    """Submit a job: a splat, a turntable video of a splat, or a cutout. Answers at once; the job runs later."""
    job = current_jobs().submit(_job_request(body), key=header.key)
    logger.bind(job=job.id).info(f"{job.kind} submitted: {job.prompt!r}")
    answer = _view(job, 202)
    answer.headers["Location"] = url_for("api.show", id=job.id)
    return answer


@api.get("/jobs", responses={200: Page})
def list_jobs(query: JobsQuery) -> Response:
    """List jobs: filtered, in order, a page at a time."""
    jobs = current_jobs()
    found = jobs.list_jobs(query.listing(), query.limit + 1)
    page, more = found[: query.limit], len(found) > query.limit
    forecast = jobs.forecast(page)
    views = tuple(JobView.of(job, forecast.get(job.id, NOTHING)) for job in page)
    return json_answer(Page(jobs=views, next=page[-1].id if more else None))


@api.get("/jobs/<id>", responses={200: JobView})
def show(path: JobPath) -> Response:
    """Show a job, with its position in the queue and the expected time to its end."""
    return _view(current_jobs().get(path.id))


@api.post("/jobs/<id>/cancel", responses={200: JobView})
def cancel(path: JobPath) -> Response:
    """Cancel a job: a queued one at once, a running one after its stage. A job that has ended does not change."""
    job = current_jobs().cancel(path.id)
    logger.bind(job=job.id).info(f"cancellation requested: {job.state}")
    return _view(job)


@api.post("/jobs/<id>/front", responses={200: JobView})
def move_to_front(path: JobPath) -> Response:
    """Move a waiting job to the front of the queue. The token must be allowed the priority of the first job there."""
    job = current_jobs().move_to_front(path.id)
    logger.bind(job=job.id).info(f"moved to the front for {describe_caller()}")
    return _view(job)


@api.delete("/jobs/<id>", responses={200: JobView})
def remove(path: JobPath) -> Response:
    """Cancel a queued or running job. Remove a job that has ended, with all its files."""
    jobs = current_jobs()
    if not jobs.get(path.id).ended:
        return cancel(path)
    job = jobs.remove(path.id)
    logger.bind(job=job.id).info(f"removed for {describe_caller()}")
    return json_answer(JobView.of(job))


@api.patch("/jobs/<id>", responses={200: JobView})
def change(path: JobPath, body: JobChange) -> Response:
    """Star or unstar a job."""
    return _view(current_jobs().star(path.id, body.starred))


@api.get("/jobs/<id>/events", responses={200: STREAM, 204: NO_CONTENT})
def follow(path: JobPath, header: EventsHeader) -> Response:
    """Stream every change of a job as server-sent events until the job ends."""
    last = header.last or "0"
    if not last.isdecimal() or len(last) > MAX_VERSION_DIGITS:
        raise BadInput(f"Last-Event-ID = {last[:64]!r}: send the id of an event")
    jobs = current_jobs()
    return event_stream(jobs, current_drain(), jobs.get(path.id), int(last))


@api.get(
    "/jobs/<id>/<file:name>", responses={200: FILE, 206: FILE, 304: {"description": "The caller has this version."}}
)
def fetch(path: AssetPath) -> Response:
    """Download a file of a job. Supports ranges and If-None-Match."""
    jobs = current_jobs()
    return file_answer(jobs.open_asset(path.id, path.name), jobs.get(path.id))


@api.get("/stats", responses={200: StatsView})
def stats() -> Response:
    """Show statistics of the queue, the results and the engines."""
    jobs = current_jobs()
    return json_answer(StatsView.of(jobs.stats(), jobs.engines()))


def _job_request(body: NewJob) -> JobRequest:
    """The request of a body. Raises BadInput for an invalid combination of fields."""
    config = current_config()
    picture = decode_picture(body.picture, config) if body.picture is not None else None
    if body.kind == "turntable":
        if body.source is None or body.prompt or picture:
            raise BadInput("a turntable needs a source, and takes neither prompt nor picture")
    elif body.source is not None or body.size is not None:
        raise BadInput("source and size belong to kind 'turntable'")
    elif body.kind == "cutout":
        if body.prompt or not picture:
            raise BadInput("a cutout needs a picture, and takes no prompt")
    elif body.prompt or not picture:
        validate_prompt(body.prompt, config)
    return JobRequest(picture=picture, trellis=body.trellis.given, **body.model_dump(exclude={"picture", "trellis"}))


def _view(job: Job, status: int = 200) -> Response:
    return json_answer(JobView.of(job, current_jobs().forecast([job]).get(job.id, NOTHING)), status)

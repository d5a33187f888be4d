"""/v1: jobs, what they made, and numbers."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger

from app.errors import BadInput
from app.jobs.records import Job, JobRequest
from app.web.assets import file_answer
from app.web.context import the_config, the_drain, the_jobs
from app.web.events import event_stream
from app.web.intake import check_words, picture_from
from app.web.models import (
    ASSETS,
    AssetPath,
    EventsHeader,
    IdempotencyHeader,
    JobPath,
    JobView,
    Listing,
    NewJob,
    Page,
    StatsView,
    json_answer,
)
from app.web.problems import described

api = APIBlueprint("api", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=described())

BINARY = {"schema": {"type": "string", "format": "binary"}}
OBJECT = {"schema": {"type": "object"}}
ANY_FILE: dict[str, Any] = {
    "description": "The file.",
    "content": {media: OBJECT if media == "application/json" else BINARY for media in sorted(set(ASSETS.values()))},
}
NOTHING: dict[str, Any] = {"description": "Nothing new, and nothing will come."}
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
    """Raises 415 or 400 where a body is not JSON; the schema check would only say that fields are missing."""
    if request.method == "POST":
        request.get_json()


@api.post("/jobs", responses={202: JobView})
def submit(header: IdempotencyHeader, body: NewJob) -> Response:
    """JobRequest a splat, or the turntable of one; the answer comes at once, the result later."""
    job = the_jobs().submit(_order(body), key=header.key)
    logger.bind(job=job.id).info(f"{job.kind} ordered: {job.prompt!r}")
    answer = _view(job, 202)
    answer.headers["Location"] = url_for("api.show", id=job.id)
    return answer


@api.get("/jobs", responses={200: Page})
def listing(query: Listing) -> Response:
    """The newest jobs first, a page at a time."""
    found = the_jobs().recent(query.limit + 1, query.before, query.state)
    page, more = found[: query.limit], len(found) > query.limit
    return json_answer(Page(jobs=tuple(JobView.of(job) for job in page), next=page[-1].id if more else None))


@api.get("/jobs/<id>", responses={200: JobView})
def show(path: JobPath) -> Response:
    """A job, with its place in the queue and the expected time to its end."""
    return _view(the_jobs().get(path.id))


@api.delete("/jobs/<id>", responses={200: JobView})
def cancel(path: JobPath) -> Response:
    """Cancel a job: a waiting one at once, a running one between two stages; an ended one stays as it is."""
    job = the_jobs().cancel(path.id)
    logger.bind(job=job.id).info(f"a caller asked to cancel it: {job.state}")
    return _view(job)


@api.get("/jobs/<id>/events", responses={200: STREAM, 204: NOTHING})
def follow(path: JobPath, header: EventsHeader) -> Response:
    """Every change of a job as server-sent events, until it ends."""
    last = header.last or "0"
    if not last.isdecimal() or len(last) > MAX_VERSION_DIGITS:
        raise BadInput(f"Last-Event-ID = {last[:64]!r}: give the id of an event")
    jobs = the_jobs()
    return event_stream(jobs, the_drain(), jobs.get(path.id), int(last))


@api.get("/jobs/<id>/<name>", responses={200: ANY_FILE, 206: ANY_FILE, 304: {"description": "The caller has it."}})
def fetch(path: AssetPath) -> Response:
    """A file of a job; ranges and If-None-Match are understood."""
    return file_answer(the_jobs().open_asset(path.id, path.name), path.id)


@api.get("/stats", responses={200: StatsView})
def stats() -> Response:
    """Numbers of the queue, of what came out, and of the engines."""
    jobs = the_jobs()
    return json_answer(StatsView.of(jobs.stats(), jobs.engines()))


def _order(body: NewJob) -> JobRequest:
    """Raises BadInput for what could not be made."""
    config = the_config()
    picture = picture_from(body.picture, config) if body.picture is not None else None
    if body.kind == "turntable":
        if body.source is None or body.prompt or picture:
            raise BadInput("a turntable needs a source, and takes neither prompt nor picture")
    elif body.source is not None or body.size is not None:
        raise BadInput("source and size belong to kind 'turntable'")
    elif body.prompt or not picture:
        check_words(body.prompt, config)
    return JobRequest(picture=picture, **body.model_dump(exclude={"picture"}))


def _view(job: Job, status: int = 200) -> Response:
    jobs = the_jobs()
    return json_answer(JobView.of(job, jobs.position(job.id), jobs.eta(job.id)), status)

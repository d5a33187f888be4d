"""What goes over the wire under /v1: the schema in /openapi.json and the checks of every request are these classes.

JSON bodies are strict (a number in quotes is not a number) and hold no unknown key.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.bounds import Attempts, Deadline, FilmSize, Priority, Seed
from app.errors import NotFound
from app.jobs.records import Engine, EngineState, Job, JobOutcome, Kind, State, Stats
from app.stage import Stage

ASSETS = {
    "asset.ply": "application/octet-stream",
    "asset.spz": "application/octet-stream",
    "views.png": "image/png",
    "certificate.json": "application/json",
    "picture.png": "image/png",
    "picture.jpg": "image/jpeg",
    "turntable.mp4": "video/mp4",
    "verdict.json": "application/json",
    "report.json": "application/json",
    "input.ply": "application/octet-stream",
    "input.spz": "application/octet-stream",
}
"""The files a job may have, with their media types."""


def _known_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise NotFound(f"no job {text[:64]!r}: an id is 32 hexadecimal digits")
    return text


def _known_name(text: str) -> str:
    if text not in ASSETS:
        raise NotFound(f"no file {text[:64]!r}: a job may have {', '.join(ASSETS)}")
    return text


JobId = Annotated[
    str, AfterValidator(_known_id), Field(json_schema_extra={"pattern": "^[0-9a-f]{32}$"}, description="Id of a job.")
]
AssetName = Annotated[str, AfterValidator(_known_name), Field(json_schema_extra={"enum": list(ASSETS)})]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Query(BaseModel):
    """From a URL, where every value is text."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class NewJob(Wire):
    """What is asked for. Left out: what the configuration says."""

    kind: Literal["generate", "turntable"] = "generate"
    prompt: Annotated[str, Field(description="What to make; may be empty where a picture is given.")] = ""
    picture: Annotated[str | None, Field(description="PNG or JPEG in base64, to make a splat of.")] = None
    source: Annotated[JobId | None, Field(description="kind turntable: the job whose splat is shown.")] = None
    size: FilmSize | None = None
    seed: Seed | None = None
    attempts: Attempts | None = None
    format: Literal["ply", "spz"] = "ply"
    priority: Priority = 10
    deadline_seconds: Deadline | None = None
    profile: Literal["full", "shapes"] | None = None


class JobPath(Query):
    id: JobId


class AssetPath(JobPath):
    name: AssetName


class Listing(Query):
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: Annotated[JobId | None, Field(description="`next` of the page before.")] = None
    state: State | None = None


class IdempotencyHeader(Query):
    """The same key and body: the same job. The same key and another body: 422."""

    key: Annotated[str | None, Field(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[!-~]+$")] = None


class EventsHeader(Query):
    last: Annotated[str | None, Field(alias="Last-Event-ID", description="The version seen last.")] = None


class JobView(Wire):
    """A job. Times: seconds since 1970. `eta`: seconds, null while unknown. `assets`: names under /v1/jobs/{id}/."""

    id: str
    kind: Kind
    prompt: str
    seed: int
    attempts: int
    format: Literal["ply", "spz"]
    profile: str
    priority: int
    sequence: int | None = Field(description="Among those that wait with this priority: the lowest is taken first.")
    source: str | None
    size: int | None
    state: State
    stage: Stage | Literal[""] = Field(description="What the engine is doing; empty unless the job runs.")
    fraction: float | None
    attempt: int
    created: float
    started: float | None
    finished: float | None
    deadline: float | None
    outcome: JobOutcome | None
    reasons: tuple[str, ...]
    score: float | None
    scores: tuple[float, ...]
    gaussians: int | None
    error: str
    engine: str | None
    version: int
    assets: tuple[str, ...]
    position: int | None = Field(default=None, description="1: the next to be taken; null: it does not wait.")
    eta: float | None = None

    @classmethod
    def of(cls, job: Job, position: int | None = None, eta: float | None = None) -> JobView:
        return cls(**asdict(job), position=position, eta=eta)


class Page(Wire):
    """Newest first. `next`: give it as `before` for the next page; null on the last."""

    jobs: tuple[JobView, ...]
    next: str | None


class Judgement(Wire):
    """What /v1/validate and /v1/repair answer: the ended job, and what it found."""

    job: JobView
    verdict: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


class EngineView(Wire):
    """An engine. Times: seconds since 1970; `eta`: seconds; memory: bytes, null without a GPU."""

    id: str
    host: str
    pid: int
    device: str
    state: EngineState
    why: str
    heartbeat: float
    progress: float | None
    eta: float | None
    job: str | None
    started: float
    memory_used: int | None
    memory_total: int | None

    @classmethod
    def of(cls, engine: Engine) -> EngineView:
        return cls(**asdict(engine))


class TallyView(Wire):
    what: str
    label: str
    count: int


class StatsView(Wire):
    """`oldest_queued`: seconds that the first of the waiting has waited. `medians`: seconds by kind, of the last fifty
    jobs. `tallies`: counts since the beginning."""

    queued: int
    running: int
    oldest_queued: float
    medians: dict[str, float]
    tallies: tuple[TallyView, ...]
    asset_bytes: int
    engines: tuple[EngineView, ...]

    @classmethod
    def of(cls, stats: Stats, engines: list[Engine]) -> StatsView:
        return cls(**asdict(stats), engines=tuple(EngineView.of(engine) for engine in engines))


class Readiness(Wire):
    """`ready`: at least one engine serves. `why`: what is wrong where the engines cannot be asked."""

    ready: bool
    why: str
    warnings: tuple[str, ...] = Field(default=(), description="What an operator should look at; jobs run all the same.")
    engines: tuple[EngineView, ...]


def json_answer(model: BaseModel, status: int = 200) -> Response:
    """The model as the body of an answer."""
    return Response(model.model_dump_json(), status, mimetype="application/json")

"""Requests and answers under /v1. /openapi.json and the validation of requests are made from these classes.

JSON bodies are strict: a number in quotes is not a number, and unknown keys are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from flask import Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from app.bounds import Attempts, Deadline, Priority, Seed, VideoSize
from app.errors import NotFound
from app.generators import ProfileName
from app.jobs.forecast import NOTHING, Forecast
from app.jobs.listing import Listing
from app.jobs.records import Engine, Job, JobOutcome, Kind, Order, State, Stats
from app.samplers import SamplerSettings
from app.splat import formats

ASSETS = {
    **formats.media_types(),
    "views.png": "image/png",
    "certificate.json": "application/json",
    "picture.png": "image/png",
    "picture.jpg": "image/jpeg",
    "cutout.png": "image/png",
    "turntable.mp4": "video/mp4",
    "verdict.json": "application/json",
    "report.json": "application/json",
}
"""The files a job may have, and their media types."""


def _known_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise NotFound(f"no job {text[:64]!r}: an id is 32 hexadecimal digits")
    return text


def _known_name(text: str) -> str:
    if text not in ASSETS:
        raise NotFound(f"no file {text[:64]!r}: the files of a job are {', '.join(ASSETS)}")
    return text


JobId = Annotated[
    str, AfterValidator(_known_id), Field(json_schema_extra={"pattern": "^[0-9a-f]{32}$"}, description="Id of a job.")
]
AssetName = Annotated[str, AfterValidator(_known_name), Field(json_schema_extra={"enum": list(ASSETS)})]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Query(BaseModel):
    """Values from a URL or a header, where everything is text."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class NewJob(Wire):
    """A job to submit. Fields that are left out take the configured value."""

    kind: Literal["generate", "turntable", "cutout"] = "generate"
    prompt: Annotated[str, Field(description="What to generate; may be empty if there is a picture.")] = ""
    picture: Annotated[str | None, Field(description="PNG or JPEG in base64, to generate the splat from.")] = None
    source: Annotated[JobId | None, Field(description="kind turntable: the job whose splat is shown.")] = None
    size: VideoSize | None = None
    seed: Seed | None = None
    attempts: Attempts | None = None
    priority: Priority = 10
    deadline_seconds: Deadline | None = None
    profile: ProfileName | None = None
    webhook_url: Annotated[str | None, Field(description="Gets a signed POST when the job has ended.")] = None
    trellis: Annotated[
        SamplerSettings,
        Field(description="Sampler settings, as in [trellis]. A preset replaces all configured settings."),
    ] = SamplerSettings()


class JobPath(Query):
    id: JobId


class AssetPath(JobPath):
    name: AssetName


def _without_empty(values: Any) -> Any:
    """A form sends `state=` for a field that is not filled in."""
    return [value for value in values if value] if isinstance(values, list) else values


class JobsQuery(Query):
    """A parameter that is given several times lets each of its values pass."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: Annotated[JobId | None, Field(description="`next` of the previous page.")] = None
    state: Annotated[list[State], BeforeValidator(_without_empty)] = []
    outcome: Annotated[list[JobOutcome], BeforeValidator(_without_empty)] = []
    kind: Annotated[list[Kind], BeforeValidator(_without_empty)] = []
    q: Annotated[str, Field(max_length=200, description="Part of the prompt, in any case.")] = ""
    starred: Annotated[bool, Field(description="Only starred jobs.")] = False
    order: Annotated[Order, Field(description="queue: as the waiting jobs will run.")] = "newest"

    def listing(self) -> Listing:
        return Listing(
            states=tuple(self.state),
            outcomes=tuple(self.outcome),
            kinds=tuple(self.kind),
            text=self.q.strip(),
            starred=self.starred,
            order=self.order,
            after=self.before,
        )


class ArchiveQuery(Query):
    id: Annotated[list[JobId], Field(min_length=1, max_length=100)]
    name: AssetName = formats.main_asset()


class JobChange(Wire):
    """What can be changed about a job."""

    starred: Annotated[bool, Field(description="Starred jobs are kept by retention.")]


class IdempotencyHeader(Query):
    """The same key and body: the same job. The same key and another body: 422."""

    key: Annotated[str | None, Field(alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[!-~]+$")] = None


class EventsHeader(Query):
    last: Annotated[str | None, Field(alias="Last-Event-ID", description="The last version seen.")] = None


@dataclass(frozen=True)
class JobState(Job):
    """A job as /v1 shows it. Times: seconds since 1970. `assets`: file names under /v1/jobs/{id}/. `sequence`: among
    the waiting jobs of the same priority, the lowest runs first. `position`: 1 is the next to run, null if the job does
    not wait. `eta`: seconds to its end, null if unknown."""

    position: int | None = None
    eta: float | None = None


class JobView(RootModel[JobState]):
    """A job."""

    @classmethod
    def of(cls, job: Job, forecast: Forecast = NOTHING) -> JobView:
        return cls(JobState(**vars(job), **vars(forecast)))


class Page(Wire):
    """Jobs in the requested order. `next`: send it as `before` for the next page; null on the last."""

    jobs: tuple[JobView, ...]
    next: str | None


class Judgement(Wire):
    """Answer of /v1/validate and /v1/repair: the ended job and its findings."""

    job: JobView
    verdict: dict[str, Any] | None = None
    report: dict[str, Any] | None = None


class EngineView(RootModel[Engine]):
    """An engine."""


@dataclass(frozen=True)
class FullStats(Stats):
    """What /v1/stats shows. `oldest_queued`: seconds that the first waiting job has waited. `medians`: seconds by kind,
    of the last fifty jobs. `tallies`: counts since the start."""

    engines: tuple[Engine, ...] = ()


class StatsView(RootModel[FullStats]):
    """Numbers of the queue, the results and the engines."""

    @classmethod
    def of(cls, stats: Stats, engines: list[Engine]) -> StatsView:
        return cls(FullStats(**vars(stats), engines=tuple(engines)))


class Readiness(Wire):
    """`ready`: at least one engine serves. `why`: the reason if none does."""

    ready: bool
    why: str
    restart_helps: bool = Field(description="Whether a restart of the container may help; false while it waits.")
    warnings: tuple[str, ...] = Field(default=(), description="What an operator should look at; jobs run all the same.")
    engines: tuple[EngineView, ...]


def json_answer(model: BaseModel, status: int = 200) -> Response:
    """The model as a response."""
    return Response(model.model_dump_json(), status, mimetype="application/json")

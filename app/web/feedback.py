"""/v1/feedback: imports the judges' answers and reports on them."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from flask import Response, current_app, request
from flask_openapi3 import APIBlueprint, Tag
from loguru import logger
from pydantic import BeforeValidator, Field, RootModel, TypeAdapter

from app.errors import BadInput, Forbidden
from app.feedback.lines import Found, Line, parse, read_lines, without_controls
from app.feedback.logs import MAX_LINE, compression
from app.feedback.report import Report, report
from app.feedback.report_cache import ReportCache
from app.feedback.store import FeedbackStore
from app.web.auth import current_caller
from app.web.context import all_jobs, current_config
from app.web.models import Query, Wire, json_answer
from app.web.problems import described

feedback = APIBlueprint(
    "feedback", __name__, url_prefix="/v1/feedback", abp_tags=[Tag(name="feedback")], abp_responses=described()
)

T = TypeVar("T")

MAX_ENTRIES = 10_000
CACHE = "splatgate-feedback-reports"


@feedback.before_request
def require_sight_of_all_jobs() -> None:
    """Raises Forbidden for a token that may see only its own jobs, because answers concern the jobs of all callers."""
    if not current_caller().sees_all:
        raise Forbidden("judges' answers concern the jobs of all callers: use a token with scope=all or scope=admin")


PICTURE: dict[str, Any] = {
    "description": "The report as a picture.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}

_drawing = threading.Lock()  # matplotlib's font cache is shared by all figures of a process


def _whole(value: Any) -> Any:
    """Converts 458.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class TextEntry(Wire):
    """A line of the caller's log."""

    text: Annotated[str, Field(max_length=MAX_LINE)]


class AnswerEntry(Wire):
    """An answer as fields. `score`: a number, or "failed". `time`: seconds since 1970."""

    uid: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.:@-]{1,64}$")]
    score: Annotated[float, Field(ge=0)] | Literal["failed"]
    time: Annotated[float | None, Field(ge=0, le=1e11)] = None
    prompt: Annotated[str | None, Field(max_length=MAX_LINE)] = None
    average: float | None = None
    elo: float | None = None
    reward: float | None = None
    observations: Annotated[int, Field(ge=0, lt=10**18), BeforeValidator(_whole)] | None = None


def _dated(text: str) -> str:
    """Rejects bare numbers, which pydantic would read as seconds."""
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("write it as 2026-01-31 or 2026-01-31T18:00:00+01:00")
    return text


Moment = Annotated[datetime, BeforeValidator(_dated)]


class Span(Query):
    since: Annotated[Moment | None, Field(description="Only answers since then.")] = None
    split: Annotated[Moment | None, Field(description="Compare the answers before and after this moment.")] = None


class Picture(Span):
    theme: Literal["light", "dark"] = "light"


class BrokenView(Wire):
    number: int
    reason: str


class ReceiptView(Wire):
    """`new`, `known`, `old`: answers added, already present, and older than feedback.keep_days. `unparsed`: lines that
    start like an answer but cannot be read; `examples` lists some of them by number."""

    lines: int
    new: int
    known: int
    old: int
    unparsed: int
    examples: tuple[BrokenView, ...]


class ReportView(RootModel[Report]):
    """docs/feedback.md explains every number. Times: seconds since 1970."""


ENTRIES: TypeAdapter[list[TextEntry | AnswerEntry]] = TypeAdapter(
    Annotated[list[TextEntry | AnswerEntry], Field(max_length=MAX_ENTRIES)]
)
EITHER = {"anyOf": [TextEntry.model_json_schema(), AnswerEntry.model_json_schema()]}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "text/plain": {"schema": {"type": "string", "description": "Lines of the caller's log."}},
            "application/json": {"schema": {"type": "array", "items": EITHER, "maxItems": MAX_ENTRIES}},
        },
    }
}


@feedback.post("", responses={200: ReceiptView}, openapi_extensions=BODY)
def add() -> Response:
    """Import the judges' answers, as lines of the caller's log or as fields. Answers already present are skipped.

    Dates in lines are UTC unless they name a zone.
    """
    if request.mimetype == "text/plain":
        data = request.get_data()
        if kind := compression(data[:8]):
            raise BadInput(f"the body is {kind}: unpack it first, or use splatgate feedback import")
        lines = read_lines(io.BytesIO(data))
    else:
        entries = ENTRIES.validate_python(request.get_json())
        lines = (_line(number, entry) for number, entry in enumerate(entries, 1))
    receipt = _store().add(lines)
    logger.info(f"feedback: {receipt.new:,} new answers, {receipt.known:,} known, {receipt.unparsed:,} unreadable")
    examples = tuple(BrokenView(number=each.number, reason=each.reason) for each in receipt.examples)
    return json_answer(ReceiptView(**vars(receipt) | {"examples": examples}))


@feedback.get("/report", responses={200: ReportView})
def show(query: Span) -> Response:
    """Report on the answers: acceptance by judge and by score, the effect of a threshold, and advice."""
    return json_answer(ReportView(_cached(("report", query.since, query.split), lambda: _compute(query))))


@feedback.get("/report.png", responses={200: PICTURE})
def draw(query: Picture) -> Response:
    """Draw the report."""
    return Response(_cached(("png", query.theme, query.since, query.split), lambda: _png(query)), mimetype="image/png")


def _png(query: Picture) -> bytes:
    from app.feedback.plot import plot

    found = _compute(query)
    with _drawing:
        return plot(found, query.theme)


def _store() -> FeedbackStore:
    return FeedbackStore(all_jobs().store, current_config())


def _cached(key: object, compute: Callable[[], T]) -> T:
    cache = current_app.extensions.setdefault(CACHE, ReportCache())
    found: T = cache.get(key, _store().version(), compute)
    return found


def _compute(query: Span) -> Report:
    import numpy as np

    return report(_store(), current_config(), np.random.default_rng(0), _seconds(query.since), _seconds(query.split))


def _seconds(time: datetime | None) -> float | None:
    """A time without a zone is UTC."""
    if time is None:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _line(number: int, entry: TextEntry | AnswerEntry) -> Found:
    if isinstance(entry, TextEntry):
        return parse(entry.text, UTC, datetime.now(UTC), number)
    values = entry.model_dump()
    values["score"] = None if entry.score == "failed" else entry.score
    values["prompt"] = None if entry.prompt is None else without_controls(entry.prompt)
    return (Line(**values),)

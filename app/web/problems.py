"""Every error as RFC 9457 problem+json: what went wrong and what to do, never a traceback."""

from __future__ import annotations

import secrets
from errno import EROFS
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, request
from loguru import logger
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException

from app.errors import FULL, BadInput, QueueFull, SplatgateError, TooBusy, TooManyFailures, Unauthorized, Unavailable
from app.web.pages import missing_page

MEDIA_TYPE = "application/problem+json"
BUSY_RETRY_SECONDS = 5


class Problem(BaseModel):
    """RFC 9457 with two additional members: `retryable`, and `id`, which the log repeats for an error of the server."""

    type: str = Field(description="The section of /docs that describes this error.")
    title: str
    status: int
    detail: str = Field(description="The value at fault and the remedy.")
    instance: str = Field(description="The path of the request.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    id: str | None = Field(default=None, description="The log of the server contains the error with this id.")


SCHEMA = {"schema": {"$ref": "#/components/schemas/Problem"}}


def described() -> dict[str | int | HTTPStatus, Any]:
    """For the schema: the error answers of every endpoint. A new dict each time, because flask_openapi3 modifies it."""
    return {code: {"description": "An error.", "content": {MEDIA_TYPE: SCHEMA}} for code in ("422", "default")}


def answer_errors(app: Flask) -> None:
    """Registers a handler for each kind of exception that can reach Flask."""
    app.register_error_handler(SplatgateError, _splatgate_error)
    app.register_error_handler(ValidationError, _validation_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(OSError, _os_error)
    app.register_error_handler(RecursionError, _too_deep)
    app.register_error_handler(Exception, _unexpected)


def problem(status: int, kind: str, detail: str, *, retryable: bool = False, error_id: str | None = None) -> Response:
    """The response. kind: the name of the error in /docs."""
    body = Problem(
        type=f"/docs#{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.path,
        retryable=retryable,
        id=error_id,
    )
    return Response(body.model_dump_json(exclude_none=True), status, content_type=MEDIA_TYPE)


def wrong_fields(error: ValidationError) -> Response:
    """Names each field that does not match the schema."""
    found = ((".".join(map(str, each["loc"])) or "body", each["msg"]) for each in error.errors(include_url=False))
    return _splatgate_error(BadInput("; ".join(f"{place}: {message}" for place, message in found)))


def _validation_error(error: ValidationError) -> Response:
    """For a view that validates a body itself. Logged, because an invalid answer of ours would look the same."""
    logger.warning("{} {!r}: {}", request.method, request.path, error)
    return wrong_fields(error)


def _splatgate_error(error: SplatgateError) -> Response:
    if error.status >= 500 and not error.retryable:
        logged = _logged(error, trace=False)
        return problem(error.status, type(error).__name__, str(error), error_id=logged)
    answer = problem(error.status, type(error).__name__, str(error), retryable=error.retryable)
    if isinstance(error, QueueFull | TooManyFailures):
        answer.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, TooBusy):
        answer.headers["Retry-After"] = str(BUSY_RETRY_SECONDS)
    if isinstance(error, Unauthorized):
        # one header line each: Chromium reads one challenge per line and does not prompt if the first is Bearer
        answer.headers.add("WWW-Authenticate", 'Bearer realm="splatgate"')
        answer.headers.add("WWW-Authenticate", 'Basic realm="splatgate", charset="UTF-8"')
    return answer


def _http_error(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, 415, malformed requests), with their headers (Allow)."""
    if error.response is not None:
        return error.response  # type: ignore[return-value]  # ours, passed through abort() by the schema check
    status = error.code or 500
    if status == 404 and _from_browser():
        return missing_page()
    answer = problem(status, _kind(status), error.description or HTTPStatus(status).phrase)
    for name, value in error.get_headers():
        if name not in ("Content-Type", "Content-Length"):
            answer.headers[name] = value
    return answer


def _too_deep(error: RecursionError) -> Response:
    """From the JSON parser. A recursion of our own would be an internal error, and is logged as one."""
    if request.content_length and request.is_json:
        return problem(400, "BadRequest", "the JSON document is nested too deeply")
    return _unexpected(error)


def _from_browser() -> bool:
    """Whether to answer with a page, as for an address typed into a browser. Requests below /v1 come from programs."""
    accepted = request.accept_mimetypes
    return not request.path.startswith("/v1/") and accepted["text/html"] > accepted["application/json"]


def _unexpected(error: Exception) -> Response:
    return problem(500, "ServerError", "internal error: see the log of the server", error_id=_logged(error, trace=True))


def _os_error(error: OSError) -> Response:
    """A full or read-only disk is for the operator to fix; any other OSError is an internal error."""
    if error.errno in (*FULL, EROFS):
        return _splatgate_error(
            Unavailable(f"the temporary folder: {error.strerror}; free some space or mount a writable folder")
        )
    return _unexpected(error)


def _kind(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def _logged(error: Exception, *, trace: bool) -> str:
    error_id = secrets.token_hex(4)
    log = logger.opt(exception=error) if trace else logger
    log.error("{} {!r} failed, id {}: {}", request.method, request.path, error_id, error)
    return error_id

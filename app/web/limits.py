"""Limits of a request: its size, the time its body may take, how many large bodies are parsed at once.

`app.web.dispatch` receives bodies and counts requests before Flask sees them. Its refusals are raised here, after the
caller has been authenticated.
"""

from __future__ import annotations

import threading
from wsgiref.types import WSGIEnvironment

from flask import Flask, current_app, g, request
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.http import parse_options_header

from app.config import LimitsConfig
from app.errors import SplatgateError, TooBusy, TooLarge
from app.web.auth import DENIED, check

MAX_FIELDS = 16
MAX_VALUES, MAX_ESCAPES = 500_000, 1_000_000
"""Of a JSON document and of a URL-encoded form. Parsed, each takes about a hundred times its two or three bytes."""

SMALL_BODY = 64 * 1024
"""Bytes; larger bodies are parsed limits.max_uploads at a time."""

BEGAN, REFUSAL = "splatgate.began", "splatgate.refusal"
"""Keys of the WSGI environment: when the request began (seconds, monotonic), and the error to answer it with."""

SLOTS = "splatgate.upload_slots"


def limit(app: Flask, config: LimitsConfig) -> None:
    """Installs the limits. Call it after `auth.guard`, so that an unauthorized caller learns nothing else."""
    app.config.update(
        MAX_CONTENT_LENGTH=config.max_body_mb * 2**20,
        MAX_FORM_MEMORY_SIZE=config.max_form_mb * 2**20,
        MAX_FORM_PARTS=MAX_FIELDS,
    )
    app.extensions[SLOTS] = threading.BoundedSemaphore(config.max_uploads)
    app.before_request(_raise_refusal)
    app.before_request(lambda: _check_body(config))
    app.teardown_request(lambda _error: release_upload_slot())


def wants_body(app: Flask, environ: WSGIEnvironment) -> bool:
    """Whether the route takes a body and the caller is authorized. No other body is received."""
    with app.request_context(environ):
        if not _takes_body():
            return False
        try:
            check()
        except SplatgateError as error:
            environ[DENIED] = error  # the answer of the application
            return False
        return True


def check_size(length: int, content_type: str, config: LimitsConfig) -> None:
    """Raises TooLarge for a body of this many bytes or more."""
    if length > config.max_body_mb * 2**20:
        raise TooLarge(f"the body has {length:,} bytes or more, limits.max_body_mb is {config.max_body_mb}")
    if length > config.max_form_mb * 2**20 and (_is_form(content_type) or _is_json(content_type)):
        raise TooLarge(
            f"the body has {length:,} bytes or more, limits.max_form_mb is {config.max_form_mb}: send pictures and "
            "splats as files of a multipart form (curl -F)"
        )


def _takes_body() -> bool:
    return request.method in ("POST", "PATCH") and not request.routing_exception


def _check_body(config: LimitsConfig) -> None:
    """Raises TooLarge for a body that would take too much memory to parse."""
    if not _takes_body():
        return
    length, kind = request.content_length or 0, request.content_type or ""
    check_size(length, kind, config)
    if length <= SMALL_BODY:
        return
    acquire_upload_slot(config)
    if _is_form(kind) or _is_json(kind):
        stream = request.environ["wsgi.input"]
        data = stream.read()
        stream.seek(0)
        _check_density(data, kind)


def _check_density(data: bytes, content_type: str) -> None:
    if _is_form(content_type):
        if data.count(b"&") >= MAX_FIELDS:
            raise TooLarge(f"the form has over {MAX_FIELDS} fields")
        if data.count(b"%") > MAX_ESCAPES:
            raise TooLarge(f"the form has over {MAX_ESCAPES:,} bytes written as %XX: send a multipart form (curl -F)")
    elif sum(map(data.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise TooLarge(f"the JSON document has over {MAX_VALUES:,} values")


def _is_form(content_type: str) -> bool:
    return parse_options_header(content_type)[0].lower() == "application/x-www-form-urlencoded"


def _is_json(content_type: str) -> bool:
    return parse_options_header(content_type)[0].lower().endswith("json")


def acquire_upload_slot(config: LimitsConfig) -> None:
    """Takes one of limits.max_uploads slots unless the request has one: before a body is parsed or a file is decoded,
    which may take many times its size. Raises TooBusy."""
    if "upload_slot" in g:
        return
    slots = current_app.extensions[SLOTS]
    if not slots.acquire(timeout=config.body_seconds):
        raise TooBusy(f"{config.max_uploads} uploads are being read (limits.max_uploads): try again soon")
    g.upload_slot = slots


def release_upload_slot() -> None:
    """Releases the upload slot, and what the body takes of memory and disk; for views that wait for a result."""
    if "form" in vars(request) and request.content_length:  # parsed from a body; the server's own stream stays open
        request.form = ImmutableMultiDict()
        request.environ["wsgi.input"].close()
    if slots := g.pop("upload_slot", None):
        slots.release()


def _raise_refusal() -> None:
    if error := request.environ.get(REFUSAL):
        raise error

"""Limits of a request: its size, the time its body may take, how many uploads are decoded at once.

`app.web.dispatch` receives bodies and counts requests before Flask sees them. Its refusals are raised here, after the
caller has been authenticated.
"""

from __future__ import annotations

import threading
from wsgiref.types import WSGIEnvironment

from flask import Flask, current_app, g, request

from app.config import LimitsConfig
from app.errors import SplatgateError, TooBusy
from app.web.auth import DENIED, check

MAX_FIELDS = 16
BEGAN, REFUSAL = "splatgate.began", "splatgate.refusal"
"""Keys of the WSGI environment: when the request began (seconds, monotonic), and the error to answer it with."""

SLOTS = "splatgate.upload_slots"


def limit(app: Flask, config: LimitsConfig) -> None:
    """Installs the limits. Call it after `auth.guard`, so that an unauthorized caller learns nothing else."""
    size = config.max_body_mb * 2**20
    app.config.update(MAX_CONTENT_LENGTH=size, MAX_FORM_MEMORY_SIZE=size, MAX_FORM_PARTS=MAX_FIELDS)
    app.extensions[SLOTS] = threading.BoundedSemaphore(config.max_uploads)
    app.before_request(_raise_refusal)
    app.teardown_request(lambda _error: release_upload_slot())


def wants_body(app: Flask, environ: WSGIEnvironment) -> bool:
    """Whether the route takes a body and the caller is authorized. No other body is received."""
    with app.request_context(environ):
        if request.method not in ("POST", "PATCH") or request.routing_exception:
            return False
        try:
            check()
        except SplatgateError as error:
            environ[DENIED] = error  # the answer of the application
            return False
        return True


def acquire_upload_slot(config: LimitsConfig) -> None:
    """Takes one of limits.max_uploads slots unless the request has one: before decompression, because a small file may
    expand to gigabytes. Raises TooBusy."""
    if "upload_slot" in g:
        return
    slots = current_app.extensions[SLOTS]
    if not slots.acquire(timeout=config.body_seconds):
        raise TooBusy(f"{config.max_uploads} uploads are being read (limits.max_uploads): try again soon")
    g.upload_slot = slots


def release_upload_slot() -> None:
    """Releases the upload slot early; for views that go on to wait for a result."""
    if slots := g.pop("upload_slot", None):
        slots.release()


def _raise_refusal() -> None:
    if error := request.environ.get(REFUSAL):
        raise error

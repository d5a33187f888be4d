"""One log line for each answered request."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from loguru import logger

from app.web.auth import describe_caller
from app.web.limits import BEGAN

QUIET = ("/livez", "/readyz", "/metrics")
"""Polled by machines every few seconds, so logged at DEBUG."""


def log_requests(app: Flask) -> None:
    app.before_request(_start_clock)
    app.after_request(_log)


def _start_clock() -> None:
    g.began = request.environ.get(BEGAN) or time.monotonic()


def _log(answer: Response) -> Response:
    took = 1_000 * (time.monotonic() - g.began)
    level = "DEBUG" if request.path in QUIET else "INFO"
    caller = describe_caller()
    logger.log(level, "{} {!r} {} in {:.0f} ms for {}", request.method, request.path, answer.status_code, took, caller)
    return answer

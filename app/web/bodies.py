"""Bodies of requests: received into temporary files under limits of size and time, or discarded."""

from __future__ import annotations

import tempfile
from typing import IO, Any
from wsgiref.types import WSGIEnvironment

import gevent
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest

from app.config import LimitsConfig
from app.errors import SplatgateError, TooBusy, TooSlow
from app.web.limits import REFUSAL, check_size

PIECE = 256 * 1024
"""Bytes; gunicorn copies what it has read ahead, up to a megabyte, for each piece."""

BODIES_AT_ONCE = 4
"""Bodies being received take at most this many times limits.max_body_mb on the disk of the temporary folder."""

MAX_DISCARDED, DISCARD_SECONDS = 256 * 2**20, 5.0


def has_body(environ: WSGIEnvironment) -> bool:
    """Whether a request announces a body."""
    return environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


class BodyReceiver:
    """Receives the bodies of requests into temporary files, under limits of size and time."""

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._free = BODIES_AT_ONCE * config.max_body_mb * 2**20

    def receive(self, environ: WSGIEnvironment) -> None:
        """Replaces wsgi.input by the whole body. An error goes into the environment: the application raises it once it
        knows the caller."""
        announced = int(environ.get("CONTENT_LENGTH") or 0)  # gunicorn has refused anything but a number
        kind = environ.get("CONTENT_TYPE", "")
        body = tempfile.SpooledTemporaryFile(max_size=PIECE)  # noqa: SIM115  the request closes it
        try:
            self._check(announced, kind)
            with gevent.Timeout(self._config.body_seconds, self._too_slow()):
                length = self._copy(environ["wsgi.input"], body, kind)
            _check_whole(length, announced)
        except (SplatgateError, BadRequest, OSError) as error:
            body.close()
            environ[REFUSAL] = error
            return
        body.seek(0)
        environ["wsgi.input"] = body
        environ["CONTENT_LENGTH"] = str(length)
        environ.pop("HTTP_TRANSFER_ENCODING", None)

    def _copy(self, stream: Any, body: IO[bytes], kind: str) -> int:
        length = 0
        try:
            while piece := _read(stream):
                gevent.sleep(0)  # a fast sender would not let other greenlets run
                length += len(piece)
                self._free -= len(piece)
                self._check(length, kind)
                body.write(piece)
        finally:
            self._free += length
        return length

    def _check(self, length: int, kind: str) -> None:
        check_size(length, kind, self._config)
        if self._free < 0:
            raise TooBusy("too many large bodies are being received: try again soon")

    def _too_slow(self) -> TooSlow:
        return TooSlow(f"the body did not arrive within {self._config.body_seconds:g} s (limits.body_seconds)")


def discard(stream: Any) -> None:
    """Reads the rest of a request's body after the response, so that the client reads the response, and the connection
    can be reused. If the rest is long or slow, the connection is closed. stream: gunicorn's."""
    left = MAX_DISCARDED
    try:
        with gevent.Timeout(DISCARD_SECONDS, TimeoutError()):
            while (piece := _read(stream)) and left > 0:
                gevent.sleep(0)
                left -= len(piece)
        stream.failed = left <= 0
    except (BadRequest, OSError):
        stream.failed = True


def _check_whole(length: int, announced: int) -> None:
    if length < announced:
        raise BadRequest(f"the body ended after {length:,} of {announced:,} bytes")


def _read(stream: Any) -> bytes:
    try:
        piece: bytes = stream.read(PIECE)
    except ParseException as error:
        raise BadRequest(f"the body is not what its headers announce: {error}") from None
    return piece

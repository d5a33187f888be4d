"""Greenlets hold the connections, threads run the views.

The server calls the dispatcher in a greenlet for each request. A greenlet costs a few kilobytes, so bodies are received
and answers are sent there, however slow the client. Only the view itself takes a thread: it may use the database, the
object store and the processor without holding up the others.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any
from wsgiref.types import StartResponse, WSGIEnvironment

import gevent
from flask import Flask
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest
from werkzeug.wsgi import ClosingIterator

from app.config import LimitsConfig
from app.errors import DatabaseDown, SplatgateError, TooBusy, TooSlow
from app.web.events import EventStream
from app.web.limits import BEGAN, REFUSAL, check_size, wants_body

STALL_SECONDS = 60.0
"""A client that takes no byte of its answer for this long is dropped."""

HEALTH_SECONDS = 2.0
"""/readyz and /metrics answer within this time, with 503 where the database does not answer."""

HEALTH = ("/readyz", "/metrics")
HEALTH_THREADS = 8
SPARE_THREADS = 16
"""Beyond limits.max_requests: they read the files that are sent, and look up the jobs that event streams report."""

MAX_STREAMS = 1_000
POLL_SECONDS = 0.05
"""How often an event stream looks whether its job has changed; the look is in memory."""

PIECE = 64 * 1024
BODIES_AT_ONCE = 4
"""Bodies being received take at most this many times limits.max_body_mb on the disk of the temporary folder."""

WSGI = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
Answer = tuple[Iterable[bytes], str, list[tuple[str, str]]]


class Dispatcher:
    """The WSGI application that the server calls. It has to be made in the process that serves."""

    def __init__(self, app: Flask, config: LimitsConfig) -> None:
        self.app = app
        self._config = config
        self._places = BoundedSemaphore(config.max_requests)
        self._streams = BoundedSemaphore(MAX_STREAMS)
        self._threads = ThreadPool(config.max_requests + SPARE_THREADS)
        self._health_threads = ThreadPool(HEALTH_THREADS)
        self._bodies = BodyReceiver(config)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["gunicorn.socket"].settimeout(STALL_SECONDS)
        environ[BEGAN] = time.monotonic()
        if environ["PATH_INFO"] == "/livez":
            return self.app(environ, start_response)  # here, so that it needs no thread; it uses no database
        if environ["PATH_INFO"] in HEALTH:
            return self._answer_health(environ, start_response)
        if _has_body(environ) and wants_body(self.app, environ):
            self._bodies.receive(environ)
        if not self._places.acquire(blocking=False):
            most = self._config.max_requests
            environ[REFUSAL] = TooBusy(f"{most} requests are being answered (limits.max_requests): try again soon")
            return self.app(environ, start_response)
        try:
            answer = self._threads.apply(_call, (self.app, environ))
        finally:
            self._places.release()
        return self._started(answer, start_response)

    def _answer_health(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        late = DatabaseDown(f"the database has not answered within {HEALTH_SECONDS:g} s; check that it runs")
        try:
            with gevent.Timeout(HEALTH_SECONDS, late):
                answer = self._health_threads.apply(_call, (self.app, environ))
        except DatabaseDown as error:
            environ[REFUSAL] = error
            return self.app(environ, start_response)
        return self._started(answer, start_response)

    def _started(self, answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
        body, status, headers = answer
        if isinstance(body, EventStream):
            if not self._streams.acquire(blocking=False):
                body.close()
                start_response("503 Service Unavailable", [("Retry-After", "5"), ("Content-Length", "0")])
                return []
            start_response(status, headers)
            return ClosingIterator(self._events(body), [body.close, self._streams.release])
        start_response(status, headers)
        if isinstance(body, list):
            return body
        return ClosingIterator(self._pieces(body), getattr(body, "close", None))

    def _pieces(self, body: Iterable[bytes]) -> Iterator[bytes]:
        pieces = iter(body)
        while (piece := self._threads.apply(next, (pieces, None))) is not None:
            yield piece

    def _events(self, stream: EventStream) -> Iterator[bytes]:
        while True:
            while stream.idle:
                gevent.sleep(POLL_SECONDS)
            event = self._threads.apply(next, (stream, None))
            if event is None:
                return
            yield event


class BodyReceiver:
    """Receives the bodies of requests into temporary files, under limits of size and time."""

    def __init__(self, config: LimitsConfig) -> None:
        self._config = config
        self._free = BODIES_AT_ONCE * config.max_body_mb * 2**20

    def receive(self, environ: WSGIEnvironment) -> None:
        """Replaces wsgi.input by the whole body. What is wrong with it is left in the environment: the application
        raises it once it knows who asks."""
        announced = int(environ.get("CONTENT_LENGTH") or 0)  # gunicorn has refused what is no number
        kind = environ.get("CONTENT_TYPE", "")
        body = tempfile.SpooledTemporaryFile(max_size=4 * PIECE)  # noqa: SIM115  the request closes it
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


def _check_whole(length: int, announced: int) -> None:
    if length < announced:
        raise BadRequest(f"the body ended after {length:,} of {announced:,} bytes")


def _read(stream: Any) -> bytes:
    try:
        piece: bytes = stream.read(PIECE)
    except ParseException as error:
        raise BadRequest(f"the body is not what its headers announce: {error}") from None
    return piece


def _has_body(environ: WSGIEnvironment) -> bool:
    return environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


def _call(app: WSGI, environ: WSGIEnvironment) -> Answer:
    """Runs the application in a thread. A short answer is read whole, so that the thread is needed once."""
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_error: Any) -> Any:
        started[:] = [status, headers]

    body = app(environ, start_response)
    status, headers = started
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), None)
    if isinstance(body, EventStream) or length is None or length > PIECE:
        return body, status, headers
    try:
        return list(body), status, headers
    finally:
        if close := getattr(body, "close", None):
            close()

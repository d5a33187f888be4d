"""Greenlets hold the connections, threads run the views.

The server calls the dispatcher in a greenlet for each request. A greenlet costs a few kilobytes, so bodies are received
and answers are sent there, however slow the client. Only the view itself takes a thread: it may use the database, the
object store and the processor without holding up the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import gevent
from flask import Flask
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from werkzeug.wsgi import ClosingIterator

from app.config import LimitsConfig
from app.errors import DatabaseDown, TooBusy
from app.web.bodies import BodyReceiver, discard, has_body
from app.web.events import EventStream
from app.web.limits import BEGAN, REFUSAL, wants_body

STALL_SECONDS = 60.0
"""A client that takes no byte of its answer for this long is dropped."""

HEALTH_SECONDS = 2.0
"""/readyz and /metrics answer within this time, with 503 if the database does not answer."""

HEALTH = ("/readyz", "/metrics")
HEALTH_THREADS = 8
SPARE_THREADS = 16
"""Beyond limits.max_requests: they read the files that are sent, and look up the jobs that event streams report."""

MAX_STREAMS = 1_000
POLL_SECONDS = 0.05
"""How often an event stream checks whether its job has changed; the check is in memory."""

PIECE = 64 * 1024
"""Bytes; shorter answers are read whole in the thread of the view."""
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
        if not has_body(environ):
            return self._answer(environ, start_response)
        body = environ["wsgi.input"]
        return ClosingIterator(self._answer(environ, start_response), [lambda: discard(body)])

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/livez":
            return self.app(environ, start_response)  # here, so that it needs no thread; it uses no database
        if environ["PATH_INFO"] in HEALTH:
            return self._answer_health(environ, start_response)
        if has_body(environ) and wants_body(self.app, environ):
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

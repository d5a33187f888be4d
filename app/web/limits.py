"""Limits of a request: its size, the time its body may take, how many run at once.

A body is read before its view runs, under a time limit; a large body waits for an upload slot first.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, current_app, g, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import ClosingIterator

from app.config import LimitsConfig
from app.errors import TooBusy, TooLarge, TooSlow

UNCOUNTED = ("/livez", "/readyz", "/metrics")
"""Always answered: the server keeps SPARE threads for these and for refusals."""

SPARE = 16
LARGE = 2**20
"""Bytes; a larger body, and everything that is decompressed, takes one of limits.max_uploads slots."""

MAX_FIELDS = 16
BUSY = "splatgate.busy"
SLOTS = "splatgate.upload_slots"

WSGI = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def limit(app: Flask, config: LimitsConfig) -> None:
    """Installs the limits. Call it after `auth.guard`, so that no body is read for an unauthorized caller."""
    size = config.max_body_mb * 2**20
    app.config.update(MAX_CONTENT_LENGTH=size, MAX_FORM_MEMORY_SIZE=size, MAX_FORM_PARTS=MAX_FIELDS)
    app.extensions[SLOTS] = threading.BoundedSemaphore(config.max_uploads)
    app.wsgi_app = _counted(app.wsgi_app, config.max_requests)  # type: ignore[method-assign, assignment]
    app.before_request(lambda: _refuse_when_busy(config))
    app.before_request(lambda: _read_body(config))
    app.teardown_request(lambda _error: release_upload_slot())


def acquire_upload_slot(config: LimitsConfig) -> None:
    """Takes one of limits.max_uploads slots unless the request has one: for large bodies, and before decompression,
    because a small file may expand to gigabytes. Raises TooBusy."""
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


class Hurry:
    """A block that may take so long: then nothing more is read from the connection, which ends the waiting for it.

    A timeout of the socket would not do: it begins anew with every byte. Without a connection nothing is stopped.
    """

    def __init__(self, connection: socket.socket | None, seconds: float) -> None:
        self.too_slow = False
        self._connection = connection
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._connection:
            self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """What comes now may take as long as it likes."""
        self._timer.cancel()

    def _stop(self) -> None:
        self.too_slow = True
        with suppress(OSError):  # it has gone
            assert self._connection
            self._connection.shutdown(socket.SHUT_RD)


def _counted(inner: WSGI, most: int) -> WSGI:
    """Marks a request that arrives while `most` are being answered. A request counts until its last byte is sent."""
    places = threading.BoundedSemaphore(most)

    def outer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] in UNCOUNTED:
            return inner(environ, start)
        if not places.acquire(blocking=False):
            return inner(environ | {BUSY: True}, start)
        try:
            return ClosingIterator(inner(environ, start), places.release)
        except BaseException:
            places.release()
            raise

    return outer


def _refuse_when_busy(config: LimitsConfig) -> None:
    if request.environ.get(BUSY):
        raise TooBusy(f"{config.max_requests} requests are being answered (limits.max_requests): try again soon")


def _read_body(config: LimitsConfig) -> None:
    """Reads the body into request.form, request.files or request.data, for routes that take one: no thread waits for a
    body sent to /livez, which needs no token. Raises TooLarge, TooSlow, TooBusy."""
    if request.method != "POST" or request.routing_exception:
        return
    length = request.content_length
    if not length and "Transfer-Encoding" not in request.headers:
        return
    if (length or 0) > config.max_body_mb * 2**20:
        raise TooLarge(f"the body has {length:,} bytes, limits.max_body_mb is {config.max_body_mb}")
    if length is None or length > LARGE:
        acquire_upload_slot(config)
    if length is not None:
        request.environ.pop("wsgi.input_terminated", None)  # with it, a truncated body would be accepted
    with Hurry(request.environ.get("gunicorn.socket"), config.body_seconds) as hurry:
        try:
            request.get_data(parse_form_data=True)
            if length is None:
                request.stream.read(1)  # raises 413 if there is more; get_data alone would truncate
        except ClientDisconnected:
            if not hurry.too_slow:
                raise
        if hurry.too_slow:
            raise TooSlow(f"the body did not arrive within {config.body_seconds:g} s (limits.body_seconds)")

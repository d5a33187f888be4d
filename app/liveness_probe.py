"""Requests /livez from the web process without blocking, so that the supervisor needs no thread for it."""

from __future__ import annotations

import socket
from contextlib import suppress

REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
INTERVAL = 2.0
"""Seconds between requests."""

CONNECT_SECONDS = 0.2
"""The kernel accepts at once, because the supervisor itself keeps the listening socket open."""


class LivenessProbe:
    """Tracks when one server last answered. address: host and port. Times are monotonic seconds."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._connection: socket.socket | None = None
        self._asked = 0.0
        self._answered: float | None = None

    def silence(self, now: float) -> float:
        """Seconds since the last answer, whatever its status, or since the first call if there was none."""
        if self._connection:
            self._receive(now)
        if not self._connection and now - self._asked >= INTERVAL:
            self._ask(now)
        if self._answered is None:
            self._answered = now
        return now - self._answered

    def reset(self) -> None:
        """Starts over, for a new process."""
        self.close()
        self._answered = None

    def close(self) -> None:
        """Abandons the request in flight, if any."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _ask(self, now: float) -> None:
        self._asked = now
        with suppress(OSError):
            self._connection = socket.create_connection(self._address, CONNECT_SECONDS)
            self._connection.sendall(REQUEST)
            self._connection.setblocking(False)

    def _receive(self, now: float) -> None:
        assert self._connection
        try:
            answer = self._connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            answer = b""
        if answer.startswith(b"HTTP/"):
            self._answered = now
        self.close()

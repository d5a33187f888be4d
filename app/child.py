"""The child's side of the supervisor: it dies with it, reports through a pipe, and exits with a code.

The child inherits the write end of the pipe. It writes READY once, when it is ready to serve, and HEARTBEAT regularly,
so that the supervisor needs no database to know whether a child works.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from contextlib import suppress

PIPE_VARIABLE = "SPLATGATE_SUPERVISOR_PIPE"
"""Environment variable: the file descriptor that the child writes to; unset without a supervisor."""

ENDED_VARIABLE = "SPLATGATE_ENDED"
"""Environment variable: why earlier instances of this child ended and were restarted, separated by commas."""

SOCKETS_VARIABLE = "SPLATGATE_SOCKETS"
"""Environment variable: the listening sockets that the web process inherits, as descriptors separated by commas."""

READY, HEARTBEAT = b"R", b"."

BROKEN_GPU, NO_DATABASE, NOT_READY, TAKEN, NO_STORAGE = 70, 71, 72, 73, 74
CODES = {
    BROKEN_GPU: "broken GPU",
    NO_DATABASE: "database down",
    NOT_READY: "not ready",
    TAKEN: "device taken",
    NO_STORAGE: "storage down",
}
"""The exit codes of app.engine, described."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent() -> None:
    """From now on the kernel kills this process when the thread that started it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """Calls prctl(2)."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def report_ready() -> None:
    """Tells the supervisor, if there is one, that this process is ready."""
    _write(READY)


def start_heartbeats(seconds: float) -> None:
    """Starts a thread that sends a heartbeat to the supervisor every `seconds`; does nothing without a supervisor."""
    if _pipe() is not None:
        threading.Thread(target=_beat, args=(seconds,), name="supervisor heartbeat", daemon=True).start()


def supervisor_alive() -> bool:
    """False once the supervisor's end of the pipe is closed, which the kernel does when the supervisor dies."""
    pipe = _pipe()
    if pipe is None:
        return True
    poll = select.poll()
    poll.register(pipe, 0)
    return not poll.poll(0)


def earlier_ends() -> tuple[str, ...]:
    """Why earlier instances of this process ended, as far as no instance has recorded it."""
    return tuple(filter(None, os.environ.get(ENDED_VARIABLE, "").split(",")))


def _beat(seconds: float) -> None:
    while True:
        _write(HEARTBEAT)
        time.sleep(seconds)


def _pipe() -> int | None:
    number = os.environ.get(PIPE_VARIABLE, "")
    return int(number) if number.isdigit() else None


def _write(message: bytes) -> None:
    pipe = _pipe()
    if pipe is not None:
        with suppress(OSError):  # the supervisor is gone or does not read
            os.write(pipe, message)


class ReadyPipe:
    """The supervisor's end of the pipe of one child. writing: the descriptor that the child inherits."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self.writing, False)
        self.ready = False
        self.last_heartbeat: float | None = None

    def read(self, now: float) -> None:
        """Takes what the child has written. now: monotonic seconds."""
        with suppress(BlockingIOError):
            while message := os.read(self._reading, 4096):
                self.ready = self.ready or READY in message
                self.last_heartbeat = now

    def close_writing(self) -> None:
        """Call this once the child has inherited the descriptor."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def close(self) -> None:
        self.close_writing()
        os.close(self._reading)

"""What ties a child to its parent: it does not outlive it, says when it is ready, and with its exit code why it ended.

The word that it is ready is one byte through a pipe that it inherited. No database is asked, so that it is known of a
child that died in the very moment, or that never had a database.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

VARIABLE = "SPLATGATE_READY_FD"
"""Environment variable: the number of the pipe's end that is written to; not there without a supervisor."""

BROKEN_GPU, NO_DATABASE, NOT_READY, TAKEN, NO_STORAGE = 70, 71, 72, 73, 74
CODES = {
    BROKEN_GPU: "broken GPU",
    NO_DATABASE: "database down",
    NOT_READY: "not ready",
    TAKEN: "device taken",
    NO_STORAGE: "storage down",
}
"""Exit codes of app.engine, in words."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent() -> None:
    """From now on the kernel kills this process when the thread that started it ends, whatever it is doing then."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """The system call of that name."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def say_ready() -> None:
    """Tells the supervisor, where there is one, that this process does now what it was started for."""
    told = os.environ.get(VARIABLE, "")
    if told.isdigit():
        with suppress(OSError):  # the supervisor is gone, or whoever started us closed what it did not know
            os.write(int(told), b"1")


class Word:
    """The supervisor's end of the pipe. Both ends are closed by `close`, the child's copy by the child's end.

    writing: the number that the child inherits.
    """

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)

    @property
    def given(self) -> bool:
        """Whether the child has ever said that it is ready. To be asked once, when it has ended."""
        try:
            return os.read(self._reading, 1) != b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        for end in (self._reading, self.writing):
            os.close(end)

"""One process that the supervisor keeps running: starts it, and tracks its ends and its heartbeats."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from app.child import CODES, ENDED_VARIABLE, PIPE_VARIABLE, ReadyPipe, die_with_parent

MAX_ENDS, WITHIN_SECONDS = 5, 60.0
"""The supervisor gives up on a child that ends this often within this time, or this often in a row without becoming
ready, however long each start takes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds before a child is restarted: doubled each time, and reset once it has been ready."""

START_SECONDS = 600.0
"""A child that has sent no heartbeat this long after its start is considered hung."""


@dataclass
class ChildProcess:
    """A child, across the restarts of its process. kind: its name in the metrics; name: in the log.

    pass_fds: descriptors it inherits. failed_starts: ends in a row without becoming ready. unreported: causes of ends
    that no instance can have recorded yet. due: when to start it next. All times are monotonic seconds.
    """

    name: str
    command: list[str]
    environ: dict[str, str]
    kind: str = "engine"
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    pipe: ReadyPipe | None = None
    started: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_ENDS))
    failed_starts: int = 0
    unreported: list[str] = field(default_factory=list)

    def start(self, now: float, blocked: Sequence[signal.Signals]) -> int:
        """Starts the process and returns its PID. blocked: signals that this process blocks and the child must not."""
        self.pipe, self.started = ReadyPipe(), now
        variables = {PIPE_VARIABLE: str(self.pipe.writing), ENDED_VARIABLE: ",".join(self.unreported)}
        self.process = subprocess.Popen(
            self.command,
            env=self.environ | variables,
            pass_fds=[self.pipe.writing, *self.pass_fds],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _prepare(blocked),
            process_group=0,
        )
        self.pipe.close_writing()
        return self.process.pid

    def silence(self, now: float) -> float:
        """Seconds without a heartbeat; before the first heartbeat, the seconds beyond START_SECONDS."""
        assert self.pipe
        self.pipe.read(now)
        if self.pipe.last_heartbeat is None:
            return max(0.0, now - self.started - START_SECONDS)
        return now - self.pipe.last_heartbeat

    @property
    def ready(self) -> bool:
        return self.pipe is not None and self.pipe.ready

    def record_end(self, code: int, now: float) -> str:
        """Records that the process ended with this exit code. Returns the cause in words."""
        assert self.process
        assert self.pipe
        self.process.returncode = code  # it was reaped by the supervisor, not by Popen
        self.kill_group()
        self.pipe.read(now)
        if self.pipe.ready:
            self.failed_starts, self.pause = 0, FIRST_PAUSE
            self.unreported.clear()
        else:
            self.failed_starts += 1
        self.pipe.close()
        self.process = self.pipe = None
        cause = cause_of_end(code)
        self.unreported.append(cause)
        self.ends.append(now)
        self.due, self.pause = now + self.pause, min(2 * self.pause, LONGEST_PAUSE)
        return cause

    def why_give_up(self, now: float) -> str:
        """Why another start would not help; empty if it may.

        A child that ends several times in a minute drops its callers each time. One that never becomes ready (models
        that cannot be loaded, a GPU that fails on first use) can take minutes for each attempt.
        """
        if len(self.ends) == MAX_ENDS and now - self.ends[0] < WITHIN_SECONDS:
            return f"ended {MAX_ENDS} times in {now - self.ends[0]:.0f} s"
        if self.failed_starts >= MAX_ENDS:
            return f"ended {self.failed_starts} times in a row without ever becoming ready"
        return ""

    def kill_group(self) -> None:
        """Kills the process and its children: a surviving gunicorn worker would keep the port."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def cause_of_end(code: int) -> str:
    """An exit code in words; few distinct ones, so that they can label a metric."""
    if code < 0:
        return signal.Signals(-code).name
    return CODES.get(code, f"exit code {code}")


def _prepare(blocked: Sequence[signal.Signals]) -> None:
    """Runs in the child before exec: it must not outlive the supervisor, and must receive signals again."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)

"""One process that the supervisor keeps running: starting it, how often it has ended, whether it still responds."""

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
"""The supervisor gives up on a child that ends this often in this time, or this often in a row without having become
ready, however long each start takes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds before a child is restarted: doubled each time, and reset once it has been ready."""

START_SECONDS = 600.0
"""A child that has sent no heartbeat this long after its start is taken to hang."""


@dataclass
class ChildProcess:
    """A child, whichever process it is at the moment. kind: its name in the metrics; name: in the log.

    pass_fds: descriptors it inherits. failed_starts: ends since one was ready. unreported: causes of ends that no
    instance can have recorded yet. All times are monotonic seconds.
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
        """Starts the process and returns its PID. blocked: signals of ours that it has to receive."""
        self.pipe, self.started = ReadyPipe(), now
        told = {PIPE_VARIABLE: str(self.pipe.writing), ENDED_VARIABLE: ",".join(self.unreported)}
        self.process = subprocess.Popen(
            self.command,
            env=self.environ | told,
            pass_fds=[self.pipe.writing, *self.pass_fds],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _prepare(blocked),
            process_group=0,
        )
        self.pipe.close_writing()
        return self.process.pid

    def silence(self, now: float) -> float:
        """Seconds without a heartbeat; before the first one, those beyond START_SECONDS."""
        assert self.pipe
        self.pipe.read(now)
        if self.pipe.last_heartbeat is None:
            return max(0.0, now - self.started - START_SECONDS)
        return now - self.pipe.last_heartbeat

    @property
    def ready(self) -> bool:
        return self.pipe is not None and self.pipe.ready

    def record_end(self, code: int, now: float) -> str:
        """The process was reaped with this exit code. Returns the cause in words."""
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

    def hopeless(self, now: float) -> str:
        """Why another start would not help; empty if it may.

        A child that ends often in a minute takes its callers along each time. One that never becomes ready (models that
        cannot be loaded, a GPU that fails at the first use) can take minutes for each try.
        """
        if len(self.ends) == MAX_ENDS and now - self.ends[0] < WITHIN_SECONDS:
            return f"ended {MAX_ENDS} times in {now - self.ends[0]:.0f} s"
        if self.failed_starts >= MAX_ENDS:
            return f"ended {self.failed_starts} times in a row without ever having been ready"
        return ""

    def kill_group(self) -> None:
        """Kills the process and what it has started: a worker that outlived its master would keep the port."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def cause_of_end(code: int) -> str:
    """An exit code in words, few enough to be counted by."""
    if code < 0:
        return signal.Signals(-code).name
    return CODES.get(code, f"exit code {code}")


def _prepare(blocked: Sequence[signal.Signals]) -> None:
    """In the child, before it becomes its program: it must not outlive us, and receives signals again."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)

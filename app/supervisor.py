"""The supervisor's loop: starts the children, restarts those that end or hang, and stops all. PID 1 of a container.

It needs no database, GPU or model and never imports torch, so that little can break it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from socket import socket

from loguru import logger

from app.child import PR_SET_CHILD_SUBREAPER, prctl
from app.child_process import ChildProcess
from app.liveness_probe import LivenessProbe

EXTRA_GRACE = 5.0
"""Seconds beyond serve.grace_seconds before the children that are left are killed."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Supervisor:
    """Runs the children in one thread; blocked signals are received one at a time by sigtimedwait.

    silence: seconds without a heartbeat, or without an answer from the web process, after which a child is killed.
    grace: seconds that the children get to stop.
    listening: sockets that the web process inherits. They stay open here, so that callers wait while it restarts.
    probe: checks the web process once it is ready.
    """

    def __init__(
        self,
        children: Sequence[ChildProcess],
        *,
        silence: float,
        grace: float,
        listening: Sequence[socket] = (),
        probe: LivenessProbe | None = None,
    ) -> None:
        self._children = children
        self._silence = silence
        self._grace = grace
        self._listening = listening
        self._probe = probe
        self._gave_up = False

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT, or until a child keeps ending. Returns the exit code: 0, or 1 if it gave up."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # adopt orphans of our children, as PID 1 would
        while not self._gave_up:
            self._start_due()
            caught = signal.sigtimedwait(SIGNALS, self._until_next())
            if caught and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                logger.info(f"{signal.Signals(caught.si_signo).name}: stopping")
                break
            self._reap()
            self._kill_unresponsive()
        self._stop()
        return 1 if self._gave_up else 0

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.process and child.due <= now:
                logger.info(f"{child.name}: started as process {child.start(now, SIGNALS)}")
                if self._probe and child.kind == "web":
                    self._probe.reset()

    def _until_next(self) -> float:
        due = [child.due - time.monotonic() for child in self._children if not child.process]
        return max(0.01, min([*due, 1.0]))

    def _reap(self) -> None:
        """Collects every process that has ended, ours and adopted orphans."""
        while ended := _ended_process():
            for child in self._children:
                if child.process and child.process.pid == ended[0]:
                    self._restart(child, ended[1])

    def _restart(self, child: ChildProcess, code: int) -> None:
        now = time.monotonic()
        cause = child.record_end(code, now)
        why = child.why_give_up(now)
        logger.warning(f"{child.name}: ended: {cause}" + f"; restarting in {child.due - now:g} s" * (not why))
        if why:
            logger.critical(f"{child.name}: {why}, the last time by {cause}: giving up")
            self._gave_up = True

    def _kill_unresponsive(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.process:
                continue
            silence, what = child.silence(now), "heartbeat"
            if self._probe and child.kind == "web" and child.ready:
                silence, what = max((silence, what), (self._probe.silence(now), "answer to /livez"))
            if silence >= self._silence:
                logger.error(f"{child.name}: process {child.process.pid}: no {what} for {silence:.0f} s: killed")
                child.kill_group()

    def _stop(self) -> None:
        """Sends SIGTERM to all children, and SIGKILL to those left after the grace period."""
        for each in self._listening:
            each.close()
        for child in self._children:
            if child.process:
                os.kill(child.process.pid, signal.SIGTERM)
        if not self._wait_for_all(self._grace + EXTRA_GRACE):
            for child in self._children:
                if child.process:
                    logger.warning(f"{child.name}: did not end in time: killed")
                    child.kill_group()
            self._wait_for_all(EXTRA_GRACE)
        logger.info("stopped")

    def _wait_for_all(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while any(child.process for child in self._children):
            if ended := _ended_process():
                for child in self._children:
                    if child.process and child.process.pid == ended[0]:
                        child.process.returncode = ended[1]
                        child.process = None
            elif time.monotonic() > end:
                return False
            else:
                signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        return True


def _ended_process() -> tuple[int, int] | None:
    """PID and exit code of a child that has ended; None if none has."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None

"""What an engine leaves behind when it crashes or hangs, read back by the engine that follows it."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

MAX_BYTES = 100_000
"""How much of a crash trace is read back."""

HEADER = re.compile(r"(?P<error>Timeout \(.*?\))( of job (?P<job>\w+))? in thread (?P<thread>0x\w+)!")
"""The first line of a trace that a deadline has left."""

GRACE_SECONDS = 10.0
"""How long a deadline waits for the GIL before the process is ended without it."""


class CrashTrace:
    """The file that faulthandler writes to when the process hangs or crashes.

    report: the traceback of the previous process as one line; empty if it left none. job: the id of the job whose stage
    exceeded its deadline; empty if another error ended the process.
    """

    def __init__(self, path: Path) -> None:
        trace = path.read_text(errors="replace")[:MAX_BYTES] if path.exists() else ""
        late = HEADER.match(trace)
        self.job = (late and late["job"]) or ""
        self.report = _in_one_line(trace, late)
        if self.report:
            path.replace(path.with_suffix(".last-trace"))
        self.stream = path.open("w")
        self._lock = threading.Lock()
        self._deadlines: dict[int, tuple[float, threading.Timer]] = {}  # by thread; monotonic seconds
        faulthandler.enable(self.stream)

    def set_deadline(self, seconds: float | None, job: str = "") -> None:
        """After `seconds` the process writes the traceback of every thread and ends; None: no limit. Each thread has
        its own deadline. job: the id of the job that the calling thread works on.

        The traceback is written by a thread that holds the GIL. faulthandler's own timer does not take it, and may
        crash on the frames of a thread that is running; it is only used if a call never releases the GIL, because
        frames do not change then.
        """
        thread = threading.get_ident()
        with self._lock:
            _, timer = self._deadlines.pop(thread, (0.0, None))
            if timer:
                timer.cancel()
            if seconds is not None:
                timer = threading.Timer(seconds, self._expire, (seconds, job, thread))
                timer.daemon = True
                timer.start()
                self._deadlines[thread] = time.monotonic() + seconds, timer
            faulthandler.cancel_dump_traceback_later()
            if self._deadlines:
                left = min(end for end, _ in self._deadlines.values()) - time.monotonic()
                faulthandler.dump_traceback_later(max(left, 0) + GRACE_SECONDS, exit=True, file=self.stream)

    def close(self) -> None:
        """Writes later crashes to standard error again."""
        self.set_deadline(None)
        faulthandler.enable(sys.__stderr__ or 2)
        self.stream.close()

    def _expire(self, seconds: float, job: str, thread: int) -> NoReturn:
        late = f"{job and f' of job {job}'} in thread 0x{thread:016x}"
        print(f"Timeout ({timedelta(seconds=seconds)}){late}!", file=self.stream, flush=True)
        faulthandler.dump_traceback(self.stream)
        os._exit(1)


def _in_one_line(trace: str, late: re.Match[str] | None) -> str:
    """The error and the innermost frame in app/, or else the innermost frame, of the thread that failed."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    error = late["error"] if late else lines[0].rstrip("!:") if lines else ""
    places = _frames(lines, late["thread"] if late else "")
    ours = [line for line in places if "/app/" in line]
    where = next(iter(ours or places), "")
    return " at ".join(part for part in (error, _short(where)) if part)


def _frames(lines: list[str], thread: str) -> list[str]:
    """The frames of the named thread, or else of the one that crashed, or else of all threads that do not wait."""
    threads: dict[str, list[str]] = {}
    frames: list[str] = []
    for line in lines:
        if line.endswith("(most recent call first):"):
            frames = threads.setdefault(line.partition(" (")[0], [])
        elif line.startswith("File "):
            frames.append(line)
    for title, found in threads.items():
        if title == f"Thread {thread}" or (not thread and title.startswith("Current thread ")):
            return found
    working = [found for found in threads.values() if found and "/threading.py" not in found[0]]
    return [line for found in working or threads.values() for line in found]


def _short(place: str) -> str:
    """A faulthandler line, `File "/long/path/x.py", line 3 in f`, without the folders."""
    file, _, rest = place.removeprefix('File "').partition('"')
    return f"{Path(file).name}{rest}" if place else ""

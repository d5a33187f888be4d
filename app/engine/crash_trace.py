"""What an engine leaves behind when it crashes or hangs, read back by the engine that follows it."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

MAX_BYTES = 100_000
"""How much of a crash trace is read back."""

GRACE_SECONDS = 10.0
"""How long a deadline waits for the GIL before the process is ended without it."""


class CrashTrace:
    """The file that faulthandler writes to when the process hangs or crashes.

    report: the traceback of the previous process as one line; empty if it left none.
    """

    def __init__(self, path: Path) -> None:
        self.report = _in_one_line(path.read_text(errors="replace")[:MAX_BYTES]) if path.exists() else ""
        if self.report:
            path.replace(path.with_suffix(".last-trace"))
        self.stream = path.open("w")
        self._timer: threading.Timer | None = None
        faulthandler.enable(self.stream)

    def set_deadline(self, seconds: float | None) -> None:
        """After `seconds` the process writes the traceback of every thread and ends; None: no limit.

        The traceback is written by a thread that holds the GIL. faulthandler's own timer does not take it, and may
        crash on the frames of a thread that is running; it is only used if a call never releases the GIL, because
        frames do not change then.
        """
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is None:
            return
        self._timer = threading.Timer(seconds, self._expire, (seconds, threading.get_ident()))
        self._timer.daemon = True
        self._timer.start()
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=self.stream)

    def close(self) -> None:
        """Writes later crashes to standard error again."""
        self.set_deadline(None)
        faulthandler.enable(sys.__stderr__ or 2)
        self.stream.close()

    def _expire(self, seconds: float, thread: int) -> NoReturn:
        print(f"Timeout ({timedelta(seconds=seconds)}) of thread 0x{thread:016x}!", file=self.stream, flush=True)
        faulthandler.dump_traceback(self.stream)
        os._exit(1)


def _in_one_line(trace: str) -> str:
    """The error and the innermost frame in app/, or else the innermost frame, of the thread that failed."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    error, _, thread = (lines[0].rstrip("!:") if lines else "").partition(" of thread ")
    places = _frames(lines, thread)
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

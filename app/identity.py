"""The identity of an engine on this host: the host's id, the lock of the device, the previous crash report."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from app.errors import Unavailable

MAX_BYTES = 100_000
"""How much of a crash trace is read back."""


class DeviceTaken(Unavailable):
    """Another process holds this device."""


def node_id(data: Path) -> str:
    """The id of the host that owns this data folder, created at the first start; unlike host names it is unique."""
    path = data / "node"
    if not path.exists():
        made = data / f".node-{os.getpid()}"
        try:
            made.write_text(secrets.token_hex(4))
            with suppress(FileExistsError):
                os.link(made, path)  # atomic, and the first process wins
            made.unlink()
        except OSError as error:
            raise Unavailable(f"{path}: cannot be written: {error.strerror}; make the data folder writable") from None
    return known_node(data)


def known_node(data: Path) -> str:
    """The id of the host that owns this data folder; empty if no engine was ever started on it."""
    path = data / "node"
    if not path.exists():
        return ""
    name = path.read_text().strip()
    if not name.isalnum():
        raise Unavailable(
            f"{path}: holds {name!r}, which is not a host id: remove it; the next start creates a new one"
        )
    return name


def lock_path(data: Path, device: str) -> Path:
    """The lock file of a device. device: cpu, gpu0, gpu1, ..."""
    return data / "engines" / f"{device}.lock"


def take_lock(path: Path) -> TextIO:
    """Locks the device while the file stays open: the kernel releases the lock however the process ends."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DeviceTaken(f"{path}: another engine has this device; stop the other splatgate serve first") from None
    return file


class CrashTrace:
    """The file that faulthandler writes to when the process hangs or crashes.

    report: the traceback of the previous process as one line; empty if it left none.
    """

    def __init__(self, path: Path) -> None:
        self.report = _in_one_line(path.read_text(errors="replace")[:MAX_BYTES]) if path.exists() else ""
        if self.report:
            path.replace(path.with_suffix(".last-trace"))
        self.stream = path.open("w")
        faulthandler.enable(self.stream)

    def close(self) -> None:
        """Writes later crashes to standard error again."""
        faulthandler.enable(sys.__stderr__ or 2)
        self.stream.close()


def _in_one_line(trace: str) -> str:
    """The error and the innermost frame in app/, or else the innermost frame."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    ours = [line for line in places if "/app/" in line]
    where = next(iter(ours or places), "")
    return " at ".join(part for part in (lines[0].rstrip("!:") if lines else "", _short(where)) if part)


def _short(place: str) -> str:
    """A faulthandler line, `File "/long/path/x.py", line 3 in f`, without the folders."""
    file, _, rest = place.removeprefix('File "').partition('"')
    return f"{Path(file).name}{rest}" if place else ""

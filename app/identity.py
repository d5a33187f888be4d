"""The identity of an engine on this host: the host's id and the lock of the device."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from app.errors import Unavailable


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

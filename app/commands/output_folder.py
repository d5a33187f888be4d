"""The folder that `splatgate generate` writes: its name, and writing it so that it appears only when complete."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from app.cli import nearest
from app.errors import BadInput

LAST = "certificate.json"
"""Removed first and moved last: if it exists, so do the files that it describes."""


def check_output(folder: Path) -> None:
    """Raises BadInput if the folder could not be written, before anything is generated."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; -o takes a folder")
    there = nearest(folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise BadInput(f"{folder}: cannot write to {there}; choose another folder with -o")


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` whose files are moved to it when the block ends without an exception.

    Otherwise `folder` stays as it was. Ctrl-C waits while the files are moved.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".splatgate-{secrets.token_hex(8)}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        with _uninterrupted():
            _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(source: Path, folder: Path) -> None:
    if not folder.exists():
        source.rename(folder)
        return
    (folder / LAST).unlink(missing_ok=True)
    (folder / "picture.png").unlink(missing_ok=True)  # may be from an earlier result
    for path in sorted(source.iterdir(), key=lambda path: path.name == LAST):
        path.replace(folder / path.name)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C to the end of the block."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def folder_name(prompt: str, seed: int) -> str:
    """A name from the prompt, with a digest if it lost more than case and spaces, so that prompts do not collide."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
    if slug.replace("-", " ") != prompt.lower():
        slug = f"{slug or 'splat'}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
    return f"{slug}-{seed}"

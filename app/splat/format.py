"""What a splat file format is. The registry is app/splat/formats.py; docs/extending.md shows how to add one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from app.splat.model import Splat

Reader = Callable[[bytes | memoryview, int, str], Splat]
"""(the whole file, limits.max_gaussians, what to call the file in a message) -> the splat. Raises BadFile."""

Writer = Callable[[Splat, BinaryIO], None]
"""Writes the splat to a stream. Raises BadInput for a value that the format cannot hold."""


def holds_everything(_splat: Splat) -> str:
    """The `refusal` of a format that can hold any splat."""
    return ""


def loses_nothing(_splat: Splat) -> tuple[str, ...]:
    """The `losses` of a lossless format."""
    return ()


MAIN = "ply"
"""The name of the lossless format that jobs, the viewer and the worker protocol use."""


@dataclass(frozen=True)
class Format:
    """One format in which splats are stored.

    name: as users and the API give it.
    suffix: of its files, lower case, with the dot; a generated splat is stored as asset<suffix>. If formats share a
        suffix, the first one in the registry writes such files.
    media_type: of its files over HTTP.
    recognizes: whether a file with these first START_BYTES bytes is read by this format.
    read: None for a format that is only written.
    write: None for a format that is only read.
    tolerance: how far the score of the stored splat may lie from the certified score. None: generated splats are not
        stored in this format.
    refusal: why the format cannot hold a splat; empty if it can.
    losses: what the format would lose of a splat, a sentence each.
    """

    name: str
    suffix: str
    media_type: str = "application/octet-stream"
    recognizes: Callable[[bytes], bool] = lambda _start: False
    read: Reader | None = None
    write: Writer | None = None
    tolerance: float | None = None
    refusal: Callable[[Splat], str] = holds_everything
    losses: Callable[[Splat], tuple[str, ...]] = loses_nothing

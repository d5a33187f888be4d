"""Reads log files as lines and messages: handles compression, encodings, JSON wrappers and terminal colours.

This file does not know what the messages mean.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import zstandard

from app.errors import BadFile
from app.feedback.dates import dates_in, from_epoch

MAX_LINE = 1 << 16
"""Characters at which a line is cut: in an image task the prompt in the older forms is a whole picture in base64."""

MAX_DEPTH = 4
"""Nesting of JSON in JSON, as in a container's log of a process that logs JSON."""

MAX_BRACES = 8
"""How many braces in a line are tried as the start of a JSON document."""

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

TIME_KEYS = frozenset(
    (
        *("time", "timestamp", "@timestamp", "ts", "t", "date", "datetime", "asctime", "created", "epoch"),
        *("eventtime", "timemillis", "__realtime_timestamp", "_source_realtime_timestamp"),
    )
)
"""Keys for times in JSON logs, in lower case: pm2, docker, loguru, journald, pino, zap, structlog, logstash."""

ESCAPE = re.compile(r"(?:\x1b|\\x1b|\\033|#033|\^\[)(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
"""A terminal's control sequence, raw or as rsyslog, cat -v and repr() escape it."""

_DECODER = json.JSONDecoder()


class Message(NamedTuple):
    """A message, and the dates from its JSON wrappers, outermost first."""

    text: str
    dates: tuple[datetime, ...] = ()


def compression(head: bytes) -> str:
    """The compression of a file with these first bytes; empty if none is recognised."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")


@contextmanager
def decompressed(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """The content of a log file, which may be compressed. Raises BadFile if the compressed data are damaged."""
    buffered = _peekable(stream)
    kind = compression(buffered.peek(8)[:8])
    try:
        yield _opened(buffered, kind, name)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        if not kind:
            raise
        raise BadFile(f"{name}: the {kind} data is damaged ({error}); what came before was imported") from None


def _peekable(stream: Any) -> io.BufferedReader:
    return stream if hasattr(stream, "peek") else io.BufferedReader(stream)


def _opened(stream: Any, kind: str, name: str) -> BinaryIO:
    if kind == "zip":
        raise BadFile(f"{name}: is a zip archive; unpack it, or: unzip -p {name} | splatgate feedback import -")
    if kind == "zstd":
        return io.BufferedReader(_Zstd(stream))
    openers: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
    return openers[kind](stream) if kind else stream


class _Zstd(io.RawIOBase):
    """A reader of zstd frames that detects truncation, which zstandard's own stream reader does not."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.frame: Any = None
        self.packed = self.content = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.content and (chunk := self.packed or self.stream.read(1 << 14)):
            frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
            self.content = frame.decompress(chunk)
            self.frame, self.packed = (None, frame.unused_data) if frame.eof else (frame, b"")
        if not self.content and self.frame:
            raise EOFError("the last frame is truncated")
        count = min(len(buffer), len(self.content))
        buffer[:count], self.content = self.content[:count], self.content[count:]
        return count


def text_lines(stream: BinaryIO) -> Iterator[tuple[str, bool]]:
    """Each line without its end, cut if it is too long; and whether it is complete.

    A line ends with LF, CR or both. The encoding is UTF-8, or UTF-16 if a byte order mark or zero bytes show it; lines
    that are not UTF-8 are read as Latin-1.
    """
    buffered = _peekable(stream)
    text = io.TextIOWrapper(buffered, encoding=_encoding(buffered.peek(512)), errors="surrogateescape", newline=None)
    try:
        while line := text.readline(MAX_LINE):
            rest = line
            while len(rest) == MAX_LINE and not rest.endswith("\n"):
                rest = text.readline(MAX_LINE)
            yield _readable(line.removesuffix("\n")), rest is line
    finally:
        text.detach()  # the caller closes the stream


def _encoding(head: bytes) -> str:
    for mark, name in BOMS.items():
        if head.startswith(mark):
            return name
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(head) >= 16 and max(even, odd) > len(head) / 4 and min(even, odd) == 0:
        return "utf-16-be" if even > odd else "utf-16-le"
    return "utf-8"


def _readable(line: str) -> str:
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape").decode("latin-1")
    return line


def messages(
    line: str, word: str, until: datetime, outer: Sequence[datetime] = (), depth: int = 0
) -> Iterator[Message]:
    """The messages in a line that contain `word`: those of the JSON documents in it, or else the line itself.

    until: for dates without a year, see `dates_in`. The dates of a document are those of its TIME_KEYS.
    """
    line = ESCAPE.sub("", line)
    for start in [found.start() for found in re.finditer("{", line)][:MAX_BRACES] if depth < MAX_DEPTH else ():
        if start > line.find(word):
            break
        try:
            document, end = _DECODER.raw_decode(line, start)
        except (ValueError, RecursionError):
            continue
        if (inner := _holder(document, word)) is not None:
            dates = (*outer, *dates_in(line[:start], until), *_dates(document, inner, until))
            yield from messages(inner, word, until, dates, depth + 1)
            if word in line[end:]:
                yield from messages(line[end:], word, until, outer, depth)
            return
    if word in line:
        yield Message(line, tuple(outer))


def _leaves(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Each string and number of a JSON document, with its key."""
    if depth > 2 * MAX_DEPTH:
        return
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, name, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, key, depth + 1)
    else:
        yield key, value


def _holder(document: Any, word: str) -> str | None:
    """The string that contains the word most often, because loguru repeats the bare message."""
    found = [text for _, text in _leaves(document) if isinstance(text, str) and word in text]
    return max(found, key=lambda text: text.count(word), default=None)


def _dates(document: Any, message: str, until: datetime) -> Iterator[datetime]:
    for key, value in _leaves(document):
        if key.lower() not in TIME_KEYS or value is message or isinstance(value, bool):
            continue
        if isinstance(value, int | float) and (date := from_epoch(float(value))):
            yield date
        elif isinstance(value, str):
            yield from dates_in(value[:64], until)

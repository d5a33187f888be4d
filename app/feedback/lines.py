"""A judge's answer as the caller's log holds it: a line of text to a `Line`, a log of any size to a stream of them.

This file knows no database and no jobs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO
from zoneinfo import ZoneInfo

from app.errors import BadInput

MAX_LINE_BYTES = 1 << 16
"""A longer line is cut here; in an image task the prompt of the older forms is a whole base64 picture."""


@dataclass(frozen=True)
class Line:
    """One answer of one judge.

    score: None where the judge failed (no verdict); 0.0 where the result lay under its cut (rejected, value unknown).
    time: seconds since 1970, None where the line has no date. prompt: None in the form that does not carry it.
    average, elo, reward, observations: what the judge says of the caller; None where it says nothing.
    """

    uid: str
    score: float | None
    time: float | None = None
    prompt: str | None = None
    average: float | None = None
    elo: float | None = None
    reward: float | None = None
    observations: int | None = None


@dataclass(frozen=True)
class Broken:
    """A line that begins like an answer and is none."""

    number: int
    reason: str


UID = r"\[(?P<uid>[\w.:@-]{1,64})\]"
TOKEN = r"[^\s,()]{1,40}"
MARK = re.compile(r"Feedback (?:received )?from \[")
FORMS = (
    re.compile(
        rf"Feedback from {UID}: Score=(?P<score>{TOKEN}), AvgScore=(?P<average>{TOKEN}), ELO=(?P<elo>{TOKEN}), "
        rf"Reward=(?P<reward>{TOKEN}), Observations=(?P<observations>\d{{1,18}})(?!\d|\.\d)",
        re.ASCII,
    ),
    re.compile(rf"Feedback received from {UID}\. Score: (?P<score>{TOKEN})\. \((?P<prompt>.*)\)\s*$", re.ASCII),
    re.compile(rf"Feedback received from {UID}\. Prompt: (?P<prompt>.*)\. Score: (?P<score>{TOKEN})\s*$", re.ASCII),
)
"""Today's form, and the two older ones that name the prompt."""

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # PostgreSQL's text cannot hold a zero byte
DATE = re.compile(
    r"(?P<clock>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?: ?(?P<offset>Z|[+-]\d\d:?\d\d))?(?!\d)",
    re.ASCII,
)


def read_lines(stream: BinaryIO, zone: tzinfo = UTC) -> Iterator[Line | Broken | None]:
    """One value for each line of a log, read as it comes: an answer, a broken one, or None for any other line.

    zone: of dates that do not say theirs. Never raises over what the log holds.
    """
    for number, (raw, whole) in enumerate(_raw_lines(stream), 1):
        if b"Feedback" not in raw:
            yield None
            continue
        try:
            yield parse(raw.decode("utf-8", "replace"), zone)
        except BadInput as error:
            too_long = f"over {MAX_LINE_BYTES:,} bytes, what follows was not read; "
            yield Broken(number, ("" if whole else too_long) + str(error))


def _raw_lines(stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Each line, cut where it is too long, and whether it is whole."""
    while raw := stream.readline(MAX_LINE_BYTES):
        rest = raw
        while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES)
        yield raw, rest is raw


def parse(text: str, zone: tzinfo = UTC) -> Line | None:
    """The answer in a line of text; None where the line is none. Raises BadInput where it begins like one only."""
    text = without_controls(COLOUR.sub("", text).rstrip("\r\n"))
    mark = MARK.search(text)
    if not mark:
        return None
    found = next((match for form in FORMS if (match := form.match(text, mark.start()))), None)
    if not found:
        raise BadInput("neither form of a judge's line: compare docs/feedback.md")
    fields = found.groupdict()
    return Line(
        uid=fields["uid"],
        score=score_of(fields["score"]),
        time=_time(text[: mark.start()], zone),
        prompt=fields.get("prompt"),
        average=_number(fields.get("average")),
        elo=_number(fields.get("elo")),
        reward=_number(fields.get("reward")),
        observations=int(fields["observations"]) if "observations" in fields else None,
    )


def score_of(token: str) -> float | None:
    """A verdict's number, or None for "failed". Raises BadInput for anything else: a verdict is never guessed."""
    if token == "failed":
        return None
    score = _number(token)
    if score is None or score < 0:
        raise BadInput(f"Score={token[:40]}: neither a number from 0 up nor the word failed")
    return score


def without_controls(text: str) -> str:
    """The text with a replacement character for each control character but the tab and the line feed."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def zone_of(name: str) -> tzinfo:
    """A time zone by its name in the IANA database. Raises BadInput."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # unknown; a folder of the database; a path out of it
        raise BadInput(f"{name[:40]!r} is no time zone that this host knows: write UTC or Europe/Berlin") from None


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO date or date and time; UTC where it names no zone. Raises BadInput."""
    try:
        stamp = datetime.fromisoformat(text)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadInput(f"{text[:40]!r} is no time: write it as 2026-01-31 or 2026-01-31T18:00:00+01:00") from None


def _number(token: str | None) -> float | None:
    """The finite number that the whole token is, else None."""
    if token is None or not NUMBER.fullmatch(token):
        return None
    number = float(token)
    return number if math.isfinite(number) else None


def _time(text: str, zone: tzinfo) -> float | None:
    """Of the dates before the message: the one that names its zone, else the last, which the logger itself wrote."""
    stamps = [stamp for match in DATE.finditer(text) if (stamp := _stamp(match))]
    if not stamps:
        return None
    stamp = next((stamp for stamp in stamps if stamp.tzinfo), stamps[-1])
    try:
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):  # the year 1, moved by its offset
        return None


def _stamp(match: re.Match[str]) -> datetime | None:
    fraction = f".{match['fraction']:0<6.6}" if match["fraction"] else ""
    try:
        return datetime.fromisoformat(match["clock"] + fraction + (match["offset"] or ""))
    except ValueError:
        return None

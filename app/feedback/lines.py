"""Parses judges' answers from the lines of a caller's log, which is read as a stream.

This file knows no database and no jobs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO

from app.errors import BadInput
from app.feedback.dates import chosen, dates_in
from app.feedback.logs import MAX_LINE, Message, messages, text_lines


@dataclass(frozen=True)
class Line:
    """One answer of one judge.

    score: None if the judge failed (no verdict); 0.0 if the result was below its cut-off (rejected, value unknown).
    time: seconds since 1970, None without a date. prompt: None if the line does not contain it.
    average, elo, reward, observations: what the judge reports about the caller, or None.
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
    """Text that starts like an answer but cannot be parsed. number: the number of the line."""

    number: int
    reason: str


Found = tuple[Line | Broken, ...]
"""The answers in one line of a log."""

UID = r"\[(?P<uid>[\w.:@-]{1,64})\]"
TOKEN = r"(?:[\w.]{1,20}\([\w.+-]{1,40}\)|[^\s,()\"'\]}|;]{1,40})"
MARK = re.compile(r"Feedback (?:received )?from \[|Feedback received\. (?:Prompt|Score): ")
CURRENT = re.compile(
    rf"Feedback from {UID}: Score=(?P<score>{TOKEN}), AvgScore=(?P<average>{TOKEN}), ELO=(?P<elo>{TOKEN}), "
    rf"Reward=(?P<reward>{TOKEN}), Observations=(?P<observations>\d{{1,18}})(?!\d|\.\d)",
    re.ASCII,
)
SCORE_FIRST = re.compile(rf"Feedback received from {UID}\. Score: (?P<score>{TOKEN})\. \(", re.ASCII)
PROMPT_FIRST = re.compile(
    rf"Feedback received from {UID}\. Prompt: (?P<prompt>.*)\. Score: (?P<score>{TOKEN})(?![^\s\"',;\]}}|)])",
    re.ASCII | re.DOTALL,
)
"""The current format, and the two older ones, which contain the prompt."""

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
TYPED = re.compile(r"[A-Za-z_][\w.]*\((.*)\)", re.ASCII)
"""The repr() of a number of another type, such as np.float64(0.71)."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # PostgreSQL's text cannot contain a null character


def read_lines(stream: BinaryIO, zone: tzinfo = UTC, until: datetime | None = None) -> Iterator[Found]:
    """The answers in each line of a log, read as a stream.

    zone: of dates without a zone. until: the end of the log, for dates without a year; None: now.
    Never raises because of the content.
    """
    until = until or datetime.now(UTC)
    for number, (text, whole) in enumerate(text_lines(stream), 1):
        found = parse(text, zone, until, number)
        if not whole:
            cut = f"over {MAX_LINE:,} characters, the rest was not read; "
            found = tuple(Broken(number, cut + each.reason) if isinstance(each, Broken) else each for each in found)
        yield found


def parse(text: str, zone: tzinfo, until: datetime, number: int = 1) -> Found:
    """The answers in a line of text."""
    if "Feedback" not in text and "\x1b" not in text:
        return ()
    return tuple(
        each for message in messages(text, "Feedback", until) for each in _answers(message, zone, until, number)
    )


def _answers(message: Message, zone: tzinfo, until: datetime, number: int) -> Iterator[Line | Broken]:
    text, position, dates = without_controls(message.text), 0, list(message.dates)
    while mark := MARK.search(text, position):
        if own := dates_in(text[position : mark.start()], until):
            dates = [*message.dates, *own]
        try:
            fields, position = _fields(text, mark.start(), until)
            yield _line(fields, chosen(dates, zone))
        except BadInput as error:
            yield Broken(number, str(error))
            position = mark.end()


def _fields(text: str, start: int, until: datetime) -> tuple[dict[str, str], int]:
    """The fields of an answer, and where it ends. Raises BadInput if the text only starts like an answer."""
    if found := CURRENT.match(text, start):
        return found.groupdict(), found.end()
    end = _end(text, start, until)
    if found := SCORE_FIRST.match(text, start):
        closing = _closing(text[found.end() : end])
        if closing is not None:
            prompt = text[found.end() : found.end() + closing]
            return found.groupdict() | {"prompt": prompt}, found.end() + closing
    elif found := PROMPT_FIRST.match(text, start, end):
        return found.groupdict(), found.end()
    raise BadInput("does not match any form of a judge's line: see docs/feedback.md")


def _end(text: str, start: int, until: datetime) -> int:
    """Where the next answer starts. A date or a new line must precede it; otherwise it is part of the prompt."""
    for mark in MARK.finditer(text, start + 1):
        between = text[start : mark.start()]
        if "\n" in between or dates_in(between, until):
            return mark.start()
    return len(text)


def _closing(text: str) -> int | None:
    """Where a prompt in parentheses ends: at the last closing parenthesis or, if more text follows, at the matching
    one; None without one."""
    last = text.rstrip().rstrip("\"'").rfind(")")
    if last >= 0 and last < len(text.rstrip().rstrip("\"'")) - 1:
        depth = 1
        for place, character in enumerate(text):
            depth += {"(": 1, ")": -1}.get(character, 0)
            if depth == 0:
                return place
    return last if last >= 0 else None


def _line(fields: dict[str, str], time: float | None) -> Line:
    return Line(
        uid=fields["uid"],
        score=score_of(fields["score"]),
        time=time,
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
        raise BadInput(f"Score={token[:40]}: must be a non-negative number, or the word failed")
    return score


def without_controls(text: str) -> str:
    """The text with control characters, except tab and line feed, replaced by the replacement character."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _number(token: str | None) -> float | None:
    """The token as a finite number, or None."""
    if token and (typed := TYPED.fullmatch(token)):
        token = typed[1]
    if token is None or not NUMBER.fullmatch(token):
        return None
    number = float(token)
    return number if math.isfinite(number) else None

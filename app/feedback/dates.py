"""Parses dates as loggers, process managers and containers write them, and times that users type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from app.errors import BadInput

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
LEAP_CYCLE = 8
"""Years to search for a 29 February; two leap years may be eight years apart."""

_CLOCK = (
    r"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?(?!:?\d)"
    r"(?:[ \u202f]?(?P<half>[AaPp])\.?[Mm]\b)?"
)
_ZONE = r"(?P<zone> ?(?:Z|UTC|GMT)(?![A-Za-z+-])| ?(?:UTC|GMT)?[+-]\d\d:?\d\d(?!\d)|[+-]\d\d(?![\d:]))?"
_GAP = r"(?:[T_:]|,? +)"
_NAME = rf"(?P<name>{'|'.join(MONTHS)})[a-z]{{0,6}}"
_START = r"(?<![\d/.])(?<!\d-)"

FORMS = tuple(
    re.compile(_START + form, re.ASCII | re.IGNORECASE)
    for form in (
        # 2026-11-29 12:00:00.123, 2026/11/29 12:00, 20261129T120000Z
        rf"(?P<year>\d{{4}})(?P<sign>[-/.])(?P<month>\d\d?)(?P=sign)(?P<day>\d\d?){_GAP}{_CLOCK}{_ZONE}",
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)[T_ ](?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?!\d)"
        r"(?:[.,](?P<fraction>\d{1,9}))?" + _ZONE,
        # 29-11-2026 12:00:00, 29.11.2026 12:00
        rf"(?P<first>\d\d?)(?P<sign>[-/.])(?P<other>\d\d?)(?P=sign)(?P<year>\d{{4}}){_GAP}{_CLOCK}{_ZONE}",
        # 29/Nov/2026:12:00:00 +0000, 29 Nov 12:00:00
        rf"(?P<day>\d\d?)[-/ ]{_NAME}(?:[-/ ,]+(?P<year>\d{{4}}))?{_GAP}{_CLOCK}{_ZONE}",
        # Nov 29 12:00:00, Nov 29, 2026 12:00 PM, Sun Nov 29 12:00:00 UTC 2026
        rf"(?<![a-z]){_NAME} +(?P<day>\d\d?)(?:,? (?P<year>\d{{4}}))?{_GAP}{_CLOCK}{_ZONE}"
        r"(?:(?: [A-Z]{3,4})? (?P<after>20\d\d)(?!\d))?",
    )
)
EPOCH = re.compile(r"(?<![\w.,:+-])[1-4]\d{9}(?:[.,]\d{1,9}|\d{3}|\d{6}|\d{9})?(?![\w.,]|-\d)", re.ASCII)


def dates_in(text: str, until: datetime) -> list[datetime]:
    """The dates in a text, in order; with a zone if they name one.

    until: a date without a year is taken as the last such day before this time. Seconds since 1970 count at the start
    of the text; elsewhere only if there is no other date, because ten digits may mean something else. Ambiguous dates
    (3/4/2026) are ignored.
    """
    found = [(match.start(), date) for form in FORMS for match in form.finditer(text) if (date := _date(match, until))]
    numbers = [(match.start(), date) for match in EPOCH.finditer(text) if (date := _seconds(match[0]))]
    leading = [(start, date) for start, date in numbers if not text[:start].strip("[(<\"' ")]
    return [date for _, date in sorted(found + leading, key=lambda each: each[0]) or numbers]


def from_epoch(number: float) -> datetime | None:
    """The date for a number of seconds, ms, us or ns since 1970: the first unit that gives a year from 2001 to 2096."""
    for unit in (1.0, 1e3, 1e6, 1e9):
        if 1e9 <= number / unit < 4e9:
            return datetime.fromtimestamp(number / unit, UTC)
    return None


def chosen(dates: Sequence[datetime], zone: tzinfo) -> float | None:
    """Seconds since 1970 of the first date with a zone, else of the last date, which is the logger's own."""
    if not dates:
        return None
    date = next((date for date in dates if date.tzinfo), dates[-1])
    try:
        return (date if date.tzinfo else date.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):  # the year 1, shifted by its offset
        return None


def zone_of(name: str) -> tzinfo:
    """A time zone by its name in the IANA database. Raises BadInput."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # an unknown zone; a folder of the database; a path outside it
        raise BadInput(f"{name[:40]!r} is not a time zone known to this host: write UTC or Europe/Berlin") from None


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO date, with or without time; UTC if it names no zone. Raises BadInput."""
    try:
        stamp = datetime.fromisoformat(text)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadInput(f"{text[:40]!r} is not a time: write 2026-01-31 or 2026-01-31T18:00:00+01:00") from None


def _seconds(number: str) -> datetime | None:
    return from_epoch(float(number.replace(",", ".")))


def _date(match: re.Match[str], until: datetime) -> datetime | None:
    parts = match.groupdict()
    try:
        if (month_and_day := _month_and_day(parts)) is None:
            return None
        clock = _clock(parts)
        year = parts["year"] or parts.get("after")
        date = datetime(int(year), *month_and_day, *clock) if year else _latest(month_and_day, clock, until)
        return date.replace(tzinfo=_zone(parts["zone"])) if date and parts["zone"] else date
    except ValueError:
        return None


def _month_and_day(parts: dict[str, str | None]) -> tuple[int, int] | None:
    """Month and day; None if either number could be the month: with slashes, without AM or PM."""
    if name := parts.get("name"):
        return MONTHS.index(name[:3].lower()) + 1, int(parts["day"] or 0)
    if "first" not in parts:
        return int(parts["month"] or 0), int(parts["day"] or 0)
    first, other = int(parts["first"] or 0), int(parts["other"] or 0)
    if parts["sign"] == "/" and parts["half"]:
        return first, other
    if parts["sign"] == "/" and max(first, other) <= 12 and first != other:
        return None
    return (other, first) if other <= 12 else (first, other)


def _clock(parts: dict[str, str | None]) -> tuple[int, int, int, int]:
    hour = int(parts["hour"] or 0)
    if half := parts.get("half"):
        if not 1 <= hour <= 12:
            raise ValueError(f"{hour} {half}M")
        hour = hour % 12 + 12 * (half in "Pp")
    microseconds = int(f"{parts['fraction'] or '':0<6.6}")
    return hour, int(parts["minute"] or 0), int(parts["second"] or 0), microseconds


def _latest(month_and_day: tuple[int, int], clock: tuple[int, int, int, int], until: datetime) -> datetime | None:
    """The last such day before `until`, plus a day to allow for time zones."""
    for year in range(until.year + 1, until.year - LEAP_CYCLE - 1, -1):
        try:
            date = datetime(year, *month_and_day, *clock)
        except ValueError:  # 29 February
            continue
        if date <= until.replace(tzinfo=None) + timedelta(days=1):
            return date
    return None


def _zone(text: str) -> tzinfo:
    digits = re.search(r"([+-])(\d\d):?(\d\d)?$", text.strip())
    if not digits:
        return UTC
    minutes = int(digits[2]) * 60 + int(digits[3] or 0)
    return timezone(timedelta(minutes=-minutes if digits[1] == "-" else minutes))

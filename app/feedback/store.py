"""The judges' answers in the database: each is added once, joined to its job, and read for the report.

What the report needs from a job is stored with the answer, because jobs are deleted after assets.keep_days.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from app.config import Config
from app.feedback.join import DAY_SECONDS, SLACK_SECONDS, Candidate, Join, join
from app.feedback.lines import Broken, Found, Line
from app.jobs.store import Store
from app.jobs.tables import ROW, jobs, metadata

T = TypeVar("T")

BATCH = 500
"""Answers per transaction, so that other writers get a turn."""

MOST_ANSWERS = 200_000
"""A report reads this many answers, the newest, and says if there are more."""

MOST_EXAMPLES = 10
FORGET_AT_ONCE = 1_000

answers = sa.Table(
    "feedback",
    metadata,
    sa.Column("row", ROW, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("uid", sa.String(64), nullable=False),
    sa.Column("time", sa.Float),
    sa.Column("score", sa.Float),
    sa.Column("prompt", sa.Text),
    sa.Column("average", sa.Float),
    sa.Column("elo", sa.Float),
    sa.Column("reward", sa.Float),
    sa.Column("observations", sa.BigInteger),
    sa.Column("job", sa.String(32), index=True),
    sa.Column("joined_by", sa.String(8)),
    sa.Column("certain", sa.Boolean),
    sa.Column("job_profile", sa.String(16)),
    sa.Column("job_score", sa.Float),
    sa.Column("job_gaussians", sa.BigInteger),
    sa.Column("added", sa.Float),  # when it was imported, seconds since 1970
    sa.Index("feedback_time", "time"),
)


@dataclass(frozen=True)
class Receipt:
    """The result of an import. lines: read; new, known, old: answers; unparsed: broken answers.

    old: older than feedback.keep_days, and not stored.
    """

    lines: int
    new: int
    known: int
    old: int
    unparsed: int
    examples: tuple[Broken, ...]


class Answer(NamedTuple):
    """An answer as the report reads it; see `Line` and `Candidate`. by, certain: None if no job was found."""

    uid: str
    time: float | None
    score: float | None
    observations: int | None
    job: str | None
    by: str | None
    certain: bool | None
    profile: str | None
    job_score: float | None
    job_gaussians: int | None


class Ended(NamedTuple):
    """A job on which our gate gave a verdict; delivered: not refused. score: cosine, of a job with a prompt."""

    finished: float
    score: float | None
    gaussians: int | None
    delivered: bool


class FeedbackStore:
    """The answers in one database. Thread-safe. Raises Unavailable if the database cannot be used.

    clock: seconds since 1970.
    """

    def __init__(self, store: Store, config: Config, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.config = config
        self._clock = clock
        with store.reading() as connection:
            ready = _is_current(connection)
        if not ready:
            with store.writing(alone=True) as connection:
                answers.create(connection, checkfirst=True)
                if not _is_current(connection):  # created by an older release
                    connection.exec_driver_sql(f"ALTER TABLE {answers.name} ADD COLUMN added FLOAT")

    def add(
        self, log: Iterable[Found], name: str = "", on_lines: Callable[[int], None] = lambda _lines: None
    ) -> Receipt:
        """Adds the answers of a log as it is read. An answer that is already stored is counted, not added.

        Two answers are equal if all their fields and times are equal; without a time, if each is the n-th with these
        fields in the log of this name. on_lines: called after each batch with the number of lines read so far.
        """
        receipt, undated, oldest = Receipt(0, 0, 0, 0, 0, ()), Counter[str](), self._oldest()
        for batch in _batches(log, 16 * BATCH):
            found = [each for line in batch for each in line]
            broken = tuple(each for each in found if isinstance(each, Broken))
            parsed = [each for each in found if isinstance(each, Line)]
            lines = [each for each in parsed if each.time is None or each.time >= oldest]
            added = ({_digest(line, name, undated): line for line in some} for some in _batches(lines, BATCH))
            new = sum(map(self._add, added))
            receipt = Receipt(
                receipt.lines + len(batch),
                receipt.new + new,
                receipt.known + len(lines) - new,
                receipt.old + len(parsed) - len(lines),
                receipt.unparsed + len(broken),
                (receipt.examples + broken)[:MOST_EXAMPLES],
            )
            on_lines(receipt.lines)
        return receipt

    def answers(self, since: float | None = None) -> list[Answer]:
        """The newest MOST_ANSWERS, undated ones last; from `since` on if given."""
        t = answers.c
        what = (t.uid, t.time, t.score, t.observations, t.job, t.joined_by, t.certain, t.job_profile)
        query = sa.select(*what, t.job_score, t.job_gaussians).limit(MOST_ANSWERS)
        query = query.order_by(sa.nulls_last(t.time.desc()), t.row.desc())
        if since is not None:
            query = query.where(t.time >= since)
        with self.store.reading() as connection:
            return [Answer._make(row) for row in connection.execute(query)]

    def count(self, since: float | None = None) -> int:
        query = sa.select(sa.func.count()).select_from(answers)
        with self.store.reading() as connection:
            return connection.scalar(query if since is None else query.where(answers.c.time >= since)) or 0

    def ended(self, since: float | None = None) -> list[Ended]:
        """The jobs of the configured profile that our gate judged, the newest MOST_ANSWERS still stored."""
        t = jobs.c
        judged = (t.kind == "generate") & (t.state == "DONE") & t.outcome.in_(("passed", "refused"))
        query = sa.select(t.finished, t.score, t.gaussians, t.outcome == "passed", t.prompt == "")
        query = query.where(judged & (t.profile == self.config.profile.name)).order_by(t.id.desc()).limit(MOST_ANSWERS)
        if since is not None:
            query = query.where(t.finished >= since)
        with self.store.reading() as connection:
            rows = connection.execute(query).all()
        return [
            Ended(end, None if wordless else score, count, bool(good)) for end, score, count, good, wordless in rows
        ]

    def forget(self) -> int:
        """Deletes answers older than feedback.keep_days, at most FORGET_AT_ONCE. Returns how many."""
        age = sa.func.coalesce(answers.c.time, answers.c.added)
        with self.store.reading() as connection:
            query = sa.select(answers.c.row).where(age < self._oldest()).limit(FORGET_AT_ONCE)
            rows = list(connection.scalars(query))
            unknown = connection.scalar(sa.select(answers.c.row).where(age.is_(None)).limit(1))
        if rows or unknown is not None:
            with self.store.writing() as connection:
                connection.execute(sa.delete(answers).where(answers.c.row.in_(rows)))
                # the age of undated answers from older releases counts from now
                connection.execute(sa.update(answers).where(age.is_(None)).values(added=self._clock()))
        return len(rows)

    def version(self) -> tuple[int, int]:
        """Changes when answers are added or deleted."""
        query = sa.select(sa.func.coalesce(sa.func.max(answers.c.row), 0), sa.func.count())
        with self.store.reading() as connection:
            newest, count = connection.execute(query).one()
        return int(newest), int(count)

    def _oldest(self) -> float:
        return self._clock() - self.config.feedback.keep_days * DAY_SECONDS

    def _add(self, lines: dict[str, Line]) -> int:
        """Adds the lines, by digest, that are new. Returns how many."""
        with self.store.writing(alone=True) as connection:
            known = set(connection.scalars(sa.select(answers.c.digest).where(answers.c.digest.in_(list(lines)))))
            new = {digest: line for digest, line in lines.items() if digest not in known}
            if new:
                joins = self._join(connection, list(new.values()))
                now, pairs = self._clock(), zip(new.items(), joins, strict=True)
                rows = [_row(digest, line, joined) | {"added": now} for (digest, line), joined in pairs]
                connection.execute(sa.insert(answers), rows)
        return len(new)

    def _join(self, connection: sa.Connection, lines: Sequence[Line]) -> list[Join | None]:
        query, reach = _delivered(lines, self.config.feedback.join_seconds)
        found = [_candidate(row) for row in connection.execute(query.where(reach)).mappings()]
        mine = sa.select(jobs.c.id).where(reach)
        claimed = connection.scalars(sa.select(answers.c.job).where(answers.c.job.in_(mine)))
        return join(lines, found, [id for id in claimed if id], self.config.feedback.join_seconds)


def _is_current(connection: sa.Connection) -> bool:
    there = sa.inspect(connection)
    return there.has_table(answers.name) and "added" in {each["name"] for each in there.get_columns(answers.name)}


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(values)
    while batch := list(islice(source, size)):
        yield batch


def _delivered(lines: Sequence[Line], seconds: float) -> tuple[sa.Select[Any], sa.ColumnElement[bool]]:
    """The query for delivered jobs, and the condition for those that the lines could refer to."""
    t = jobs.c
    prompts = {line.prompt for line in lines if line.prompt is not None}
    times = [line.time for line in lines if line.prompt is None and line.time is not None]
    reach: sa.ColumnElement[bool] = t.prompt.in_(list(prompts))
    if times:
        reach |= t.finished.between(min(times) - seconds, max(times) + SLACK_SECONDS)
    delivered = (t.kind == "generate") & (t.state == "DONE") & (t.outcome != "refused") & t.finished.is_not(None)
    return sa.select(t.id, t.prompt, t.finished, t.profile, t.score, t.gaussians), delivered & reach


def _candidate(row: sa.RowMapping) -> Candidate:
    """A candidate; its score is dropped without a prompt, as it then compares pictures, on another scale."""
    return Candidate(**{**row, "score": row["score"] if row["prompt"] else None})


def _digest(line: Line, name: str, undated: Counter[str]) -> str:
    """SHA-256 (hex) of the line's fields. name: of its log; undated: how often each undated line was seen in it."""
    digest = hashlib.sha256(json.dumps(list(vars(line).values())).encode()).hexdigest()
    if line.time is None:
        undated[digest] += 1
        digest = hashlib.sha256(f"{digest} {undated[digest]} {name}".encode(errors="surrogateescape")).hexdigest()
    return digest


def _row(digest: str, line: Line, joined: Join | None) -> dict[str, object]:
    row: dict[str, object] = {"digest": digest} | vars(line)
    job = joined.job if joined else None
    return row | {
        "job": job.id if job else None,
        "joined_by": joined.by if joined else None,
        "certain": joined.certain if joined else None,
        "job_profile": job.profile if job else None,
        "job_score": job.score if job else None,
        "job_gaussians": job.gaussians if job else None,
    }

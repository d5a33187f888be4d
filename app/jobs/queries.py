"""Queries about jobs, each on an open connection."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from app.jobs import tables
from app.jobs.records import Job, Kind, Stats, Tally, Usage
from app.jobs.tables import to_job

MEDIAN_OF = 50
"""The expected time of a job is the median of this many finished jobs of its kind."""

KINDS: tuple[Kind, ...] = ("generate", "validate", "repair", "turntable", "cutout")


def find(connection: sa.Connection, id: str) -> Job | None:
    """The job with this id, or None."""
    row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == id)).mappings().first()
    return with_assets(connection, [row])[0] if row else None


def with_assets(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> list[Job]:
    """The jobs of these rows, with the names of their files."""
    names = asset_names(connection, [row["id"] for row in rows])
    return [to_job(row, names.get(row["id"], ())) for row in rows]


def asset_names(connection: sa.Connection, ids: list[str]) -> dict[str, tuple[str, ...]]:
    """The sorted file names of each of these jobs; jobs without files are omitted."""
    found: dict[str, tuple[str, ...]] = {}
    query = sa.select(tables.assets.c.job, tables.assets.c.name).where(tables.assets.c.job.in_(ids))
    for job, name in connection.execute(query.order_by(tables.assets.c.name)):
        found[job] = (*found.get(job, ()), name)
    return found


def count(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
    """How many jobs match the condition."""
    return connection.scalar(sa.select(sa.func.count()).select_from(tables.jobs).where(condition)) or 0


def median_seconds(connection: sa.Connection, kind: Kind) -> float | None:
    """Median seconds of the last finished jobs of a kind; None if none has finished."""
    t = tables.results.c
    query = sa.select(t.seconds).where(t.kind == kind).order_by(t.row.desc()).limit(MEDIAN_OF)
    seconds = connection.scalars(query).all()
    return statistics.median(seconds) if seconds else None


def medians(connection: sa.Connection) -> dict[Kind, float]:
    """The median of each kind of which a job has finished, in seconds."""
    return {kind: median for kind in KINDS if (median := median_seconds(connection, kind)) is not None}


def versions(connection: sa.Connection, ids: Iterable[str]) -> dict[str, int]:
    """The version of each of these jobs; jobs that do not exist are omitted."""
    query = sa.select(tables.jobs.c.id, tables.jobs.c.version).where(tables.jobs.c.id.in_(list(ids)))
    return {row.id: row.version for row in connection.execute(query)}


def counts(connection: sa.Connection) -> dict[str, int]:
    """How many jobs are in each state."""
    query = sa.select(tables.jobs.c.state, sa.func.count()).group_by(tables.jobs.c.state)
    return {row.state: row[1] for row in connection.execute(query)}


def usage(connection: sa.Connection, owner: str, since: float) -> Usage:
    """What a caller uses. since: seconds since 1970; jobs created later are recent."""
    mine = tables.jobs.c.owner == owner
    size = sa.select(sa.func.sum(tables.assets.c.size)).join(tables.jobs, tables.jobs.c.id == tables.assets.c.job)
    waiting = count(connection, mine & (tables.jobs.c.state == "QUEUED"))
    recent = count(connection, mine & (tables.jobs.c.created > since))
    return Usage(waiting, recent, int(connection.scalar(size.where(mine)) or 0))


def stats(connection: sa.Connection, now: float) -> Stats:
    """The statistics at `now`, seconds since 1970."""
    tallies = connection.execute(sa.select(tables.tallies).order_by(tables.tallies.c.what)).all()
    total = connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(tables.assets.c.size), 0)))
    waiting = tables.jobs.c.state == "QUEUED"
    since = connection.scalar(sa.select(sa.func.min(tables.jobs.c.created)).where(waiting))
    oldest = max(0.0, now - since) if since else 0.0
    queued, running = count(connection, waiting), count(connection, tables.jobs.c.state == "RUNNING")
    return Stats(queued, oldest, running, medians(connection), tuple(Tally(*row) for row in tallies), int(total or 0))


def rows_after(connection: sa.Connection, table: sa.Table, row: int, limit: int) -> Sequence[sa.RowMapping]:
    """The rows of a table after number `row`, in order."""
    query = sa.select(table).where(table.c.row > row).order_by(table.c.row).limit(limit)
    return connection.execute(query).mappings().all()

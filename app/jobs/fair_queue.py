"""The rank of a job among the waiting ones of its priority: callers get equal shares of the engines.

Self-clocked fair queueing (Golestani, INFOCOM 1994), with the cost of a job in place of the length of a packet. A
caller that submits a thousand jobs, or a large video, delays its own later jobs and not those of others. The jobs of
one caller run in the order of their submission.
"""

from __future__ import annotations

import sqlalchemy as sa

from app.config import Config
from app.jobs.queue import SEQUENCES
from app.jobs.records import JobRequest
from app.jobs.tables import jobs

UNIT = 4
"""Ranks between two jobs of a caller, for jobs of other callers."""

FIRST_SEQUENCE = SEQUENCES // 4
"""Below it is room for jobs that are moved to the front."""

BASE_VIDEO_SIZE = 512
"""Pixels per side of a video that costs as much as a splat."""

OPEN = jobs.c.state.in_(("QUEUED", "RUNNING"))


def cost(request: JobRequest, config: Config) -> int:
    """The cost of a job, in jobs: by the attempts that it may take, or by the size of its video."""
    if request.kind == "turntable":
        return max(1, round(((request.size or config.turntable.size) / BASE_VIDEO_SIZE) ** 2))
    return (request.attempts or config.generate.attempts) if request.kind == "generate" else 1


def next_sequence(connection: sa.Connection, owner: str | None, priority: int, jobs_cost: int) -> int:
    """The rank of a new job, which no other open job of its priority has. Needs a transaction that runs alone."""
    mine = OPEN & (jobs.c.priority == priority) & jobs.c.owner.is_not_distinct_from(owner)
    last = connection.scalar(sa.select(sa.func.max(jobs.c.sequence)).where(mine)) or 0
    rank = max(last, _virtual_time(connection, priority)) + UNIT * jobs_cost
    later = sa.select(jobs.c.sequence).where(OPEN & (jobs.c.priority == priority) & (jobs.c.sequence >= rank))
    taken = set(connection.scalars(later))
    while rank in taken:
        rank += 1
    return rank


def _virtual_time(connection: sa.Connection, priority: int) -> int:
    """The rank of the job that was started last; if none runs, a rank just before the first waiting job."""
    rank, same = jobs.c.sequence, jobs.c.priority == priority
    running = connection.scalar(sa.select(sa.func.max(rank)).where(same & (jobs.c.state == "RUNNING")))
    if running is not None:
        return int(running)
    first = connection.scalar(sa.select(sa.func.min(rank)).where(same & (jobs.c.state == "QUEUED")))
    return FIRST_SEQUENCE if first is None else max(0, first - UNIT)

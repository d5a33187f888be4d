"""Moves a waiting job to the front of the queue, if its caller may pass the jobs before it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from app.errors import Conflict, Forbidden
from app.jobs.tables import jobs


@dataclass(frozen=True)
class Passing:
    """Which jobs a caller may pass: those whose priority number is above `best_priority`, and at that priority its own.

    owner: the name of the caller; None if it may pass the jobs of every caller.
    """

    best_priority: int = 1
    owner: str | None = None

    def forbids(self) -> sa.ColumnElement[bool]:
        """The condition of the jobs that it may not pass."""
        t, best = jobs.c, self.best_priority
        if self.owner is None:
            return t.priority < best
        return (t.priority < best) | ((t.priority == best) & (t.owner != self.owner))


ANY = Passing()
"""May pass every job."""


def move_to_front(connection: sa.Connection, id: str, passing: Passing) -> tuple[int, int]:
    """Gives the job a priority and a sequence before all other waiting jobs, and returns both. Needs a transaction that
    runs alone. Raises Conflict if the job does not wait, Forbidden if the caller may not pass a job before it."""
    t = jobs.c
    rank = t.priority, sa.func.coalesce(t.sequence, 0).label("sequence"), t.id
    waiting = sa.select(*rank).where(t.state == "QUEUED").order_by(*rank)
    own = connection.execute(waiting.where(t.id == id)).first()
    if not own:
        raise Conflict(f"job {id} does not wait: only a waiting job can be moved to the front")
    before = waiting.where(sa.tuple_(*rank) < sa.tuple_(*own)).limit(1)
    first = connection.execute(before).first()
    if not first:
        return own.priority, own.sequence
    if blocking := connection.execute(before.where(passing.forbids())).first():
        raise Forbidden(
            f"a job with priority {blocking.priority} waits before job {id}: this token may use priority "
            f"{passing.best_priority} to 100, and pass jobs of other tokens only if theirs is a higher number"
        )
    place = {"priority": first.priority, "sequence": max(0, first.sequence - 1)}
    connection.execute(sa.update(jobs).where(t.id == id).values(**place, version=t.version + 1))
    return place["priority"], place["sequence"]

"""The filter and the order of a list of jobs."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from app.jobs.records import JobOutcome, Kind, Order, State
from app.jobs.tables import jobs

UNSCORED = -2.0
"""Sort key of jobs without a score: below every cosine."""


@dataclass(frozen=True)
class Listing:
    """A filter, an order and a position. An empty filter matches every job.

    text: part of the prompt, in any case. starred: only starred jobs. owner: only the jobs of this caller and those
    without an owner. order: newest or oldest first; by score, best first; queue: as the queued jobs will run.
    after: the id of the last job of the previous page.
    """

    states: tuple[State, ...] = ()
    outcomes: tuple[JobOutcome, ...] = ()
    kinds: tuple[Kind, ...] = ()
    text: str = ""
    starred: bool = False
    owner: str | None = None
    order: Order = "newest"
    after: str | None = None

    def query(self, limit: int) -> sa.Select[tuple[object, ...]]:
        """The rows of the page, in order."""
        query = sa.select(jobs).where(*self._filters())
        if self.after:
            query = query.where(self._after(self.after))
        descending = self.order in ("newest", "score")
        columns = _sort_key(self.order, jobs)
        return query.order_by(*((each.desc() if descending else each) for each in columns)).limit(limit)

    def _filters(self) -> list[sa.ColumnElement[bool]]:
        filters: list[sa.ColumnElement[bool]] = []
        for column, values in ((jobs.c.state, self.states), (jobs.c.outcome, self.outcomes), (jobs.c.kind, self.kinds)):
            if values:
                filters.append(column.in_(values))
        if self.text:
            filters.append(jobs.c.prompt.icontains(self.text, autoescape=True))
        if self.owner is not None:
            filters.append(jobs.c.owner.is_(None) | (jobs.c.owner == self.owner))
        if self.starred:
            filters.append(jobs.c.starred.is_(True))
        return filters

    def _after(self, id: str) -> sa.ColumnElement[bool]:
        """Rows after job `id`. The orders by age work even if that job is gone, because ids sort by creation time."""
        descending = self.order in ("newest", "score")
        if self.order in ("newest", "oldest"):
            return jobs.c.id < id if descending else jobs.c.id > id
        last = jobs.alias()
        mine, its = sa.tuple_(*_sort_key(self.order, jobs)), sa.tuple_(*_sort_key(self.order, last))
        return sa.exists().where((last.c.id == id) & (mine < its if descending else mine > its))


def _sort_key(order: Order, table: sa.FromClause) -> tuple[sa.ColumnElement[object], ...]:
    if order == "score":
        return sa.func.coalesce(table.c.score, UNSCORED), table.c.id
    if order == "queue":
        return table.c.priority, sa.func.coalesce(table.c.sequence, 0), table.c.id
    return (table.c.id,)

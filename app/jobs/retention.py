"""Removes ended jobs that are too old or exceed the space limit, oldest first, with their files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from app.config import AssetsConfig
from app.jobs.assets import Assets
from app.jobs.clock_guard import ClockGuard
from app.jobs.records import ENDED
from app.jobs.store import Store
from app.jobs.tables import assets, jobs, results, stage_times, webhooks

BATCH_SIZE = 100
RESULTS, STAGE_TIMES = 20_000, 100_000
"""Rows to keep in each of these tables. They are small and outlive their jobs; they contain no prompts."""

DELETABLE = jobs.c.state.in_(ENDED) & jobs.c.starred.is_not(True)
"""Ended and not starred. Databases of older releases contain NULL there."""

Forget = Callable[[list[str]], None]
"""Removes jobs from the queue."""


def remove_jobs(store: Store, files: Assets, forget_queue: Forget, ids: list[str]) -> None:
    """Removes ended jobs with their files and workflows. Counts and results stay."""
    for id in ids:
        files.remove(id)
    forget_queue(ids)  # before the rows: if this fails, the next sweep finds the jobs again
    with store.writing() as connection:
        connection.execute(sa.delete(assets).where(assets.c.job.in_(ids)))
        connection.execute(sa.delete(webhooks).where(webhooks.c.job.in_(ids)))
        connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))


@dataclass(frozen=True)
class Retention:
    store: Store
    files: Assets
    settings: AssetsConfig
    clock: Callable[[], float]
    guard: ClockGuard
    forget_queue: Forget

    def sweep(self) -> int:
        """Removes what is due, at most BATCH_SIZE jobs per call. Returns how many jobs it removed."""
        self.prune_rows()
        ids = self.over_age() or self.over_size()
        if ids:
            remove_jobs(self.store, self.files, self.forget_queue, ids)
        return len(ids)

    def prune_rows(self) -> None:
        """Removes old rows of results and stage times. The newest stay, because readers continue from them."""
        for table, kept in ((results, RESULTS), (stage_times, STAGE_TIMES)):
            with self.store.reading() as connection:
                newest = connection.scalar(sa.select(sa.func.max(table.c.row))) or 0
                over = connection.scalar(sa.select(table.c.row).where(table.c.row <= newest - kept).limit(1))
            if over is not None:
                with self.store.writing(durable=False) as connection:
                    connection.execute(sa.delete(table).where(table.c.row <= newest - kept))

    def over_age(self) -> list[str]:
        """Ended, unstarred jobs older than assets.keep_days, oldest first; none while the clock is in doubt."""
        if not self.guard.trusted():
            return []
        oldest = self.clock() - self.settings.keep_days * 86_400
        old = DELETABLE & (jobs.c.finished < oldest)
        with self.store.reading() as connection:
            return list(connection.scalars(sa.select(jobs.c.id).where(old).order_by(jobs.c.id).limit(BATCH_SIZE)))

    def over_size(self) -> list[str]:
        """The ended, unstarred jobs that must be removed to stay within assets.max_gb: the oldest of whichever
        caller has the most bytes, so that nobody's files push out those of another."""
        size = sa.func.sum(assets.c.size)
        sizes = sa.select(assets.c.job, size.label("size")).group_by(assets.c.job).subquery()
        ended = sa.select(jobs.c.id, jobs.c.owner, sizes.c.size).join(sizes, sizes.c.job == jobs.c.id)
        with self.store.reading() as connection:
            over = int(connection.scalar(sa.select(size)) or 0) - self.settings.max_gb * 1e9
            if over <= 0:
                return []
            owned = sa.select(jobs.c.owner, size).join(jobs, jobs.c.id == assets.c.job).group_by(jobs.c.owner)
            used = {owner: int(total) for owner, total in connection.execute(owned)}  # PostgreSQL sums to a Decimal
            rows = connection.execute(ended.where(DELETABLE).order_by(jobs.c.id)).all()
        waiting: dict[str | None, deque[tuple[str, int]]] = {}
        for row in rows:
            waiting.setdefault(row.owner, deque()).append((row.id, int(row.size)))
        chosen: list[str] = []
        while over > 0 and waiting and len(chosen) < BATCH_SIZE:
            owner = max(waiting, key=used.__getitem__)
            id, bytes_ = waiting[owner].popleft()
            if not waiting[owner]:
                del waiting[owner]
            chosen.append(id)
            used[owner] -= bytes_
            over -= bytes_
        return chosen

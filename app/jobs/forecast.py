"""When the open jobs are likely to end: they are assigned to the engines in the order in which they will run."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from app.jobs.queries import medians
from app.jobs.records import Kind
from app.jobs.tables import jobs


@dataclass(frozen=True)
class Forecast:
    """position: 1 is the next to run, None if the job does not wait. eta: seconds to its end, None if unknown."""

    position: int | None = None
    eta: float | None = None


NOTHING = Forecast()
"""Of a job that has ended."""


def forecasts(connection: sa.Connection, serving: int, now: float) -> dict[str, Forecast]:
    """Forecasts of the waiting and running jobs, by id. serving: engines that take jobs. now: seconds since 1970."""
    t = jobs.c
    query = sa.select(t.id, t.kind, t.state, t.started).where(t.state.in_(("RUNNING", "QUEUED")))
    rows = connection.execute(query.order_by(t.priority, sa.func.coalesce(t.sequence, 0), t.id)).all()
    running = [row for row in rows if row.state == "RUNNING"]
    left = {row.id: now - (row.started or now) for row in running}
    order = [(row.id, row.kind) for row in running] + [(row.id, row.kind) for row in rows if row.state == "QUEUED"]
    etas = _etas(order, left, medians(connection), serving)
    waiting = (id for id, _ in order[len(running) :])
    positions = {id: place for place, id in enumerate(waiting, 1)}
    return {id: Forecast(positions.get(id), etas.get(id)) for id, _ in order}


def _etas(
    order: list[tuple[str, Kind]], elapsed: Mapping[str, float], seconds: Mapping[Kind, float], engines: int
) -> dict[str, float]:
    """Seconds to the end of each job whose kind has a median. Each job takes the engine that is free first.

    elapsed: seconds that the running jobs have run. A kind without measurements counts as the slowest kind.
    """
    if not engines or not seconds:
        return {}
    free = [0.0] * engines
    found: dict[str, float] = {}
    for id, kind in order:
        took = seconds.get(kind, max(seconds.values()))
        end = free[0] + max(0.0, took - elapsed.get(id, 0.0))
        heapq.heapreplace(free, end)
        if kind in seconds:
            found[id] = end
    return found

"""Histograms of times, scores and sizes. They are in the database, so that counts never fall, even across restarts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import sqlalchemy as sa

from app.jobs.store import Store
from app.jobs.tables import histograms

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

BOUNDS = {
    "stage_seconds": _SECONDS,
    "job_seconds": _SECONDS,
    # fine in the range of scores against prompts, coarser in that of scores against pictures
    "score": tuple(round(step / 100, 2) for step in (*range(0, 40, 2), *range(40, 101, 5))),
    "gaussians": (1e3, 7e3, 2e4, 5e4, 1e5, 1.5e5, 2e5, 3e5, 5e5, 1e6, 2e6, 4e6),
}
"""The upper bounds of the buckets of each histogram. A last bucket has no bound."""


class Observation(NamedTuple):
    """A value for the histogram of this name. label: of the series, such as "render" or "generate"."""

    name: str
    label: str
    value: float


_KEY = ("name", "label", "bound")


@dataclass
class Histogram:
    """counts: of each bucket, not cumulative; the last counts values above all bounds. total: sum of the values."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)


def observe(store: Store, connection: sa.Connection, observations: Iterable[Observation]) -> None:
    """Adds the values to their histograms."""
    rows = [
        {"name": name, "label": label, "bound": _bound(name, value), "count": 1, "total": value}
        for name, label, value in observations
    ]
    if not rows:
        return
    insert = store.insert(histograms)
    added = {key: histograms.c[key] + insert.excluded[key] for key in ("count", "total")}
    upsert = insert.on_conflict_do_update(index_elements=_KEY, set_=added)
    connection.execute(upsert, sorted(rows, key=itemgetter(*_KEY)))  # a fixed order prevents deadlocks


def read(connection: sa.Connection) -> dict[str, dict[str, Histogram]]:
    """The histograms by name and label."""
    found: dict[str, dict[str, Histogram]] = {name: {} for name in BOUNDS}
    for name, label, bound, count, total in connection.execute(sa.select(histograms).order_by(histograms.c.label)):
        if bounds := BOUNDS.get(name):
            histogram = found[name].setdefault(label, Histogram(bounds))
            histogram.counts[bisect_left(bounds, float(bound))] += count  # by value, as bounds may change
            histogram.total += total
    return found


def _bound(name: str, value: float) -> str:
    """The upper bound of the value's bucket, as Prometheus writes it."""
    bounds = BOUNDS[name]
    index = bisect_left(bounds, value)
    return str(bounds[index]) if index < len(bounds) else "+Inf"

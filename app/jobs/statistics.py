"""Statistics of all jobs: counts, times and results, for /metrics, /v1/stats and quotas."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from app.jobs import histograms, queries, tables
from app.jobs.histograms import Histogram
from app.jobs.lazy_store import LazyStore
from app.jobs.records import Result, StageTime, Stats, Usage

MAX_ROWS = 1_000


class Statistics:
    """Thread-safe. Every method raises DatabaseDown while the database cannot be used."""

    def __init__(self, database: LazyStore) -> None:
        self._database = database

    def counts(self) -> dict[str, int]:
        """The current number of jobs in each state."""
        with self._database.store.reading() as connection:
            return queries.counts(connection)

    def stats(self) -> Stats:
        """The current statistics."""
        now = self._database.clock()
        with self._database.store.reading() as connection:
            return queries.stats(connection, now)

    def histograms(self) -> dict[str, dict[str, Histogram]]:
        """The histograms by name and label."""
        with self._database.store.reading() as connection:
            return histograms.read(connection)

    def usage(self, owner: str, seconds: float) -> Usage:
        """What a caller uses. Jobs of the last `seconds` count as recent."""
        since = self._database.clock() - seconds
        with self._database.store.reading() as connection:
            return queries.usage(connection, owner, since)

    def stage_times(self, after_row: int, limit: int = MAX_ROWS) -> list[StageTime]:
        """The stages finished after row `after_row`, in order."""
        return [StageTime(**row) for row in self._after(tables.stage_times, after_row, limit)]

    def results(self, after_row: int, limit: int = MAX_ROWS) -> list[Result]:
        """The jobs finished after row `after_row`, in order."""
        return [Result(**row) for row in self._after(tables.results, after_row, limit)]

    def _after(self, table: sa.Table, row: int, limit: int) -> Sequence[sa.RowMapping]:
        with self._database.store.reading() as connection:
            return queries.rows_after(connection, table, row, limit)

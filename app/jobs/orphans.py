"""Folders in the asset store that belong to no job in the database. They are quarantined, and removed days later.

An interrupted submission leaves an orphan behind. Many orphans at once mean that the database was lost, restored or
replaced. Then nothing is moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from loguru import logger

from app.config import AssetsConfig
from app.errors import BadFile
from app.jobs.assets import Assets
from app.jobs.clock_guard import DAY, ClockGuard
from app.jobs.facts import warn
from app.jobs.ownership import Ownership
from app.jobs.store import Store
from app.jobs.tables import jobs

MIN_AGE_SECONDS = 3_600.0
"""A younger folder may belong to a submission in progress."""

QUARANTINE = "quarantine"
WARNING = "orphans"
"""The name under which the database keeps why the last sweep was refused."""

AT_ONCE = 500
"""Ids in one query."""

FEW, SHARE = 2, 0.05
"""A sweep moves at most this many orphans, or this fraction of all folders, whichever is more."""

QUARANTINED = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{32})")
TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Quarantined:
    """A folder in quarantine. since: seconds since 1970."""

    job: str
    path: str
    since: float


@dataclass(frozen=True)
class Orphans:
    store: Store
    assets: Assets
    settings: AssetsConfig
    clock: Callable[[], float]
    guard: ClockGuard

    def sweep(self) -> int:
        """Moves old orphans to the quarantine and removes what has been there for assets.quarantine_days.

        Returns how many were moved. Moves nothing if the store belongs to another or a newer database, or if there are
        too many orphans; the log and /readyz then say why.
        """
        if not self.guard.trusted():
            return 0
        ownership = Ownership(self.store, self.assets)
        folders = self.assets.jobs()
        orphans = [id for id in self._unknown(folders) if made(id) < self.clock() - MIN_AGE_SECONDS]
        refusal = self._conflict(ownership) or self._too_many(len(orphans), len(folders))
        warn(self.store, WARNING, refusal)
        if refusal:
            logger.warning(f"orphaned assets are left alone: {refusal}")
            return 0
        ownership.confirm()
        for id in orphans:
            self._quarantine(id)
        for folder in self.quarantined():
            if folder.since < self.clock() - self.settings.quarantine_days * DAY:
                logger.warning(f"removing {folder.path}: {self.settings.quarantine_days:g} days in quarantine")
                self.assets.remove(folder.path)
        return len(orphans)

    def unknown(self) -> list[str]:
        """The ids of job folders that the database does not know, oldest first."""
        return self._unknown(self.assets.jobs())

    def _unknown(self, folders: list[str]) -> list[str]:
        known: set[str] = set()
        for start in range(0, len(folders), AT_ONCE):
            query = sa.select(jobs.c.id).where(jobs.c.id.in_(folders[start : start + AT_ONCE]))
            with self.store.reading() as connection:
                known.update(connection.scalars(query))
        return sorted(id for id in folders if id not in known)

    def quarantined(self) -> list[Quarantined]:
        """The folders in quarantine, oldest first."""
        found = []
        for name in sorted(self.assets.names(QUARANTINE)):
            if match := QUARANTINED.fullmatch(name):
                since = datetime.strptime(match[1], TIME).replace(tzinfo=UTC).timestamp()
                found.append(Quarantined(match[2], f"{QUARANTINE}/{name}", since))
        return found

    def _conflict(self, ownership: Ownership) -> str:
        try:
            return ownership.conflict()
        except BadFile as error:
            return str(error)

    def _too_many(self, orphans: int, folders: int) -> str:
        if orphans <= max(FEW, SHARE * folders):
            return ""
        return (
            f"the database does not know {orphans:,} of the {folders:,} folders in {self.assets.url}, too many "
            "for leftovers: `splatgate assets list` shows them, `adopt` adds them, `purge --unknown` removes them"
        )

    def _quarantine(self, id: str) -> None:
        target = f"{QUARANTINE}/{datetime.fromtimestamp(self.clock(), UTC):{TIME}}-{id}"
        logger.warning(
            f"asset folder {id} belongs to no job: moved to {target} for {self.settings.quarantine_days:g} days"
        )
        self.assets.move(id, target)
        with self.store.writing() as connection:
            self.store.tally(connection, "quarantine", "orphan")


def made(id: str) -> float:
    """When a job id was created, seconds since 1970."""
    return int(id[:12], 16) / 1_000

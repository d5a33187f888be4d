"""Reads stored files again, a few at a time, and compares them with their sha256: a disk may change what it holds.

A damaged file is no longer served: the caller would take it for the one that its ETag and its certificate name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from loguru import logger

from app.errors import NotFound, StorageDown
from app.jobs.assets import Assets
from app.jobs.facts import warn
from app.jobs.store import Store
from app.jobs.tables import assets

WEEK, HOUR = 7 * 86_400.0, 3_600.0
"""Seconds after which a file is read again: a good one, and a damaged one, which may have been restored."""

BYTES_AT_ONCE = 32 * 2**20
"""One call reads no further file after so many bytes."""

FILES_AT_ONCE = 200
WARNING = "damaged files"
"""The name of the warning in /readyz."""


class _File(NamedTuple):
    job: str
    name: str
    path: str
    size: int
    sha256: str
    damaged: bool | None


@dataclass(frozen=True)
class Scrub:
    """clock: seconds since 1970."""

    store: Store
    files: Assets
    clock: Callable[[], float]

    def run(self) -> int:
        """Checks the files that were not checked for longest. Returns how many. Raises StorageDown."""
        checked = read = 0
        for file in self._due():
            if read >= BYTES_AT_ONCE:
                break
            self._record(file, self._damage(file))
            read += file.size
            checked += 1
        self._warn()
        return checked

    def _due(self) -> list[_File]:
        t, now = assets.c, self.clock()
        last = sa.func.coalesce(t.checked, t.modified)
        due = (last < now - WEEK) | (t.damaged.is_(True) & (last < now - HOUR))
        query = sa.select(t.job, t.name, t.path, t.size, t.sha256, t.damaged).where(due)
        with self.store.reading() as connection:
            return [_File(*row) for row in connection.execute(query.order_by(last).limit(FILES_AT_ONCE))]

    def _damage(self, file: _File) -> str:
        """What is wrong with a file; empty if nothing is."""
        try:
            found = self.files.describe(file.path, file.name)
        except NotFound as error:
            return str(error)
        except StorageDown as error:  # of this file only, such as a bad sector of the disk
            if self.files.is_down():
                raise
            return str(error)
        return "" if found.sha256 == file.sha256 else f"its sha256 is {found.sha256}, it was stored with {file.sha256}"

    def _record(self, file: _File, damage: str) -> None:
        same = (assets.c.job == file.job) & (assets.c.path == file.path)
        with self.store.writing(durable=False) as connection:
            change = sa.update(assets).where(same).values(checked=self.clock(), damaged=bool(damage))
            known = connection.execute(change).rowcount  # none: the job was removed meanwhile
        if known and damage and not file.damaged:
            logger.error(f"{file.path}: the file is damaged and is not served any more: {damage}")
        if known and file.damaged and not damage:
            logger.info(f"{file.path}: the file is whole again")

    def _warn(self) -> None:
        query = sa.select(assets.c.path).where(assets.c.damaged.is_(True)).order_by(assets.c.path)
        with self.store.reading() as connection:
            paths = list(connection.scalars(query))
        text = (
            f"{len(paths):,} stored files are damaged, such as {paths[0]}: restore them from a backup" if paths else ""
        )
        warn(self.store, WARNING, text)

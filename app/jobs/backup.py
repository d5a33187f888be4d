"""Backups of the SQLite database, taken while the service writes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from app.config import Config
from app.errors import Unavailable
from app.jobs.database import database_url

PATTERN = "splatgate-*.db"


def back_up(config: Config, folder: Path, keep: int, now: datetime) -> Path:
    """Writes splatgate-<time>.db into `folder`, checks it, and removes all but the newest `keep` backups.

    The copy is made with SQLite's online backup and appears atomically. Raises Unavailable if the database is
    PostgreSQL or does not exist, if the copy cannot be written, or if it fails SQLite's integrity check.
    """
    url = database_url(config)
    if url.get_backend_name() != "sqlite":
        raise Unavailable(
            "the database is PostgreSQL: back it up with pg_dump on its host; the files of the jobs are not in it"
        )
    source = Path(str(url.database))
    if not source.is_file():
        raise Unavailable(f"{source}: no such database; is serve.data the service's data folder?")
    target = folder / f"splatgate-{now:%Y%m%dT%H%M%SZ}.db"
    partial = target.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(source, partial)
        partial.replace(target)
        for old in sorted(folder.glob(PATTERN))[:-keep]:
            old.unlink()
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"{target}: cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)  # in one step: in several it would restart at every commit; in WAL mode it blocks no writer
        copy.execute("PRAGMA journal_mode=DELETE")  # a single file, without a -wal beside it
        answer = copy.execute("PRAGMA quick_check").fetchone()[0]
    if answer != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged ({answer}), so is {source}: restore an older backup")

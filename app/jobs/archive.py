"""One tar file with the database and the files of all jobs, and restoring the data folder from it.

For a service with SQLite and a local asset store. The database is copied before the files, so that the files of every
result in it are in the archive, unless retention removed the job in between.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from app.config import Config
from app.errors import BadFile, Conflict, Unavailable
from app.jobs.assets import ASSETS_FOLDER as ASSETS
from app.jobs.assets import JOB_ID, shown
from app.jobs.backup import back_up
from app.jobs.database import DATABASE_FILE as DATABASE
from app.jobs.ownership import MARKER


@dataclass(frozen=True)
class Archived:
    """What an archive holds. bytes: of the files of the jobs."""

    jobs: int
    files: int
    bytes: int


def write_archive(config: Config, stream: BinaryIO, now: datetime) -> Archived:
    """Writes the archive while the service runs. Raises Unavailable."""
    data = _data_folder(config)
    assets = data / ASSETS
    jobs: set[str] = set()
    files = size = 0
    with (
        tempfile.TemporaryDirectory(prefix=".backup-", dir=data if data.is_dir() else None) as folder,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, assets / MARKER, f"{ASSETS}/{MARKER}")  # before the database: must not be newer than it
        _add(archive, back_up(config, Path(folder), 1, now), DATABASE)
        for path in _job_files(assets):
            if (added := _add(archive, path, f"{ASSETS}/{path.relative_to(assets)}")) is not None:
                jobs.add(path.relative_to(assets).parts[0])
                files, size = files + 1, size + added
    return Archived(len(jobs), files, size)


def _job_files(assets: Path) -> Iterator[Path]:
    """The files of jobs; neither those in quarantine nor temporary ones."""
    for folder in sorted(assets.glob("*")):
        if JOB_ID.fullmatch(folder.name):
            yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _add(archive: tarfile.TarFile, path: Path, name: str) -> int | None:
    """Adds a file and returns its size; None if there is no such file any more."""
    try:
        with path.open("rb") as stream:
            entry = archive.gettarinfo(arcname=name, fileobj=stream)
            archive.addfile(entry, stream)
            return entry.size
    except FileNotFoundError:
        return None


def restore_archive(config: Config, stream: BinaryIO, now: datetime) -> Path | None:
    """Replaces database and files by those of the archive, and returns the folder to which the old ones were moved.

    None if there were none. Nothing is changed before the whole archive has been read and its database checked.
    Raises Conflict if the service runs, BadFile if the archive is not a complete one of ours, Unavailable.
    """
    data = _data_folder(config)
    data.mkdir(parents=True, exist_ok=True)
    _settle(data / DATABASE)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=data) as folder:
        incoming = Path(folder)
        _unpack(stream, incoming)
        _check(incoming / DATABASE)
        replaced = data / f"replaced-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        old = [
            path for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", ASSETS) if (path := data / name).exists()
        ]
        if old:
            replaced.mkdir()
        for path in old:
            path.rename(replaced / path.name)
        (incoming / ASSETS).mkdir(exist_ok=True)
        for name in (ASSETS, DATABASE):
            (incoming / name).rename(data / name)
    return replaced if old else None


def _data_folder(config: Config) -> Path:
    if config.database.url or config.assets.url:
        elsewhere = shown(config.assets.url) or "the data folder"
        raise Unavailable(
            "an archive holds SQLite and the files in the data folder: back up a PostgreSQL with pg_dump, and the "
            f"files, which are in {elsewhere}, with the tools of that store"
        )
    return Path(config.serve.data)


def _settle(database: Path) -> None:
    """Writes the WAL of the old database into it, which fails if a process has it open."""
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Conflict(f"{database}: the service is running: stop it, then restore") from None
    except sqlite3.DatabaseError:
        return  # damaged: it is moved away as it is


def _unpack(stream: BinaryIO, folder: Path) -> None:
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                known = entry.name == DATABASE or path.parts[:1] == (ASSETS,)
                content = archive.extractfile(entry) if entry.isreg() and known and ".." not in path.parts else None
                if content is None:
                    raise BadFile(f"the archive has {entry.name!r}: is it from `splatgate backup --archive`?")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError) as error:
        raise BadFile(f"the archive cannot be read: {error}; it is incomplete, or another kind of file") from None


def _check(database: Path) -> None:
    found = "is missing"
    if database.is_file():
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            found = "fails its check"
            connection.execute("SELECT 1 FROM jobs LIMIT 1")
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise BadFile(f"the database in the archive {found}: use another archive")

"""The opened database: reading, writing, and creating its tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from app.config import Config
from app.errors import DatabaseDamaged, DatabaseDown
from app.jobs.database import (
    UTF8,
    check_file,
    database_url,
    engine_options,
    explained,
    prepare_nondurable_sqlite,
    prepare_postgresql,
    prepare_sqlite,
)
from app.jobs.tables import metadata, tallies

QUEUE = "jobs"
"""The DBOS queue; its workflow has the job's id."""

APPLICATION = "splatgate"
"""Our name and version in DBOS. Fixed, so that jobs queued before an upgrade run after it."""

LOCK, PREPARING = 0x53504C54, 0x53504C55
"""PostgreSQL advisory locks: one process at a time checks and extends the queue, or migrates the tables."""

MIGRATION_SECONDS = 60.0
"""How long a process waits while another one migrates the database, before it fails and starts over."""


class Store:
    """The opened database. Thread-safe; one for each process.

    prepare: whether to create missing tables; not needed for reading only.
    engine: its commits are durable. nondurable: with SQLite, a power failure may lose its last commits.
    damaged: a statement found the file of SQLite damaged since it was opened.
    Raises ConfigError for an unsupported URL, DatabaseDown if it cannot be opened, read or written, DatabaseDamaged.
    """

    def __init__(self, config: Config, *, prepare: bool = True) -> None:
        self.url = database_url(config)
        self.engine = sa.create_engine(self.url, **engine_options(self.url))
        self.nondurable = self.engine
        self.damaged = False
        if self.sqlite:
            sa.event.listen(self.engine, "connect", prepare_sqlite)
            self.nondurable = sa.create_engine(self.url, **engine_options(self.url))
            sa.event.listen(self.nondurable, "connect", prepare_nondurable_sqlite)
        else:
            sa.event.listen(self.engine, "connect", prepare_postgresql)
        try:
            if prepare:
                self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def close(self) -> None:
        self.engine.dispose()
        self.nondurable.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, alone: bool = False, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction. alone: no other such block runs at the same time.

        durable: the transaction is on disk when the block has ended. Otherwise a crash of the database may undo it,
        though not that of a process; this is for progress, heartbeats and the like.
        """
        engine = self.engine if durable else self.nondurable
        with self._explained(), engine.begin() as connection:
            if self.sqlite:
                # a transaction that begins as a reader cannot wait for the write lock
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                return
            if not durable:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            if alone:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self.url):
                yield
        except DatabaseDamaged:
            self.damaged = True
            raise

    def probe(self) -> None:
        """Writes a row and removes it. Raises DatabaseDown if the database cannot be written."""
        with self.writing(durable=False) as connection:
            self.tally(connection, "probe", "")
            connection.execute(sa.delete(tallies).where(tallies.c.what == "probe"))

    def insert(self, table: sa.Table) -> Any:
        """INSERT of this database's dialect, which has ON CONFLICT."""
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)

    def tally(self, connection: sa.Connection, what: str, label: str, count: int = 1) -> None:
        """Adds to a count that only rises."""
        insert = self.insert(tallies).values(what=what, label=label[:128], count=count)
        added = {"count": tallies.c.count + insert.excluded.count}
        connection.execute(insert.on_conflict_do_update(index_elements=["what", "label"], set_=added))

    def count_ends(self, kind: str, causes: tuple[str, ...]) -> None:
        """Counts the ends of processes of this kind, by cause."""
        if causes:
            with self.writing(durable=False) as connection:
                for cause in causes:
                    self.tally(connection, "death", f"{kind}: {cause}")

    def _prepare(self) -> None:
        if self.sqlite:
            _make_folder(self.url)
            check_file(self.url)
        with self.migrating():
            with self.writing() as connection:
                metadata.create_all(connection)
                _add_missing_columns(connection)
            self._prepare_dbos()

    @contextmanager
    def migrating(self) -> Iterator[None]:
        """Excludes other processes from migrating the database. Raises DatabaseDown after MIGRATION_SECONDS.

        DBOS's migrations create indexes CONCURRENTLY, which waits for every open transaction and running statement. To
        avoid a deadlock, the lock is not held in a transaction, and no statement waits for it.
        """
        if self.sqlite:
            yield  # the migrations take its write lock themselves
            return
        with explained(self.url), self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            until = time.monotonic() + MIGRATION_SECONDS
            while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(PREPARING))):
                if time.monotonic() > until:
                    raise DatabaseDown(f"database {self.url.render_as_string()}: another process is migrating it")
                time.sleep(0.1)
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(PREPARING)))

    def _prepare_dbos(self) -> None:
        """Creates DBOS's tables if there are none. Existing ones are migrated when an engine launches DBOS."""
        from dbos import DBOS

        with explained(self.url):
            if not sa.inspect(self.engine).has_table("workflow_status", schema=None if self.sqlite else "dbos"):
                logging.getLogger("dbos").setLevel(logging.WARNING)
                url = self.url if self.sqlite else self.url.update_query_dict(UTF8)
                DBOS.migrate(url.render_as_string(hide_password=False))


def _add_missing_columns(connection: sa.Connection) -> None:
    """Adds the columns that tables of an older release lack; they are NULL in old rows."""
    there = sa.inspect(connection)
    for table in metadata.tables.values():
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")


def _make_folder(url: sa.URL) -> None:
    assert url.database
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseDown(f"{folder}: cannot hold the database: {error.strerror}; set serve.data") from None

"""The database: our tables, beside DBOS's in the same one, and how each of the two kinds is opened.

SQLite (a file in the data folder) for one host, PostgreSQL by its URL for many. What is committed is on the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from app.config import Config
from app.errors import ConfigError, DatabaseDown
from app.gate import MetricValue
from app.jobs.records import Engine, Job
from app.reason import Reason
from app.stage import Stage

QUEUE = "jobs"
"""The DBOS queue; its workflow has the job's id."""

APPLICATION = "splatgate"
"""Name and version that DBOS knows us by. Fixed: jobs that wait while we are upgraded are not left behind."""

LOCK, PREPARING = 0x53504C54, 0x53504C55
"""PostgreSQL advisory locks: one process at a time counts the queue and adds to it, or prepares the tables."""

MIGRATION_SECONDS = 60.0
"""A process waits for so long while another one migrates the database, and then tries again from the start."""

PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""PostgreSQL's, in seconds, the last in milliseconds: a network that is gone without a word is noticed within a minute.
As delivered, the kernel would wait for a quarter of an hour, and on a connection that only listens for hours."""

UTF8 = {"client_encoding": "utf8"}
"""PostgreSQL's: from a database without an encoding (SQL_ASCII) text would come as bytes."""

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(255), unique=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("format", sa.String(8), nullable=False, default="ply"),  # unused; databases of earlier releases need it
    sa.Column("profile", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger),  # rises from order to order while any waits; empty in an older release's rows
    sa.Column("source", sa.String(32)),
    sa.Column("size", sa.Integer),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.Text, nullable=False, default=""),
    sa.Column("fraction", sa.Float),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("deadline", sa.Float),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reasons", sa.JSON, nullable=False, default=list),
    sa.Column("score", sa.Float),
    sa.Column("scores", sa.JSON, nullable=False, default=list),
    sa.Column("metrics", sa.JSON, default=dict),  # empty in an older release's rows
    sa.Column("gaussians", sa.BigInteger),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("engine", sa.String(64)),  # the name of the one that claimed it last, and the id of that process:
    sa.Column("instance", sa.String(32)),
    sa.Column("crash_report", sa.Text),  # what that process died of, where it did
    sa.Column("version", sa.BigInteger, nullable=False, default=1),
    sa.Column("starred", sa.Boolean, default=False),  # kept by retention
    sa.Column("owner", sa.String(64)),  # the caller, by the name of its token; empty in an older release's rows
    sa.Column("cancelled", sa.Boolean, nullable=False, default=False),  # asked for; takes effect between stages
    sa.Column("starts", sa.Integer, nullable=False, default=0),  # engines that began it and did not live to end it
    sa.Index("jobs_queue", "state", "priority", "sequence"),
    sa.Index("jobs_prompt", "prompt"),
)

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("job", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("path", sa.String(128), nullable=False),  # relative to assets.url
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("modified", sa.Float, nullable=False),
)

engines = sa.Table(
    "engines",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # of one process
    sa.Column("name", sa.String(64)),  # of the device, which its next process has too; empty in an older release's rows
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False, default=""),
    sa.Column("heartbeat", sa.Float, nullable=False),
    sa.Column("beats", sa.BigInteger, nullable=False, default=0),  # rises with each; no clock has to be trusted
    sa.Column("progress", sa.Float),
    sa.Column("eta", sa.Float),
    sa.Column("job", sa.String(32)),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("memory_used", sa.BigInteger),
    sa.Column("memory_total", sa.BigInteger),
)

ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts INTEGER keys up by itself

stage_times = sa.Table(
    "stage_times",
    metadata,
    sa.Column("row", ROW, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(32), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("row", ROW, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(32), nullable=False, unique=True),  # a job ends once
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("score", sa.Float),
    sa.Column("gaussians", sa.BigInteger),
    sa.Column("seconds", sa.Float, nullable=False),
)

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("what", sa.String(16), primary_key=True),
    sa.Column("label", sa.String(128), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)


info = sa.Table(
    "info",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""Facts about the database as a whole: its id, warnings to operators."""

WARNING = "warning: "


class Store:
    """The opened database. Thread-safe; one for each process.

    prepare: whether tables that are missing are made; who only reads what others wrote does without.
    engine: its commits are on the disk. light: on SQLite, the last ones may be lost in a power cut.
    Raises ConfigError for a URL of another kind, DatabaseDown where it cannot be opened, read or written.
    """

    def __init__(self, config: Config, *, prepare: bool = True) -> None:
        self.url = database_url(config)
        self.engine = sa.create_engine(self.url, **_options(self.url))
        self.light = self.engine
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            self.light = sa.create_engine(self.url, **_options(self.url))
            sa.event.listen(self.light, "connect", _prepare_light_sqlite)
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
        self.light.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with explained(self.url), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """One transaction, on the disk when the block has ended. alone: no other such block runs meanwhile."""
        with explained(self.url), self.engine.begin() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # a reader that turns writer half-way could only fail
                yield connection
                return
            if alone:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            yield connection

    @contextmanager
    def noting(self) -> Iterator[sa.Connection]:
        """A transaction for what a crash of the database may lose, but no death of a process: progress, heartbeats."""
        with explained(self.url), self.light.begin() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield connection

    def probe(self) -> None:
        """Writes something and takes it away again. Raises DatabaseDown where nothing can be written."""
        with self.noting() as connection:
            self.tally(connection, "probe", "")
            connection.execute(sa.delete(tallies).where(tallies.c.what == "probe"))

    def tally(self, connection: sa.Connection, what: str, label: str, count: int = 1) -> None:
        """Adds to a count that only rises."""
        insert = _insert(self.sqlite)(tallies).values(what=what, label=label[:128], count=count)
        added = {"count": tallies.c.count + insert.excluded.count}
        connection.execute(insert.on_conflict_do_update(index_elements=["what", "label"], set_=added))

    def put(self, connection: sa.Connection, name: str, value: str) -> None:
        """Sets a fact about the database."""
        insert = _insert(self.sqlite)(info).values(name=name, value=value)
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def set_default(self, connection: sa.Connection, name: str, value: str) -> None:
        """Sets a fact about the database where it has none of this name."""
        connection.execute(_insert(self.sqlite)(info).values(name=name, value=value).on_conflict_do_nothing())

    def warn(self, name: str, text: str) -> None:
        """Keeps a warning for /readyz under this name; an empty text withdraws it."""
        if self.warnings().get(name, "") != text:
            with self.writing() as connection:
                self.put(connection, WARNING + name, text)

    def warnings(self) -> dict[str, str]:
        """The warnings in force, by name."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(info).where(info.c.name.startswith(WARNING), info.c.value != "")).all()
        return {row.name.removeprefix(WARNING): row.value for row in rows}

    def count_ends(self, kind: str, causes: tuple[str, ...]) -> None:
        """Counts processes of this kind that ended and were restarted."""
        if causes:
            with self.noting() as connection:
                for cause in causes:
                    self.tally(connection, "death", f"{kind}: {cause}")

    def _prepare(self) -> None:
        if self.sqlite:
            _make_folder(self.url)
        with self.migrating():
            with self.writing() as connection:
                metadata.create_all(connection)
                _add_missing_columns(connection)
            self._prepare_dbos()

    @contextmanager
    def migrating(self) -> Iterator[None]:
        """While the block runs, no other process migrates the database. Raises DatabaseDown after MIGRATION_SECONDS.

        DBOS's migrations create indexes CONCURRENTLY, which waits for every open transaction and running statement of
        the database. So the lock is neither held in a transaction nor waited for in a statement: that would deadlock.
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
        """DBOS's own tables, where there are none. Newer ones come with the engines, which migrate at launch."""
        from dbos import DBOS

        with explained(self.url):
            if not sa.inspect(self.engine).has_table("workflow_status", schema=None if self.sqlite else "dbos"):
                logging.getLogger("dbos").setLevel(logging.WARNING)
                url = self.url if self.sqlite else self.url.update_query_dict(UTF8)
                DBOS.migrate(url.render_as_string(hide_password=False))


def _add_missing_columns(connection: sa.Connection) -> None:
    """Brings tables of an older release up to this one's: what is new in them may be empty in their old rows."""
    there = sa.inspect(connection)
    for table in metadata.tables.values():
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")


def database_url(config: Config) -> sa.URL:
    """Where the database is. Raises ConfigError for what is neither SQLite nor PostgreSQL."""
    try:
        url = sa.make_url(config.database.url or f"sqlite:///{Path(config.serve.data) / 'splatgate.db'}")
    except ArgumentError:
        raise ConfigError(
            "database.url is no URL: use postgresql://user:password@host/name or leave it empty"
        ) from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url
    raise ConfigError(
        f"database.url is of kind {url.drivername!r}: use postgresql://user:password@host/name, or leave it empty "
        "for SQLite in the data folder"
    )


@contextmanager
def explained(url: sa.URL) -> Iterator[None]:
    """Turns the database's failures into DatabaseDown, one line with the remedy and without the password."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise  # the caller's own business
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise DatabaseDown(f"database {url.render_as_string()}: {reason}; {_remedy(reason)}") from error


DAMAGED = (
    "the file is damaged: restore it from a backup, or move it away and take the results in its asset store into a new "
    "database with `splatgate assets adopt`"
)


def _remedy(reason: str) -> str:
    remedies = {
        "not a database": DAMAGED,
        "malformed": DAMAGED,
        "full": "free space on the disk of the data folder",
        "readonly": "make the data folder writable",
        "unable to open": "make the data folder writable",
        "Read-only": "make the data folder writable",
        "Permission denied": "make the data folder writable",
        "locked": "another process holds it: try again, and see that one service only uses this data folder",
    }
    return next((advice for word, advice in remedies.items() if word in reason), "check that it runs and database.url")


def _options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"pool_size": 16, "max_overflow": 64}
    return {"pool_size": 8, "max_overflow": 24, "pool_pre_ping": True, "connect_args": PATIENCE | UTF8}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"  # as DBOS's own engine: writers take turns instead of failing
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode the default may lose the last commits in a power cut
    connection.execute("PRAGMA foreign_keys=ON")


def _prepare_light_sqlite(connection: Any, record: Any) -> None:
    _prepare_sqlite(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")  # on the disk with the next commit of the other connections


def _make_folder(url: sa.URL) -> None:
    assert url.database
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseDown(f"{folder}: cannot hold the database: {error.strerror}; set serve.data") from None


def _insert(sqlite: bool) -> Any:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.dialects import sqlite as sqlite_dialect

    return sqlite_dialect.insert if sqlite else postgresql.insert


def to_job(row: sa.RowMapping | dict[str, Any], names: tuple[str, ...]) -> Job:
    hidden = {"key", "digest", "cancelled", "starts", "format", "instance", "crash_report"}
    values = {name: value for name, value in row.items() if name not in hidden}
    stage = row["stage"] if row["stage"] in {*Stage} else ""  # an older release's rows hold its log line
    reasons = [Reason.from_stored(reason) for reason in row["reasons"]]
    told = {"reasons": tuple(map(str, reasons)), "reason_codes": tuple(reason.code for reason in reasons)}
    metrics = {name: MetricValue(**each) for name, each in (row["metrics"] or {}).items()}
    lists = told | {
        "scores": tuple(row["scores"]),
        "metrics": metrics,
        "assets": names,
        "starred": bool(row["starred"]),
    }
    return Job(**values | lists | {"stage": stage and Stage(stage)})


def to_engine(row: sa.RowMapping) -> Engine:
    values = {name: value for name, value in row.items() if name != "beats"}
    return Engine(**values | {"name": row["name"] or row["id"]})

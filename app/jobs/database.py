"""The URL of the database, the setup of its connections, and messages for its failures.

SQLite (a file in the data folder) for one host, PostgreSQL for many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from app.config import Config
from app.errors import ConfigError, DatabaseDamaged, DatabaseDown

TIMEOUTS = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""For PostgreSQL, in seconds, the last in milliseconds. A lost network is detected within a minute; with the
defaults it would take a quarter of an hour, or hours on an idle connection."""

SERVER_TIMEOUTS = {"statement_timeout": 60, "lock_timeout": 30, "idle_in_transaction_session_timeout": 20}
"""For PostgreSQL, in seconds."""

DATABASE_FILE = "splatgate.db"
"""Of SQLite, in the data folder."""

UTF8 = {"client_encoding": "utf8"}
"""For PostgreSQL: without it, a database with encoding SQL_ASCII would return text as bytes."""


def database_url(config: Config) -> sa.URL:
    """The URL of the database. Raises ConfigError if it is neither SQLite nor PostgreSQL."""
    try:
        url = sa.make_url(config.database.url or f"sqlite:///{Path(config.serve.data) / DATABASE_FILE}")
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
    """Turns database errors into DatabaseDown: one line with the remedy and without the password."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise  # for the caller to handle
    except (SQLAlchemyError, sqlite3.Error, OSError, UnicodeDecodeError, JSONDecodeError) as error:
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        remedy = _remedy(reason)
        message = f"database {url.render_as_string()}: {reason}; {remedy}"
        raise (DatabaseDamaged if remedy == DAMAGED else DatabaseDown)(message) from error


def check_file(url: sa.URL) -> None:
    """Raises DatabaseDamaged if SQLite's quick check finds that the file is damaged. A missing file is not."""
    path = Path(url.database or "")
    if not path.is_file():
        return
    with explained(url), closing(sqlite3.connect(path, timeout=30)) as connection:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        reason = " ".join(found.split())
        raise DatabaseDamaged(f"database {url.render_as_string()}: {reason}; {DAMAGED}")


DAMAGED = (
    "the file is damaged: restore it from a backup, or move it away and add the results in its asset store to a new "
    "database with `splatgate assets adopt`"
)


def _remedy(reason: str) -> str:
    remedies = {
        "not a database": DAMAGED,
        "malformed": DAMAGED,
        "decode": DAMAGED,  # text that is no UTF-8
        "char ": DAMAGED,  # or no JSON
        "full": "free space on the disk of the data folder",
        "readonly": "make the data folder writable",
        "unable to open": "make the data folder writable",
        "Read-only": "make the data folder writable",
        "Permission denied": "make the data folder writable",
        "locked": "another process holds it: try again, and make sure that only one service uses this data folder",
    }
    return next((advice for word, advice in remedies.items() if word in reason), "check that it runs and database.url")


def engine_options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"pool_size": 16, "max_overflow": 64}
    return {"pool_size": 8, "max_overflow": 24, "pool_pre_ping": True, "connect_args": TIMEOUTS | UTF8}


def prepare_postgresql(connection: Any, _record: Any) -> None:
    """A process that stands still in a transaction must not hold its locks for ever."""
    for name, seconds in SERVER_TIMEOUTS.items():
        connection.execute(f"SET {name} = '{seconds}s'")
    connection.commit()


def prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"  # like DBOS's own engine: writers wait for each other instead of failing
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA journal_mode=WAL")
    # in WAL mode the default may lose the last commits in a power failure
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def prepare_nondurable_sqlite(connection: Any, record: Any) -> None:
    prepare_sqlite(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")  # durable with the next commit of the other engine

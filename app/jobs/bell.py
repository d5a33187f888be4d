"""Hearing of commits, so that whoever waits for one need not look often.

SQLite has a count of the commits of others for each connection, cheap to look at. PostgreSQL notifies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.jobs.store import CHANNEL, Store, explained

LOOK_SECONDS = 0.005
"""Between two looks at SQLite's count."""

Wait = Callable[[float], None]
"""Returns after that many seconds; sooner where something was committed since it last returned."""


@contextmanager
def hearing(store: Store) -> Iterator[Wait]:
    """For one thread, on a connection of its own. Raises DatabaseDown, in the waits too."""
    with explained(store.url), store.engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.detach()  # it is closed afterwards: nobody else shall get what was notified here
        yield _counted(connection) if store.sqlite else _notified(connection)


def _counted(connection: sa.Connection) -> Wait:
    cursor = connection.connection.cursor()

    def count() -> int:
        return int(cursor.execute("PRAGMA data_version").fetchone()[0])

    known = count()

    def wait(seconds: float) -> None:
        nonlocal known
        end = time.monotonic() + seconds
        while (now := count()) == known and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        known = now

    return wait


def _notified(connection: sa.Connection) -> Wait:
    from psycopg import Error

    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
    driver: Any = connection.connection.dbapi_connection

    def wait(seconds: float) -> None:
        try:
            for _ in driver.notifies(timeout=seconds, stop_after=1):
                pass  # those that came with it are taken along
        except Error as error:
            raise OperationalError("LISTEN", None, error) from error

    return wait

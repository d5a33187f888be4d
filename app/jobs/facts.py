"""Key-value data about the whole database, including the current warnings to operators."""

from __future__ import annotations

import sqlalchemy as sa

from app.jobs.store import Store
from app.jobs.tables import info

_WARNING = "warning: "


def read_facts(store: Store) -> dict[str, str]:
    """The facts by name."""
    with store.reading() as connection:
        return {row.name: row.value for row in connection.execute(sa.select(info))}


def set_fact(store: Store, connection: sa.Connection, name: str, value: str) -> None:
    insert = store.insert(info).values(name=name, value=value)
    connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def set_default(store: Store, connection: sa.Connection, name: str, value: str) -> None:
    """Sets a fact unless it is set."""
    connection.execute(store.insert(info).values(name=name, value=value).on_conflict_do_nothing())


def warn(store: Store, name: str, text: str) -> None:
    """Sets the warning of this name for /readyz; an empty text clears it."""
    if read_warnings(store).get(name, "") != text:
        with store.writing() as connection:
            set_fact(store, connection, _WARNING + name, text)


def read_warnings(store: Store) -> dict[str, str]:
    """The current warnings, by name."""
    facts = read_facts(store).items()
    return {name.removeprefix(_WARNING): text for name, text in facts if text and name.startswith(_WARNING)}

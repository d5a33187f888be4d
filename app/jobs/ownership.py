"""Which database an asset store belongs to. Nothing is removed from a store that belongs to another one.

The store has a marker with the id of its database and a generation, which rises each time the database confirms its
ownership. If the marker has a higher generation than the database, an older copy of the database was restored.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass

from app.errors import BadFile, NotFound
from app.jobs.assets import Assets
from app.jobs.facts import read_facts, set_default, set_fact
from app.jobs.store import Store

MARKER = "splatgate-store.json"
DATABASE_ID, GENERATION = "database_id", "generation"


@dataclass(frozen=True)
class Marker:
    """The owner of a store. database: its id, hex; generation: of the last confirmation."""

    database: str
    generation: int


@dataclass(frozen=True)
class Ownership:
    """One database and one asset store.

    Methods raise DatabaseDown, StorageDown, Unavailable, and BadFile if the marker cannot be read.
    """

    store: Store
    assets: Assets

    def own(self) -> Marker:
        """This database's id and generation. The first call creates them."""
        values = read_facts(self.store)
        if DATABASE_ID not in values:
            with self.store.writing() as connection:
                set_default(self.store, connection, DATABASE_ID, secrets.token_hex(16))
                set_default(self.store, connection, GENERATION, "0")
            return self.own()
        return Marker(values[DATABASE_ID], int(values[GENERATION]))

    def marker(self) -> Marker | None:
        """The marker of the store, or None."""
        try:
            values = json.loads(self.assets.read(MARKER))
            return Marker(str(values["database"]), int(values["generation"]))
        except NotFound:
            return None
        except (ValueError, TypeError, KeyError):
            raise BadFile(
                f"{self.assets.url}/{MARKER}: is damaged; remove it and run `splatgate assets adopt`, "
                "which writes it again"
            ) from None

    def conflict(self) -> str:
        """Why this database must not remove anything from the store; empty if it may.

        A store without a marker is no conflict: it is new, or from a release that wrote no marker.
        """
        marker, own = self.marker(), self.own()
        if marker and marker.database != own.database:
            return (
                f"the asset store {self.assets.url} belongs to another database ({marker.database[:8]}, this one is "
                f"{own.database[:8]}): give this service an assets.url of its own, or, if the other database is "
                "gone, run `splatgate assets adopt --take-over`"
            )
        if marker and marker.generation > own.generation:
            return (
                f"the database is older than the asset store {self.assets.url} (an older backup was restored): run "
                "`splatgate assets adopt` to add the results that it does not know"
            )
        return ""

    def confirm(self) -> None:
        """Writes the marker, with a generation higher than that of any earlier copy of this database."""
        own = self.own()
        seen = self.marker()
        generation = max(own.generation, seen.generation if seen else 0) + 1
        with self.store.writing() as connection:
            set_fact(self.store, connection, GENERATION, str(generation))
        self.assets.put(MARKER, json.dumps(asdict(Marker(own.database, generation))).encode())

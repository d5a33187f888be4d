"""Taking a request, and taking it back. Row, files and place in the queue are stored together or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from app.config import Config
from app.errors import Conflict, KeyReused, NotFound, QueueFull
from app.jobs import queries, tables
from app.jobs.assets import Assets, Stored, stored_bytes
from app.jobs.fair_queue import cost, next_sequence
from app.jobs.job_request import check, new_id, picture_name
from app.jobs.queue import JobQueue
from app.jobs.records import JobRequest
from app.jobs.storage_check import check_storage
from app.jobs.store import Store
from app.jobs.webhooks import add_webhook
from app.splat import formats


@dataclass(frozen=True)
class Submission:
    """Takes requests. clock: seconds since 1970."""

    config: Config
    store: Store
    queue: JobQueue
    assets: Assets
    clock: Callable[[], float]

    def take(self, request: JobRequest, key: str | None, shared: bool, owner: str | None) -> str:
        """The id of the job; see Jobs.submit."""
        check(request, key, self.config)
        if key and (known := self._known(key, request)):
            return known
        row = self._row(request, key) | {"owner": owner}
        given = self._keep_files(request, row["id"])
        try:
            with self.store.writing(alone=True) as connection:
                twin = _join(connection, row) if shared and not key else None
                if not twin:
                    check_storage(self.config, self.assets)
                    self._check_queue(connection, request)
                    sequence = next_sequence(connection, owner, request.priority, cost(request, self.config))
                    connection.execute(sa.insert(tables.jobs), row | {"sequence": sequence})
                    _insert_assets(connection, row["id"], given, row["created"])
                    if request.webhook_url:
                        add_webhook(connection, row["id"], request.webhook_url, row["created"])
                    self.queue.add(connection, row["id"], request.priority, sequence)
        except IntegrityError:  # the key was taken between the look and the insert
            self.assets.remove(row["id"])
            known = self._known(key or "", request)
            if not known:
                raise
            return known
        except Exception:
            if given:
                self.assets.remove(row["id"])
            raise
        if twin and given:
            self.assets.remove(row["id"])
        return str(twin or row["id"])

    def _known(self, key: str, request: JobRequest) -> str | None:
        query = sa.select(tables.jobs.c.id, tables.jobs.c.digest).where(tables.jobs.c.key == key)
        with self.store.reading() as connection:
            row = connection.execute(query).first()
        if not row:
            return None
        if row.digest != request.digest():
            raise KeyReused(f"this Idempotency-Key was used for job {row.id} with another body: take a new key")
        return str(row.id)

    def _row(self, request: JobRequest, key: str | None) -> dict[str, Any]:
        now, defaults = self.clock(), self.config.generate
        return {
            "id": new_id(now),
            "key": key,
            "digest": request.digest(),
            "kind": request.kind,
            "prompt": request.prompt,
            "seed": defaults.seed if request.seed is None else request.seed,
            "attempts": request.attempts or defaults.attempts,
            "profile": self.config.profile.name,
            "priority": request.priority,
            "source": request.source,
            "size": request.size,
            "trellis": dict(request.trellis),
            "state": "QUEUED",
            "created": now,
            "deadline": None if request.deadline_seconds is None else now + request.deadline_seconds,
        }

    def _keep_files(self, request: JobRequest, id: str) -> list[Stored]:
        """Stores what came with the request; before its row, so that no engine can miss it."""
        given = []
        if request.picture is not None:
            given.append((picture_name(request.picture), request.picture))
        if request.splat is not None:
            given.append((formats.input_name(request.splat), request.splat))
        for name, data in given:
            self.assets.put(f"{id}/input/{name}", data)
        return [stored_bytes(name, f"{id}/input/{name}", data) for name, data in given]

    def _check_queue(self, connection: sa.Connection, request: JobRequest) -> None:
        if request.source:
            _check_source(connection, request.source)
        waiting, limit = queries.count(connection, tables.jobs.c.state == "QUEUED"), self.config.jobs.max_queued
        if waiting >= limit:
            median = queries.median_seconds(connection, request.kind)
            after = max(1, math.ceil(median)) if median is not None else 30
            raise QueueFull(f"{waiting:,} jobs wait, jobs.max_queued is {limit:,}: try again in {after} s", after)


def cancel(connection: sa.Connection, id: str, now: float) -> bool:
    """Ends a job that waits; marks one that runs, so that its engine stops it. Whether it has ended by that."""
    t = tables.jobs.c
    change = {"cancelled": True, "version": t.version + 1}
    ended = {"state": "CANCELLED", "stage": "", "finished": now, "error": "cancelled by the caller"}
    waiting, runs = (t.id == id) & (t.state == "QUEUED"), (t.id == id) & (t.state == "RUNNING")
    if connection.execute(sa.update(tables.jobs).where(waiting).values(**ended, **change)).rowcount:
        return True
    connection.execute(sa.update(tables.jobs).where(runs).values(**change))
    return False


def _check_source(connection: sa.Connection, source: str) -> None:
    names = queries.asset_names(connection, [source])
    state = connection.scalar(sa.select(tables.jobs.c.state).where(tables.jobs.c.id == source))
    if state is None:
        raise NotFound(f"no job {source[:64]!r}: source names a finished job")
    if formats.main_asset() not in names.get(source, ()):
        raise Conflict(f"job {source} is {state} and has no splat: a turntable shows the splat of a finished job")


def _insert_assets(connection: sa.Connection, id: str, files: list[Stored], now: float) -> None:
    if files:
        connection.execute(sa.insert(tables.assets), [{"job": id, "modified": now, **vars(file)} for file in files])


def _join(connection: sa.Connection, row: dict[str, Any]) -> str | None:
    """The id of a job that waits or runs and is like this row; it gets the deadline of this row."""
    t = tables.jobs.c
    alike = t.key.is_(None) & (t.digest == row["digest"]) & t.state.in_(("QUEUED", "RUNNING")) & ~t.cancelled
    alike &= t.owner.is_not_distinct_from(row["owner"])
    twin = connection.scalar(sa.select(t.id).where(alike).order_by(t.id).limit(1))
    if twin:
        change = {"deadline": row["deadline"], "version": t.version + 1}
        connection.execute(sa.update(tables.jobs).where(t.id == twin).values(**change))
    return twin

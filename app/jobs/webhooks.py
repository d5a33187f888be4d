"""Pending webhooks, in the database from the submission of a job until they are delivered or given up."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from app.jobs import queries
from app.jobs.records import ENDED, Job
from app.jobs.store import Store
from app.jobs.tables import jobs, webhooks

FIRST_SECONDS, FACTOR, MOST_SECONDS = 10.0, 3.0, 3_600.0
"""The pause after the first failure, and its growth up to an hour."""

MAX_ATTEMPTS = 30
"""About a day, with these pauses."""

BATCH_SIZE = 16


@dataclass(frozen=True)
class PendingWebhook:
    """A webhook to be sent now. attempt: counts from 1."""

    job: Job
    url: str
    attempt: int

    @property
    def is_last(self) -> bool:
        return self.attempt >= MAX_ATTEMPTS


def pause(attempt: int) -> float:
    """Seconds from the start of an attempt to the start of the next."""
    return float(min(MOST_SECONDS, FIRST_SECONDS * FACTOR ** (attempt - 1)))


def add_webhook(connection: sa.Connection, job: str, url: str, now: float) -> None:
    """Adds a webhook, in the transaction that stores the job."""
    connection.execute(sa.insert(webhooks), {"job": job, "url": url, "attempts": 0, "due": now})


def take_due(store: Store, now: float) -> list[PendingWebhook]:
    """At most BATCH_SIZE webhooks of ended jobs that are due. Each is due again after a pause, unless it is settled, so
    that a process that dies while it sends loses none, and no other process sends it meanwhile."""
    t = webhooks.c
    due = sa.select(webhooks).join(jobs, jobs.c.id == t.job).where(t.due <= now, jobs.c.state.in_(ENDED))
    with store.reading() as connection:
        if not (rows := connection.execute(due.order_by(t.due).limit(BATCH_SIZE)).all()):
            return []
    taken = []
    with store.writing() as connection:
        for row in rows:
            own = (t.job == row.job) & (t.attempts == row.attempts)
            change = {"attempts": row.attempts + 1, "due": now + pause(row.attempts + 1)}
            if connection.execute(sa.update(webhooks).where(own).values(**change)).rowcount:
                taken.append(row)
        found = ((row, queries.find(connection, row.job)) for row in taken)
        return [PendingWebhook(job, row.url, row.attempts + 1) for row, job in found if job]


def settle(store: Store, webhook: PendingWebhook, result: str) -> None:
    """Removes a webhook. result: "delivered" or "given up", for the counts."""
    with store.writing() as connection:
        connection.execute(sa.delete(webhooks).where(webhooks.c.job == webhook.job.id))
        store.tally(connection, "webhook", result)

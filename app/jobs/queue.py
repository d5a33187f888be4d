"""The queue of jobs: DBOS's, through its public API only.

A job is a DBOS workflow with the same id. ENQUEUED: it is queued. PENDING: the engine `executor_id` has it. If the
workflow has ended, our row has ended too, or the engine that claimed it still writes its files. Requests and results
are in our tables (job_store.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions, error
from dbos import WorkflowStatusString as Status

from app.jobs.database import explained
from app.jobs.store import APPLICATION, QUEUE, Store

WORKFLOW = "job"

SEQUENCES = 1 << 24
"""Number of distinct ranks within one priority: DBOS's priority is below 2**31, ours at most 100."""

BATCH_SIZE = 500
"""Ids per query."""

REPEAT_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """The state of a job in DBOS. engine: the instance id of the engine that has it, if `status` is PENDING."""

    status: str
    engine: str
    queue: str

    @property
    def waits(self) -> bool:
        return self.status == Status.ENQUEUED.value and self.queue == QUEUE

    @property
    def held(self) -> bool:
        return self.status == Status.PENDING.value

    @property
    def over(self) -> bool:
        """Whether DBOS will not run it again, even if resumed."""
        return self.status in (Status.SUCCESS.value, Status.ERROR.value)


class JobQueue:
    """The queue, for any process. Thread-safe. Every method raises DatabaseDown."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = DBOSClient(
            system_database_engine=store.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
            lazy=True,
        )

    def close(self) -> None:
        self._client.destroy()

    def add(self, connection: sa.Connection, id: str, priority: int, sequence: int) -> None:
        """Enqueues a job, as part of the caller's transaction."""
        self._client.enqueue_in_transaction(connection, _options(id, priority, sequence), id)

    def put_back(self, id: str) -> None:
        """Queues the job again, at its old rank; the engine that had it can record nothing more about it.

        Does nothing if the job has ended or is unknown.
        """
        with explained(self._store.url), suppress(error.DBOSNonExistentWorkflowError):
            self._client.resume_workflow(id, queue_name=QUEUE)

    def renew(self, id: str, priority: int, sequence: int) -> None:
        """Enqueues a job again that DBOS lost or considers ended. The old workflow's finished steps are removed."""
        with explained(self._store.url):
            self._client.delete_workflow(id)
            self._client.enqueue(_options(id, priority, sequence), id)

    def move(self, id: str, priority: int, sequence: int) -> None:
        """Gives a waiting job another rank. Without effect once an engine has taken it.

        DBOS cannot change a rank, so the job is enqueued again. Should an engine take it in between, it runs twice, and
        the claim sees to it that only one of them writes.
        """
        place = self.places([id]).get(id)
        if place and place.waits:
            self.renew(id, priority, sequence)

    def active(self) -> dict[str, Place]:
        """Every job that is queued or that an engine has."""
        return self._list(status=[Status.ENQUEUED.value, Status.PENDING.value], queue_name=QUEUE)

    def held(self) -> dict[str, str]:
        """The jobs that engines have, with the instance ids of the engines."""
        return {id: place.engine for id, place in self._list(status=Status.PENDING.value, queue_name=QUEUE).items()}

    def places(self, ids: Iterable[str]) -> dict[str, Place]:
        """The states of these jobs in DBOS; jobs that it does not know are omitted."""
        wanted = list(ids)
        found: dict[str, Place] = {}
        for start in range(0, len(wanted), BATCH_SIZE):
            found |= self._list(workflow_ids=wanted[start : start + BATCH_SIZE])
        return found

    def forget(self, ids: list[str]) -> None:
        """Removes jobs that have ended."""
        with explained(self._store.url):
            self._client.delete_workflows(ids)

    def _list(self, **which: str | list[str]) -> dict[str, Place]:
        with explained(self._store.url):
            found = self._client.list_workflows(**which, load_input=False, load_output=False)  # type: ignore[arg-type]
        return {
            each.workflow_id: Place(each.status, each.executor_id or "", each.queue_name or "")
            for each in found
            if each.name == WORKFLOW
        }


def take_jobs(store: Store, engine: str, run: Callable[[str], None], poll_seconds: float) -> None:
    """Launches DBOS, which then calls `run` in a thread with the id of each job that this engine gets.

    engine: the instance id of this process. Jobs run one at a time: DBOS takes the next when `run` has returned.
    """
    logger = logging.getLogger("dbos")
    logger.addFilter(_not_repeated())
    DBOS(
        config={
            "name": APPLICATION,
            "application_version": APPLICATION,
            "executor_id": engine,
            "system_database_url": store.url.render_as_string(hide_password=False),
            "system_database_engine": store.nondurable,  # a step lost in a power failure runs again
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": 30.0,  # not used
            "scheduler_polling_interval_sec": 3_600.0,  # not used
        }
    )
    # the job store limits the attempts, because it can tell a crash from an orderly stop
    DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(_workflow(run))
    DBOS.listen_queues([QUEUE])
    with store.migrating():
        DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=poll_seconds, on_conflict="always_update")


def _workflow(run: Callable[[str], None]) -> Callable[[str], None]:
    def job(id: str) -> None:
        run(id)

    return job


def _options(id: str, priority: int, sequence: int) -> EnqueueOptions:
    """DBOS runs the lowest priority first and, within a priority, the oldest workflow. Its times have a resolution of
    milliseconds, on SQLite of seconds. So its priority encodes the whole order: our priority, then the sequence. Ranks
    start again once no job is open. A queue that is never empty for millions of jobs falls back to DBOS's times."""
    return {
        "queue_name": QUEUE,
        "workflow_name": WORKFLOW,
        "workflow_id": id,
        "app_version": APPLICATION,
        "priority": priority * SEQUENCES + min(sequence, SEQUENCES - 1),
    }


def _not_repeated() -> Callable[[logging.LogRecord], bool]:
    """A log filter: while the database is down, DBOS logs every failed poll, many per second."""
    last: dict[str, float] = {}

    def passes(record: logging.LogRecord) -> bool:
        now, said = time.monotonic(), record.getMessage()[:80]
        fresh = now - last.get(said, -REPEAT_SECONDS) >= REPEAT_SECONDS
        if fresh:
            last.clear() if len(last) > 100 else None
            last[said] = now
        return fresh

    return passes

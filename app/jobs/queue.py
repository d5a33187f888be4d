"""The queue as an engine sees it: it takes the first job, runs it to its end, and takes the next."""

from __future__ import annotations

import secrets

from dbos import DBOS
from dbos._core import WorkflowHandleFuture, execute_dequeued_workflow
from loguru import logger

from app.jobs.store import APPLICATION, QUEUE, Store, explained


class Queue:
    """DBOS's queue, after its launch; engine: the id that DBOS knows this process by.

    DBOS's own loop would have to ask many times a second to be as quick as one that hears of orders (app.jobs.bell). It
    also counts the running jobs when their threads begin, so that a busy machine was handed a second job before the
    first had begun. What is used of DBOS here has no public name, so its version is fixed in scripts/requirements.lock.
    """

    def __init__(self, dbos: DBOS, store: Store, engine: str) -> None:
        self._dbos = dbos
        self._store = store
        self._engine = engine
        self._queue = DBOS.register_queue(QUEUE, worker_concurrency=1, on_conflict="always_update")

    def take(self) -> bool:
        """Runs the first of the waiting jobs to its end. Returns whether there was one. Raises DatabaseDown."""
        owner = secrets.token_hex(16)
        with explained(self._store.url):
            taken, _ = self._dbos._sys_db.start_queued_workflows(
                self._queue, self._engine, APPLICATION, None, owner_xid=owner
            )
            for id in taken:
                self._run(id, owner)
        return bool(taken)

    def hand_back(self, engine: str) -> None:
        """What that engine had taken and not ended waits again. Raises DatabaseDown."""
        with explained(self._store.url):
            DBOS._recover_pending_workflows([engine])

    def _run(self, id: str, owner: str) -> None:
        status = self._dbos._sys_db.get_workflow_status(id)
        if not status:
            return  # forgotten meanwhile
        handle = execute_dequeued_workflow(self._dbos, status, owner)
        if isinstance(handle, WorkflowHandleFuture):
            handle.future.result()
        else:
            logger.warning(f"job {id}: another engine has taken it over")

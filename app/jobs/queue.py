"""The queue as an engine sees it: it takes the first job, runs it to its end, and takes the next.

What is used of DBOS here has no public name, so pyproject.toml names the versions that it was written for.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from dbos import DBOS, DBOSClient
from dbos._core import WorkflowHandleFuture, execute_dequeued_workflow
from dbos._error import DBOSWorkflowFunctionNotFoundError
from loguru import logger

from app.jobs.store import APPLICATION, QUEUE, Store, explained

NOTED_SECONDS = 1.0
"""For so long DBOS is waited for to note that a job has ended. Where it was handed to another engine meanwhile, DBOS
would wait for that one's word, for as long as it takes: it may be dead, and the job ours again."""


class Queue:
    """DBOS, launched, and its queue. engine: the id that DBOS knows this process by. run: one job from begin to end.

    DBOS's own loop would have to ask many times a second to be as quick as one that hears of orders (app.jobs.bell). It
    also counts the running jobs when their threads begin, so that a busy machine was handed a second job before the
    first had begun.
    """

    def __init__(self, dbos: DBOS, store: Store, engine: str, run: Callable[[str], None]) -> None:
        self._dbos = dbos
        self._store = store
        self._engine = engine
        self._over = threading.Event()

        def job(id: str) -> None:
            try:
                run(id)
            finally:
                self._over.set()

        # how often a job may be begun is for our job_store to say, which tells a death from an orderly end
        DBOS.workflow(name="job", max_recovery_attempts=None)(job)
        DBOS.listen_queues([])  # we take the jobs ourselves
        DBOS.launch()
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

    def forget(self, ids: list[str]) -> None:
        """Removes jobs that have ended. Raises DatabaseDown."""
        with explained(self._store.url):
            DBOS.delete_workflows(ids)

    def _run(self, id: str, owner: str) -> None:
        status = self._dbos._sys_db.get_workflow_status(id)
        if not status:
            return  # forgotten meanwhile
        over = self._over = threading.Event()
        try:
            handle = execute_dequeued_workflow(self._dbos, status, owner)
        except DBOSWorkflowFunctionNotFoundError as error:
            logger.warning(f"{id} is no job of ours, and stays where it is: {error}")
            return
        if isinstance(handle, WorkflowHandleFuture):
            handle.future.add_done_callback(lambda _: over.set())  # also where it never came to run
            over.wait()
            with suppress(TimeoutError):
                handle.future.result(NOTED_SECONDS)
        if not isinstance(handle, WorkflowHandleFuture) or not handle.future.done():
            logger.warning(f"job {id}: another engine has taken it over")


def hand_back(store: Store, engine: str) -> None:
    """What that engine had taken and not ended waits again; it is dead, or takes nothing now. Raises DatabaseDown."""
    client = DBOSClient(
        system_database_engine=store.light, application_name=APPLICATION, lazy=True, retry_connection_errors=False
    )
    with explained(store.url):  # DBOS's own recovery only logs what goes wrong
        for taken in client._sys_db.get_pending_workflows(engine, APPLICATION):
            client._sys_db.reenqueue_for_recovery(taken.workflow_id, [engine], QUEUE)

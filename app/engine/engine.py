"""The life of an engine: start, serve jobs until SIGTERM, drain."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from loguru import logger

from app.child import report_ready
from app.engine.guard import Guard
from app.engine.instance import Instance, attempt, exit_now
from app.engine.startup import start_up
from app.engine.storage import Storage
from app.errors import DatabaseDown
from app.feedback.store import FeedbackStore
from app.jobs.assets import Assets
from app.jobs.clock_guard import ClockGuard, clock_tolerance
from app.jobs.heartbeats import FORGET_SECONDS, Liveness
from app.jobs.orphans import Orphans
from app.jobs.queue import JobQueue, take_jobs
from app.jobs.reconciler import Reconciler
from app.jobs.retention import Retention
from app.jobs.scrub import Scrub
from app.jobs.steps import Steps
from app.jobs.workflow import EngineHooks, Worker
from app.log import ToLoguru
from app.pipeline import Stages

TICK_SECONDS = 0.2
"""How soon an engine notices a signal to stop."""

EXPIRE_SECONDS, CLEAN_SECONDS, COMPARE_SECONDS, ORPHANS_SECONDS = 1.0, 30.0, 60.0, 3_600.0


class Engine:
    """Runs jobs on the device of its instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.config = instance.config
        self.assets = Assets(instance.config)
        self.queue = JobQueue(instance.store)
        self.storage = Storage(instance, self.assets)
        self._stopping = False

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Ends the process with one of the codes in app.child if it cannot continue."""
        self.instance.start_reporting()
        try:
            self._reconciler(set).compare()  # requeue the jobs of earlier instances before loading the models
            self.storage.wait()
            stages = start_up(self.instance)
            for number in (signal.SIGTERM, signal.SIGINT):  # before this it has no job, and may end at once
                signal.signal(number, self._stop)
            worker = self._take_jobs(stages)
        except DatabaseDown as error:
            self.instance.fatal(error)
        except Exception as error:  # noqa: BLE001  the edge: report any error and end the process
            self.instance.fail(error)
        self.instance.report(state="READY", why=self.storage.problem, progress=None, eta=None)
        report_ready()
        logger.info(f"engine {self.instance.name}: READY on {self.instance.device}")
        self._run_periodic_tasks(worker)
        self._drain(worker)

    def _take_jobs(self, stages: Stages) -> Worker:
        steps = Steps(self.config, stages, self.instance.job_store, self.assets)
        guard = Guard(self.instance, steps)
        hooks = EngineHooks(guard.run, guard.set_deadline, self._report_job, self.storage.is_up, self.instance.fatal)
        worker = Worker(steps, self.instance.job_store, self.queue, self.assets, hooks)
        logging.getLogger("dbos").handlers = [ToLoguru()]
        logging.getLogger("dbos").propagate = False
        take_jobs(self.instance.store, self.instance.id, worker.run, self.config.jobs.poll_seconds)
        return worker

    def _run_periodic_tasks(self, worker: Worker) -> None:
        """Runs the periodic tasks until the engine is told to stop."""
        tasks = self._periodic_tasks(worker)
        due = [0.0] * len(tasks)
        while not self._stopping:
            time.sleep(TICK_SECONDS)
            for index, (interval, task) in enumerate(tasks):
                if time.monotonic() >= due[index]:
                    due[index] = time.monotonic() + interval
                    attempt(task)

    def _periodic_tasks(self, worker: Worker) -> list[tuple[float, Callable[[], object]]]:
        """The periodic tasks and their intervals in seconds."""
        store, clock, assets = self.instance.store, self.instance.clock, self.config.assets
        liveness = Liveness(store, self.config.jobs.lost_after_seconds)
        reconciler = self._reconciler(lambda: worker.jobs, liveness)
        guard = ClockGuard(store, clock_tolerance(assets), clock)
        retention = Retention(store, self.assets, assets, clock, guard, self.queue.forget)
        return [
            (EXPIRE_SECONDS, self.instance.job_store.expire),
            (EXPIRE_SECONDS, reconciler.take_over),
            (COMPARE_SECONDS, reconciler.compare),
            (CLEAN_SECONDS, retention.sweep),
            (CLEAN_SECONDS, lambda: guard.trusted() and FeedbackStore(store, self.config, clock).forget()),
            (CLEAN_SECONDS, lambda: liveness.forget(clock() - FORGET_SECONDS)),
            (CLEAN_SECONDS, Scrub(store, self.assets, clock).run),
            (ORPHANS_SECONDS, Orphans(store, self.assets, assets, clock, guard).sweep),
        ]

    def _reconciler(self, running: Callable[[], set[str]], liveness: Liveness | None = None) -> Reconciler:
        store = self.instance.store
        liveness = liveness or Liveness(store, self.config.jobs.lost_after_seconds)
        return Reconciler(store, self.queue, self.instance.job_store, liveness, self.instance.id, running)

    def _drain(self, worker: Worker) -> None:
        self.instance.report(state="DRAINING", why="stopping")
        if not worker.drain(self.config.serve.grace_seconds):
            logger.warning("stage or files were not done within serve.grace_seconds; their jobs are requeued")
        attempt(worker.release)  # on failure, other engines or the successor requeue its jobs
        self.instance.report(state="LOST", why="stopped", job=None)
        logger.info(f"engine {self.instance.name}: stopped")
        exit_now(0)

    def _stop(self, *_signal: object) -> None:
        """The signal handler. It only sets a flag, because the interrupted code may hold any lock."""
        self._stopping = True

    def _report_job(self, job: str | None) -> None:
        state = "DRAINING" if self._stopping else "BUSY" if job else "READY"
        self.instance.report_soon(job=job, state=state)

"""The engine: one process for each GPU, `python -m app.engine --device cpu`. It loads, tests itself, and takes jobs.

It dies rather than go on in doubt: on a GPU error that poisons the process, on a stage that hangs, on a database that
is gone. The supervisor starts it again, and its job goes on after the last finished step.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from loguru import logger

from app.child import (
    BROKEN_GPU,
    NO_DATABASE,
    NO_STORAGE,
    NOT_READY,
    TAKEN,
    earlier_ends,
    report_ready,
    start_heartbeats,
)
from app.config import Config, load_config
from app.errors import DatabaseDown, SplatgateError, StorageDown, Unavailable
from app.hardware import GpuGone, gpu
from app.identity import Taken, Trace, lock_path, node_id, take_lock
from app.jobs.assets import Assets
from app.jobs.clock import DatabaseClock
from app.jobs.clock_guard import ClockGuard, clock_tolerance
from app.jobs.heartbeats import FORGET_SECONDS, Heartbeat, Liveness
from app.jobs.job_store import JobStore
from app.jobs.orphans import Orphans
from app.jobs.queue import JobQueue, take_jobs
from app.jobs.reconciler import Reconciler
from app.jobs.records import Engine as EngineRow
from app.jobs.retention import Retention
from app.jobs.steps import Steps
from app.jobs.storage_check import check_storage, probe_folder
from app.jobs.store import Store
from app.jobs.workflow import Host, Worker
from app.log import ToLoguru, start_logging
from app.pipeline import Stages, load_stages
from app.selftest import self_test
from app.stage import Stage
from app.starting import Starting
from app.weights.manifest import Model
from app.weights.store import arrived, fetch_command, missing, missing_message

STICKY = (
    "illegal memory access",
    "launch failure",
    "launch timed out",
    "device-side assert",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "global/shared address space",
    "hardware stack error",
    "uncorrectable ECC",
    "GPU is lost",
    "fallen off the bus",
    "no CUDA-capable device",
    "CUDA error: unknown error",
)
"""CUDA errors after which nothing in the process works on the GPU any more, as CUDA words them."""

STOP_SECONDS = 0.2
"""How soon an engine notices that it was told to stop."""

LOOK_SECONDS, CLEAN_SECONDS, COMPARE_SECONDS, ORPHANS_SECONDS = 1.0, 30.0, 60.0, 3_600.0

Values = dict[str, Any]


class Engine:
    """One device, its models, and the loop around them. gpu: the card's uuid; empty for the CPU."""

    def __init__(self, config: Config, device: str, gpu_uuid: str) -> None:
        data = Path(config.serve.data)
        folder = data / "engines"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.gpu_uuid = gpu_uuid
        self.id = secrets.token_hex(8)  # of this process: PIDs repeat in containers
        self.name = f"{node_id(data)}-{device}"
        self._lock = take_lock(lock_path(data, device))
        self._trace = Trace(folder / f"{device}.trace")
        self.store = Store(config)
        self.assets = Assets(config)
        self.clock = DatabaseClock(self.store)
        self.report = Heartbeat(self.store, self._row(), self.clock)
        self.job_store = JobStore(self.store, self.name, self.id, config.jobs.max_deaths, self.clock)
        self.queue = JobQueue(self.store)
        if self._trace.last_words:
            self.job_store.record_crash(self.report.predecessors, self._trace.last_words)
        self.store.count_ends("engine", earlier_ends())
        self.stopping = False
        self._cramped = ""  # why no job could put its files away

    def run(self) -> None:
        """Load, test, serve until SIGTERM, drain. Ends the process with a code of its own where it cannot go on."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        try:
            stages = self._warm_up()
            for number in (signal.SIGTERM, signal.SIGINT):  # until here it has no job, and ends at once when told to
                signal.signal(number, self._stop)
            worker = self._launch(stages)
        except DatabaseDown as error:
            self.fatal(error)
        except Exception as error:  # noqa: BLE001  the edge: whatever it is, the state says so and the process ends
            self._fail(error)
        self.say(state="READY", why=self._cramped, progress=None, eta=None)
        report_ready()
        logger.info(f"engine {self.name}: READY on {self.report.engine.device}")
        self._look_after(worker)
        self._drain(worker)

    def close(self) -> None:
        """Lets go of the device, without having run."""
        self.store.close()
        self._trace.close()
        self._lock.close()

    # ---- before the first job ----------------------------------------------------------------------------------------

    def _warm_up(self) -> Stages:
        """Loaded stages that have passed the self-test."""
        self._reconciler(set).compare()  # what earlier instances had waits again, before we load anything
        self._wait_for_storage()
        starting = Starting(self.say)
        self._wait_for_models(starting)
        faulthandler.dump_traceback_later(self.config.deadlines.load, exit=True, file=self._trace.stream)
        stages = load_stages(self.config, starting)
        self.say(state="WARMING", why="self-test", progress=None, eta=None)
        record = Path(self.config.serve.data) / "selftest.json"
        self_test(stages, self.config, self.report.engine.device, record, lambda stage: self.say(why=stage.line()))
        self.arm(None)
        return stages

    def _wait_for_storage(self) -> None:
        """Until what a job makes can be put away: without that all work would be in vain. On a disk that is nearly full
        this waits for no more than a few bytes, since what the engine forgets of old jobs may make the room."""
        while not self._can_store(lambda: self.assets.probe(f"probe-{self.name}")):
            time.sleep(LOOK_SECONDS)

    def _storage_is_up(self) -> bool:
        """Whether the files of a job can be stored."""
        return self._can_store(lambda: check_storage(self.config, self.assets))

    def _can_store(self, check: Callable[[], None]) -> bool:
        """Whether a job could put its files away. check: raises StorageDown. What is wrong is said once."""
        try:
            check()
            told = ""
        except StorageDown as error:
            told = str(error)
        if told != self._cramped:
            self._cramped = told
            logger.warning(
                f"engine {self.name} waits: {told}" if told else f"engine {self.name}: files can be stored again"
            )
            self.say(why=told)
        return not told

    def _wait_for_models(self, starting: Starting) -> None:
        """Until all that is needed is on the disk. Somebody else fetches it: to us the weights are there to be read
        (docs/models.md), and dying for want of them would only take the answer away from who asks what is wrong."""
        told: tuple[Model, ...] = ()
        while lacking := missing(self.config):
            if lacking != told:
                logger.warning(f"engine {self.name} waits for models: {missing_message(told := lacking, self.config)}")
            total = sum(model.about_bytes for model in lacking)
            words = f"models are missing: `{fetch_command(lacking)}` fetches them"
            starting.at(words, arrived(lacking, self.config), total)
            time.sleep(LOOK_SECONDS)

    def _launch(self, stages: Stages) -> Worker:
        """Takes jobs from now on."""
        self.steps = Steps(self.config, stages, self.job_store, self.assets)
        host = Host(self.guard, self.arm, self._busy, self._storage_is_up, self.fatal)
        worker = Worker(self.steps, self.job_store, self.queue, self.assets, host)
        logging.getLogger("dbos").handlers = [ToLoguru()]
        logging.getLogger("dbos").propagate = False
        take_jobs(self.store, self.id, worker.run, self.config.jobs.poll_seconds)
        return worker

    def _row(self) -> EngineRow:
        now, card = self.clock(), gpu(self.gpu_uuid) if self.gpu_uuid else None
        return EngineRow(
            id=self.id,
            name=self.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=card.name if card else f"CPU, {os.cpu_count()} cores",
            state="STARTING",
            why="loading the models",
            heartbeat=now,
            progress=None,
            eta=None,
            job=None,
            started=now,
            memory_used=card.used if card else None,
            memory_total=card.total if card else None,
        )

    # ---- while it serves ---------------------------------------------------------------------------------------------

    def _look_after(self, worker: Worker) -> None:
        """What is due every second, half-minute and hour, until the engine is told to stop."""
        liveness = Liveness(self.store, self.config.jobs.lost_after_seconds)
        reconciler = self._reconciler(lambda: worker.jobs, liveness)
        assets = self.config.assets
        guard = ClockGuard(self.store, clock_tolerance(assets), self.clock)
        retention = Retention(self.store, self.assets, assets, self.clock, guard, self.queue.forget)
        orphans = Orphans(self.store, self.assets, assets, self.clock, guard)
        chores: list[tuple[float, Callable[[], object]]] = [
            (LOOK_SECONDS, self.job_store.expire),
            (LOOK_SECONDS, reconciler.take_over),
            (COMPARE_SECONDS, reconciler.compare),
            (CLEAN_SECONDS, retention.sweep),
            (CLEAN_SECONDS, lambda: liveness.forget(self.clock() - FORGET_SECONDS)),
            (ORPHANS_SECONDS, orphans.sweep),
        ]
        due = [0.0] * len(chores)
        while not self.stopping:
            time.sleep(STOP_SECONDS)
            for index, (every, chore) in enumerate(chores):
                if time.monotonic() >= due[index]:
                    due[index] = time.monotonic() + every
                    _try(chore)

    def _reconciler(self, running: Callable[[], set[str]], liveness: Liveness | None = None) -> Reconciler:
        liveness = liveness or Liveness(self.store, self.config.jobs.lost_after_seconds)
        return Reconciler(self.store, self.queue, self.job_store, liveness, self.id, running)

    def _drain(self, worker: Worker) -> None:
        self.say(state="DRAINING", why="stopping")
        if not worker.drain(self.config.serve.grace_seconds):
            logger.warning("the running stage did not end within serve.grace_seconds; its job is given back")
        _try(worker.release)  # the others, or our successor, see that we are gone, and put back what we had
        self.say(state="LOST", why="stopped", job=None)
        logger.info(f"engine {self.name}: stopped")
        _exit(0)

    def _stop(self, *_signal: object) -> None:
        """The signal handler. It only sets a flag: a lock that it took might be held by the code it interrupts."""
        self.stopping = True

    def _beat(self) -> None:
        while True:
            time.sleep(self.config.jobs.heartbeat_seconds)
            self.say(**self._memory())

    def _memory(self) -> dict[str, int]:
        """What the driver says; nothing while it does not answer, which is no reason to leave out a heartbeat."""
        if not self.gpu_uuid:
            return {}
        try:
            card = gpu(self.gpu_uuid)
        except GpuGone as error:
            self.fatal(error)
        except Unavailable as error:
            logger.warning(str(error))
            return {}
        return {"memory_used": card.used, "memory_total": card.total}

    # ---- what the worker asks of its engine --------------------------------------------------------------------------

    def guard(self, call: Callable[[], Values]) -> Values:
        """Runs a step. A poisoned GPU ends the process; out of memory it frees what it can, and tries once more with
        the models waiting in the host's memory."""
        try:
            return self._watched(call)
        except torch.OutOfMemoryError as error:
            if self.steps.config.gpu.memory == "offload":
                raise
            logger.warning(f"out of GPU memory: {error}; once more with gpu.memory = offload")
        self._offload()  # after the except block: the exception keeps the failed stage's tensors alive
        return self._watched(call)

    def arm(self, stage: Stage | None) -> None:
        """A stage that takes longer than its deadline is taken to hang: the process writes where, and ends."""
        faulthandler.cancel_dump_traceback_later()
        if stage:
            seconds = getattr(self.config.deadlines, stage)
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._trace.stream)

    def say(self, **changes: object) -> None:
        """Reports to the database; where that is down the next heartbeat says it."""
        _try(lambda: self.report.beat(**changes))

    def fatal(self, error: Exception) -> NoReturn:
        """Ends the process now: no handler, no thread and no library is to be trusted."""
        logger.critical(f"engine {self.name}: {error}")
        if isinstance(error, DatabaseDown):
            _exit(NO_DATABASE)
        self.say(state="FAILED", why=_line(error))
        print(_line(error), file=self._trace.stream, flush=True)  # the last words that its job is told by
        _exit(NO_STORAGE if isinstance(error, StorageDown) else BROKEN_GPU)

    def _watched(self, call: Callable[[], Values]) -> Values:
        try:
            return call()
        except RuntimeError as error:
            if is_sticky(error):
                self.fatal(error)
            raise

    def _offload(self) -> None:
        """Loads the models anew, waiting in the host's memory. Ends the process where they cannot be: it has none."""
        faulthandler.dump_traceback_later(self.config.deadlines.load, exit=True, file=self._trace.stream)
        del self.steps.stages  # lets go of the loaded models before the others come
        gc.collect()
        torch.cuda.empty_cache()
        waiting = self.config.gpu.model_copy(update={"memory": "offload"})
        self.steps.config = self.config.model_copy(update={"gpu": waiting})
        try:
            self.steps.stages = load_stages(self.steps.config)
        except Exception as error:  # noqa: BLE001  the edge: without models every job to come would fail
            self._fail(error)
        self.arm(None)
        self.say(why="out of GPU memory: until the next start the models wait in the host's memory, which is slower")

    def _busy(self, job: str | None) -> None:
        state = "DRAINING" if self.stopping else "BUSY" if job else "READY"
        self.say(job=job, state=state)

    def _fail(self, error: Exception) -> NoReturn:
        known = isinstance(error, SplatgateError)
        logger.opt(exception=None if known else error).critical(f"engine {self.name}: not ready: {error}")
        self.say(state="FAILED", why=_line(error))
        _exit(NOT_READY)


def is_sticky(error: BaseException) -> bool:
    """Whether a CUDA error has poisoned the process."""
    text = str(error)
    return any(words in text for words in STICKY)


def _wait_for_database(config: Config) -> None:
    """Until it takes writes, and the data folder does. Dying for want of them would end, after a few times, the whole
    service, and with it whoever could say what is wrong."""
    told = ""
    while True:
        try:
            probe_folder(Path(config.serve.data))
            with closing(Store(config)) as store:
                store.probe()
        except (DatabaseDown, StorageDown) as error:
            if str(error) != told:
                logger.warning(f"the engine waits: {(told := str(error))}")
        else:
            return
        time.sleep(LOOK_SECONDS)


def _try(chore: Callable[[], object]) -> None:
    """A chore that fails for want of the database is done again when it is next due."""
    try:
        chore()
    except (SplatgateError, OSError) as error:
        logger.warning(str(error))


def _line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, SplatgateError) else f"{type(error).__name__}: {text}"


def _exit(code: int) -> NoReturn:
    """At once: waiting threads and a broken driver would only hold the process up."""
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Command line: --device cpu, or --device gpu0 --gpu GPU-uuid with CUDA_VISIBLE_DEVICES set to that card."""
    parser = argparse.ArgumentParser(prog="python -m app.engine", description="One engine of splatgate serve.")
    parser.add_argument("--device", default="cpu", help="its name on this host: cpu, gpu0, gpu1, ...")
    parser.add_argument("--gpu", default="", help="the card's uuid; empty: no GPU")
    asked = parser.parse_args()
    try:
        config = load_config()
        start_logging(config.log.level, validation=config.validation.enabled, as_json=config.log.as_json)
        start_heartbeats(config.jobs.heartbeat_seconds)
        _wait_for_database(config)
        engine = Engine(config, asked.device, asked.gpu)
    except Taken as error:
        logger.critical(str(error))
        sys.exit(TAKEN)
    except SplatgateError as error:
        logger.critical(str(error))
        sys.exit(NO_DATABASE if isinstance(error, DatabaseDown) else NOT_READY)
    engine.run()


if __name__ == "__main__":
    main()

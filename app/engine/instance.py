"""The identity of a running engine: its device, its row in the database, its crash trace, and its exit codes.

It imports no model code, so that an instance reports within a second or two that its predecessor is gone.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from loguru import logger

from app.child import BROKEN_GPU, NO_DATABASE, NO_STORAGE, NOT_READY, earlier_ends
from app.config import Config
from app.engine.crash_trace import CrashTrace
from app.errors import DatabaseDown, SplatgateError, StorageDown, Unavailable
from app.hardware import GpuGone, gpu
from app.identity import lock_path, node_id, take_lock
from app.jobs.clock import DatabaseClock
from app.jobs.heartbeats import Heartbeat
from app.jobs.job_store import JobStore
from app.jobs.records import Engine as EngineRow
from app.jobs.store import Store


class Instance:
    """One process that holds a device. It has a random id, because PIDs repeat in containers, and the device's name.

    gpu_uuid: empty for the CPU. Raises DeviceTaken if another process holds the device, DatabaseDown.
    """

    def __init__(self, config: Config, device: str, gpu_uuid: str) -> None:
        data = Path(config.serve.data)
        folder = data / "engines"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.gpu_uuid = gpu_uuid
        self.id = secrets.token_hex(8)
        self.name = f"{node_id(data)}-{device}"
        self._lock = take_lock(lock_path(data, device))
        self._changed = threading.Event()
        self.trace = CrashTrace(folder / f"{device}.trace")
        self.store = Store(config)
        self.clock = DatabaseClock(self.store)
        self.heartbeat = Heartbeat(self.store, self._row(), self.clock)
        self.job_store = JobStore(self.store, self.name, self.id, config.jobs.max_deaths, self.clock)
        self._record_predecessors()

    @property
    def device(self) -> str:
        """The name of the device, for people."""
        return self.heartbeat.engine.device

    def start_reporting(self) -> None:
        """Starts the thread that reports to the database every jobs.heartbeat_seconds."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def report(self, **changes: object) -> None:
        """Changes fields of the row; if the database is down, the next heartbeat writes them."""
        attempt(lambda: self.heartbeat.beat(**changes))

    def report_soon(self, **changes: object) -> None:
        """As `report`, from the heartbeat thread, so that a job does not wait for it."""
        self.heartbeat.change(**changes)
        self._changed.set()

    def fail(self, error: Exception) -> NoReturn:
        """Ends the process because it cannot become ready; the row keeps the reason."""
        known = isinstance(error, SplatgateError)
        logger.opt(exception=None if known else error).critical(f"engine {self.name}: not ready: {error}")
        self.report(state="FAILED", why=in_one_line(error))
        exit_now(NOT_READY)

    def fatal(self, error: Exception) -> NoReturn:
        """Ends the process at once: handlers, threads and libraries can no longer be trusted."""
        logger.critical(f"engine {self.name}: {error}")
        if isinstance(error, DatabaseDown):
            exit_now(NO_DATABASE)
        self.report(state="FAILED", why=in_one_line(error))
        print(in_one_line(error), file=self.trace.stream, flush=True)  # the crash report of its job
        exit_now(NO_STORAGE if isinstance(error, StorageDown) else BROKEN_GPU)

    def close(self) -> None:
        """Releases the device of an instance that did not run."""
        self.store.close()
        self.trace.close()
        self._lock.close()

    def _record_predecessors(self) -> None:
        self.store.count_ends("engine", earlier_ends())
        if self.trace.report:
            self.job_store.record_crash(self.heartbeat.predecessors, self.trace.report, self.trace.job)

    def _beat(self) -> None:
        while True:
            self._changed.wait(self.config.jobs.heartbeat_seconds)
            self._changed.clear()
            self.report(**self._memory())

    def _memory(self) -> dict[str, int]:
        """GPU memory; empty while the driver does not respond, which must not stop the heartbeats."""
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


def attempt(call: Callable[[], object]) -> None:
    """Calls a function that will be called again; a failure of the database or the disk is only logged."""
    try:
        call()
    except (SplatgateError, OSError) as error:
        logger.warning(str(error))


def in_one_line(error: BaseException) -> str:
    """The first line of the error, with its type unless it is a SplatgateError."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, SplatgateError) else f"{type(error).__name__}: {text}"


def exit_now(code: int) -> NoReturn:
    """Ends the process without cleanup: waiting threads and a broken driver would only delay it."""
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)

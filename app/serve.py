"""The supervisor: starts the web process and an engine for each GPU, and starts again what dies. PID 1 of a container.

It holds no GPU, loads no model and never imports torch, so there is little in it that could die.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from loguru import logger

from app.child import CODES, PR_SET_CHILD_SUBREAPER, VARIABLE, Word, die_with_parent, prctl
from app.config import Config
from app.errors import ConfigError, DatabaseDown, StorageDown, Unavailable
from app.generators import without_gpu
from app.hardware import gpus
from app.identity import Taken, lock_path, node_id, take_lock
from app.jobs.disk_space import probe_folder
from app.jobs.heartbeats import Liveness
from app.jobs.store import Store, engines

MAX_DEATHS, WITHIN_SECONDS = 5, 60.0
"""A child that dies this often in this time, or this often in a row without having become ready, however long each
start takes, is not mended by starting it again: the supervisor gives up."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds before a dead child is started again: doubled each time, the first anew once it has been ready."""

EXTRA_GRACE = 5.0
"""Beyond serve.grace_seconds, for the children to say goodbye before they are killed."""

LOOK_SECONDS, SILENCE = 1.0, 2.0
"""How often heartbeats are looked at, and the silence that kills, in jobs.lost_after_seconds: by then the engine counts
as lost, and its jobs may be another's."""

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


@dataclass
class Child:
    """A process that has to run. name: for the log; engine: its device, empty for the web process.

    word: through it the process that runs says that it is ready. vain: deaths since one was ready.
    """

    name: str
    command: list[str]
    environ: dict[str, str]
    engine: str = ""
    process: subprocess.Popen[bytes] | None = None
    word: Word | None = None
    due: float = 0.0
    pause: float = FIRST_PAUSE
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_DEATHS))
    vain: int = 0


class Supervisor:
    """The children and what becomes of them. One thread; signals are taken one by one where it waits."""

    def __init__(self, config: Config, children: list[Child]) -> None:
        self._config = config
        self._children = children
        self._gave_up = False
        self._store: Store | None = None
        self._liveness: Liveness | None = None
        self._look_due = 0.0

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a child keeps dying. Returns the exit code: 0, or 1 where it gave up."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of our children come to us, whether we are PID 1 or not
        unused = [child for child in self._children if child.engine and self._is_unused(child)]
        self._start_due()
        if unused:
            self._mark_dead(unused)
        while not self._gave_up:
            self._start_due()
            caught = signal.sigtimedwait(SIGNALS, self._until_next())
            if caught and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                logger.info(f"{signal.Signals(caught.si_signo).name}: stopping")
                break
            self._reap()
            self._look_for_the_silent()
        self._stop()
        return 1 if self._gave_up else 0

    def _start_due(self) -> None:
        for child in self._children:
            if not child.process and child.due <= time.monotonic():
                child.word = Word()
                child.process = subprocess.Popen(
                    child.command,
                    env=child.environ | {VARIABLE: str(child.word.writing)},
                    pass_fds=[child.word.writing],
                    stdin=subprocess.DEVNULL,
                    preexec_fn=_before_child,
                    process_group=0,
                )
                logger.info(f"{child.name}: started as process {child.process.pid}")

    def _until_next(self) -> float:
        due = [child.due - time.monotonic() for child in self._children if not child.process]
        return max(0.01, min([*due, 1.0]))

    def _reap(self) -> None:
        """Collects every process that has ended, ours and the orphans that came to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self._children:
                if child.process and child.process.pid == pid:
                    self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: Child, code: int) -> None:
        assert child.process
        pid, child.process.returncode = child.process.pid, code  # it was reaped here, not by Popen
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # a worker that outlived its master would keep the port
        child.process = None
        now, reason = time.monotonic(), cause_of_death(code)
        pause = _count_death(child, now)
        logger.warning(f"{child.name}: ended: {reason}; started again in {pause:g} s")
        self._record(child, pid, reason)
        if hopeless := _hopeless(child, now):
            logger.critical(f"{child.name}: {hopeless}, the last time by {reason}: giving up")
            self._gave_up = True

    def _look_for_the_silent(self) -> None:
        """A hung engine cannot end itself: we end it once its heartbeat has stopped while the database takes writes."""
        if time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + LOOK_SECONDS
        try:
            if not self._liveness:
                self._liveness = Liveness(self._opened(), SILENCE * self._config.jobs.lost_after_seconds)
            alive = self._liveness.alive()
            for child in self._children:
                if child.engine and child.process:
                    self._kill_silent(child, child.process.pid, alive)
        except (DatabaseDown, Unavailable) as error:
            logger.debug(str(error))  # whoever needs the database says so louder

    def _kill_silent(self, child: Child, pid: int, alive: set[str]) -> None:
        own = (engines.c.name == self._name(child)) & (engines.c.pid == pid)
        with self._opened().reading() as connection:
            instance = connection.execute(sa.select(engines.c.id).where(own)).scalar()
        if not instance or instance in alive:
            return  # it may still be starting
        silence = SILENCE * self._config.jobs.lost_after_seconds
        logger.error(f"{child.name}: process {pid} has been silent for {silence:g} s and is killed")
        os.kill(pid, signal.SIGKILL)

    def _opened(self) -> Store:
        self._store = self._store or Store(self._config)
        return self._store

    def _name(self, child: Child) -> str:
        return f"{node_id(Path(self._config.serve.data))}-{child.engine}"

    def _record(self, child: Child, pid: int, reason: str) -> None:
        """Counts the death, and says that an engine is gone at once, not when its heartbeat is missed.

        One that found its device taken leaves the row of the engine that has it as it is.
        """
        try:
            store = self._opened()
            with store.noting() as connection:
                store.tally(connection, "death", f"{'engine' if child.engine else child.name}: {reason}")
                if child.engine:
                    mine = (engines.c.name == self._name(child)) & (engines.c.pid == pid)
                    alive = mine & (engines.c.state != "FAILED")  # who failed has said why
                    gone = {"state": "LOST", "why": f"ended: {reason}; it is being started again"}
                    connection.execute(sa.update(engines).where(alive).values(**gone))
        except (DatabaseDown, Unavailable) as error:
            logger.warning(str(error))

    def _is_unused(self, child: Child) -> bool:
        """Whether nobody has the device, another service with this data folder for instance; before we start ours."""
        try:
            take_lock(lock_path(Path(self._config.serve.data), child.engine)).close()
        except (Taken, OSError):
            return False
        return True

    def _mark_dead(self, unused: list[Child]) -> None:
        """Says of engines that died with an earlier supervisor that they are gone: until ours report, which takes as
        long as their start, they would be shown READY to whoever asks for a service to send work to."""
        try:
            with self._opened().noting() as connection:
                for child in unused:
                    theirs = (engines.c.name == self._name(child)) & engines.c.state.not_in(("FAILED", "LOST"))
                    before = theirs & (engines.c.pid != (child.process.pid if child.process else 0))
                    gone = {"state": "LOST", "why": "it ended with its service; another is being started"}
                    connection.execute(sa.update(engines).where(before).values(**gone))
        except (DatabaseDown, Unavailable) as error:
            logger.debug(str(error))

    def _stop(self) -> None:
        """SIGTERM to all, and SIGKILL to whoever is left when the grace is over."""
        for child in self._children:
            if child.process:
                os.kill(child.process.pid, signal.SIGTERM)
        if not self._wait_for_all(self._config.serve.grace_seconds + EXTRA_GRACE):
            for child in self._children:
                if child.process:
                    logger.warning(f"{child.name}: did not end in time and is killed")
                    os.killpg(child.process.pid, signal.SIGKILL)
            self._wait_for_all(EXTRA_GRACE)
        if self._store:
            self._store.close()
        logger.info("stopped")

    def _wait_for_all(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while any(child.process for child in self._children):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            for child in self._children:
                if pid and child.process and child.process.pid == pid:
                    child.process.returncode = os.waitstatus_to_exitcode(status)
                    child.process = None
            if not pid:
                if time.monotonic() > end:
                    return False
                signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        return True


def plan(config: Config, environ: Mapping[str, str]) -> list[Child]:
    """The web process, unless serve.web is off, and the engines that this host is to run.

    Raises Unavailable where profile full has no GPU, ConfigError where no job could reach engines that are alone.
    """
    _check_shared(config)
    # by its id the web process answers whether we live (/livez)
    told = {**environ, "SPLATGATE_SUPERVISOR": str(os.getpid())}
    web = [Child("web", [sys.executable, "-m", "app.web.server"], told)] if config.serve.web else []
    cards = gpus() if config.profile.generator.needs_gpu else ()
    if cards:
        return [*web, *(_engine(environ, f"gpu{index}", card.uuid) for index, card in enumerate(cards))]
    if config.profile.generator.needs_gpu:
        raise Unavailable(
            f"profile {config.profile.name!r} needs an NVIDIA GPU, and the driver shows none here: run nvidia-smi, "
            f"give the container its GPUs (--gpus all), or use profile {without_gpu()}, which needs none"
        )
    return [*web, _engine(environ, "cpu", "")]


def _check_shared(config: Config) -> None:
    """Engines alone get their jobs from a database, and hand in their files to a place, that another host sees too."""
    missing = [key for key in ("database", "assets") if not getattr(config, key).url]
    if missing and not config.serve.web:
        keys = " and ".join(f"{key}.url" for key in missing)
        raise ConfigError(
            f"serve.web = false, and {keys} not set: engines without a web process work for another host, and share "
            "its PostgreSQL and its object store; set both URLs as they are there (docs/cluster.md)"
        )


def environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """What the children are told: what was given on our command line goes over file and variables for them too."""
    ours = {
        "SPLATGATE__PROFILE__NAME": config.profile.name,
        "SPLATGATE__SERVE__HOST": config.serve.host,
        "SPLATGATE__SERVE__PORT": str(config.serve.port),
        "SPLATGATE__SERVE__DATA": str(Path(config.serve.data).absolute()),
        "SPLATGATE__LOG__LEVEL": config.log.level,
    }
    return {**environ, **ours}


def _count_death(child: Child, now: float) -> float:
    """Notes a death, and says how long (seconds) until the next start."""
    assert child.word
    if child.word.given:
        child.vain, child.pause = 0, FIRST_PAUSE
    else:
        child.vain += 1
    child.word.close()
    child.deaths.append(now)
    pause, child.pause = child.pause, min(2 * child.pause, LONGEST_PAUSE)
    child.due = now + pause
    return pause


def _hopeless(child: Child, now: float) -> str:
    """Why it makes no sense to start it again; empty while it does.

    Who dies often in a minute would take its callers along each time; who never becomes ready (models that cannot be
    loaded, a GPU that fails at the first touch, a port that another program has) can take minutes for each try.
    """
    if len(child.deaths) == MAX_DEATHS and now - child.deaths[0] < WITHIN_SECONDS:
        return f"died {MAX_DEATHS} times in {now - child.deaths[0]:.0f} s"
    if child.vain >= MAX_DEATHS:
        return f"died {child.vain} times in a row without ever having been ready"
    return ""


def cause_of_death(code: int) -> str:
    """An exit code in words, few enough to be counted by."""
    if code < 0:
        return signal.Signals(-code).name
    return CODES.get(code, f"exit code {code}")


def check_data(folder: Path) -> None:
    """Raises Unavailable where the data folder cannot be written, before anything is started.

    A full disk is not the end: it is waited for, and who asks is told.
    """
    try:
        probe_folder(folder)
    except StorageDown as error:
        logger.warning(str(error))


def _engine(environ: Mapping[str, str], device: str, uuid: str) -> Child:
    command = [sys.executable, "-m", "app.engine", "--device", device, "--gpu", uuid]
    return Child(f"engine {device}", command, {**environ, "CUDA_VISIBLE_DEVICES": uuid}, device)


def _before_child() -> None:
    """In the child, before it becomes its program: it shall not outlive us, and gets its signals back."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

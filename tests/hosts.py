"""Databases and engines for tests: a real PostgreSQL in a temporary folder, and engines that start quickly.

An engine is forked from a process that has imported everything already; from there on it is the engine that is served.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa
from _disturbances import postgres_programs
from service import PATIENCE, free_port, wait_until

from app.config import Config
from app.jobs.client import Jobs
from app.jobs.store import Store

FAST = {
    "shapes": {"gaussians": 3_000},
    "render": {"size": 96},
    "validate": {"min_gaussians": 1_000},
    "jobs": {"heartbeat_seconds": 0.2, "lost_after_seconds": 2.0},
}


def settings(folder: Path, database: str = "", **sections: dict[str, object]) -> Config:
    """Small and quick, in a folder of its own. sections: more settings, by section."""
    tree: dict[str, dict[str, object]] = {name: dict(section) for name, section in FAST.items()}
    for name, section in ({"serve": {"data": str(folder)}, "database": {"url": database}} | sections).items():
        tree[name] = tree.get(name, {}) | section
    return Config.model_validate(tree)


# ---- engines ---------------------------------------------------------------------------------------------------------


class Host:
    """One data folder, and the engines started on it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log_file = Path(config.serve.data) / "engine.log"
        self.running: list[BaseProcess] = []
        Path(config.serve.data).mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def start(self, device: str = "cpu") -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["app.engine.engine"])
        config_file = Path(self.config.serve.data) / "config.json"
        config_file.write_text(self.config.model_dump_json(by_alias=True))
        process = context.Process(target=_engine, args=(str(config_file), device, str(self.log_file)))
        process.start()
        self.running.append(process)
        return process

    def start_ready(self, device: str = "cpu") -> BaseProcess:
        """Started, and through its self-test."""
        before = self.log.count("READY on")
        process = self.start(device)
        wait_until(
            lambda: self.log.count("READY on") > before or not process.is_alive(), "engine ready", lambda: self.log
        )
        assert process.is_alive(), self.log
        return process

    def kill(self, process: BaseProcess) -> None:
        process.kill()
        process.join()

    def stop(self, process: BaseProcess) -> int | None:
        """SIGTERM, and its exit code."""
        assert process.pid
        os.kill(process.pid, signal.SIGTERM)
        process.join(PATIENCE)
        return process.exitcode

    def kill_all(self) -> None:
        for process in self.running:
            if process.is_alive():
                self.kill(process)


def _engine(config_file: str, device: str, log: str) -> None:
    from app.engine import __main__ as engine

    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    config = Config.model_validate_json(Path(config_file).read_text())
    engine.load_config = lambda: config  # type: ignore[assignment]
    sys.argv = ["engine", "--device", device]
    engine.main()


@contextmanager
def host(config: Config) -> Iterator[Host]:
    here = Host(config)
    try:
        yield here
    finally:
        here.kill_all()


@contextmanager
def client(config: Config, clock: Callable[[], float] | None = None) -> Iterator[Jobs]:
    jobs = Jobs(config, clock) if clock else Jobs(config)
    try:
        yield jobs
    finally:
        jobs.close()


@contextmanager
def broken_disk(jobs: Jobs, what: str, table: str, code: str) -> Iterator[None]:
    """PostgreSQL refuses to INSERT or UPDATE there with this SQLSTATE: 53100, its disk is full; 58030, it fails."""
    with jobs.store.writing() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION broken_disk() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '{code}'; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER broken_disk BEFORE {what} ON {table} EXECUTE FUNCTION broken_disk()"
        )
    try:
        yield
    finally:
        with jobs.store.writing() as connection:
            connection.exec_driver_sql(f"DROP TRIGGER broken_disk ON {table}")


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------


class Server:
    """A PostgreSQL server of its own. url: of its first database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made = self._empty = 0

    def database(self) -> str:
        """The URL of a new, prepared database: a copy of one that was prepared once."""
        if not self._made:
            self._run("CREATE DATABASE prepared")
            Store(Config.model_validate({"database": {"url": self._named("prepared")}})).close()
        self._made += 1
        self._run(f"CREATE DATABASE copy{self._made} TEMPLATE prepared")
        return self._named(f"copy{self._made}")

    def empty_database(self) -> str:
        """The URL of a new database without any table."""
        self._empty += 1
        self._run(f"CREATE DATABASE empty{self._empty}")
        return self._named(f"empty{self._empty}")

    def database_without_encoding(self) -> str:
        """The URL of a new, empty one, as a server makes it that was set up without a locale."""
        self._run("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        return self._named("ascii")

    def _run(self, statement: str) -> None:
        url = sa.make_url(self.url).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def _named(self, name: str) -> str:
        return f"{self.url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Skips where PostgreSQL's server is not installed."""
    programs = postgres_programs()
    if not programs:
        pytest.skip("PostgreSQL's server is not installed: scripts/test-deps installs it")
    folder, port = Path(tempfile.mkdtemp(prefix="splatgate-pg-")), free_port()
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"  # no power cut is tested here
    initdb, pg_ctl = str(programs / "initdb"), str(programs / "pg_ctl")
    try:
        run(initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        run(pg_ctl, "-D", data, "-o", options, "-l", log, "-w", "start")
        try:
            yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared, empty database, to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    Store(settings(folder)).close()
    return folder / "splatgate.db"

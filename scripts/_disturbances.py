"""What `scripts/chaos` disturbs besides processes of the service: the database, the asset store, a whole host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from _serving import free_port


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, or None where PostgreSQL's server is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Postgres:
    """A PostgreSQL server in a temporary folder of its own, which the user `postgres` can reach where this is root, and
    durable as delivered. Raises SystemExit where it is not installed."""

    def __init__(self) -> None:
        programs = postgres_programs()
        if not programs:
            raise SystemExit("PostgreSQL's server is not installed: scripts/test-deps installs it")
        self._programs, self._port = programs, free_port()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="splatgate-postgres-"))
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        data = f"{self._folder}/data"
        self._run("pg_ctl", "-D", data, "-o", options, "-l", f"{self._folder}/log", "-w", "-t", "120", "start")

    def stop(self, mode: str) -> None:
        """mode: fast, an orderly end; immediate, without a checkpoint."""
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", mode, "-w", "stop")

    def remove(self) -> None:
        """Stops it and removes its folder."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def kill(self) -> None:
        """Every process of it, with SIGKILL."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """The server's processes, the first of them its parent."""
        first = (self._folder / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [int(pid) for pid in (first, *children)]

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


class Store:
    """A folder for assets, reached by a link, so that it can be away from one moment to the next."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder / "store")
        self._files, self._nothing = folder / "files", folder / "nothing"
        self._files.mkdir()
        self._nothing.touch()
        self._point_to(self._files)

    @contextmanager
    def away(self) -> Iterator[None]:
        """In its place is a file: everything that is written or read fails with ENOTDIR."""
        self._point_to(self._nothing)
        try:
            yield
        finally:
            self._point_to(self._files)

    def _point_to(self, target: Path) -> None:
        link = Path(f"{self.url}.new")
        link.symlink_to(target)
        link.replace(self.url)


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """While the block runs, the processes stand still, as in a virtual machine that is paused."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def disturb_database(postgres: Postgres, how: str, seconds: float) -> None:
    """how: database killed, restarted or paused; it is away for so many seconds."""
    if how == "database paused":
        with paused(postgres.pids()):
            time.sleep(seconds)
        return
    postgres.kill() if how == "database killed" else postgres.stop("fast")
    time.sleep(seconds)
    postgres.start()

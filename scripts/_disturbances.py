"""The faults that `scripts/chaos` injects besides killing processes: in the database, the store or a whole host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import requests
from _s3_server import BUCKET, object_store
from _serving import free_port

STORE_MB = 512
"""Size of the file system for assets. The splats of a run, 200 kB each, do not fill it."""

SLOW_SECONDS = 3.0


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
        """mode: `fast` shuts down cleanly, `immediate` without a checkpoint."""
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", mode, "-w", "stop")

    def remove(self) -> None:
        """Stops it and removes its folder."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def kill(self) -> None:
        """Kills all of its processes with SIGKILL."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """The PIDs of the server, its parent process first."""
        first = (self._folder / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [int(pid) for pid in (first, *children)]

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


class FolderStore:
    """An asset folder that can be made unavailable and, if this process may mount, read-only or full."""

    def __init__(self, folder: Path) -> None:
        self.url, self.environ = str(folder / "store"), dict[str, str]()
        self._files, self._nothing = folder / "files", folder / "nothing"
        self._files.mkdir()
        self._nothing.touch()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_MB}m", "splatgate-chaos", str(self._files)]
        self._mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self._point_to(self._files)
        self.faults = {"store away": 0.2} | ({"store read-only": 0.2, "store full": 0.2} if self._mounted else {})

    def disturb(self, how: str, seconds: float) -> None:
        """how: a key of `faults`. seconds: how long it lasts."""
        with {"store away": self._away, "store read-only": self._read_only, "store full": self._full}[how]():
            time.sleep(seconds)

    def remove(self) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._files)], check=True)

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Replaces the folder with a file, so that every access fails with ENOTDIR."""
        self._point_to(self._nothing)
        try:
            yield
        finally:
            self._point_to(self._files)

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        """As after a disk error. Remounting fails while a file is open for writing, so it is retried."""
        while not self._remount("ro"):
            time.sleep(0.01)
        try:
            yield
        finally:
            assert self._remount("rw")

    @contextmanager
    def _full(self) -> Iterator[None]:
        filler = self._files / ".filler"
        with filler.open("wb") as stream, suppress(OSError):
            while True:
                stream.write(bytes(2**20))
                stream.flush()
        try:
            yield
        finally:
            filler.unlink()

    def _remount(self, mode: str) -> bool:
        command = ["mount", "-o", f"remount,{mode}", str(self._files)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _point_to(self, target: Path) -> None:
        link = Path(f"{self.url}.new")
        link.symlink_to(target)
        link.replace(self.url)


class ObjectStore:
    """An S3 server behind a proxy that refuses requests, delays them, or cuts the responses off."""

    def __init__(self, folder: Path) -> None:
        self.faults = {"store refuses": 0.2, "store slow": 0.2, "store cuts off": 0.2}
        self.url = f"s3://{BUCKET}/chaos"
        self._stack = ExitStack()
        upstream = self._stack.enter_context(object_store(free_port(), folder / "s3.log"))
        self._proxy = _ProxyServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), {"upstream": upstream, "fault": ""}))
        self._stack.callback(self._proxy.shutdown)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.environ = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.server_port}",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def disturb(self, how: str, seconds: float) -> None:
        """how: a key of `faults`. seconds: how long it lasts."""
        proxy = cast(type[_Proxy], self._proxy.RequestHandlerClass)
        proxy.fault = how
        time.sleep(seconds)
        proxy.fault = ""

    def remove(self) -> None:
        self._stack.close()


class _ProxyServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Prints nothing: clients that are killed reset their connections."""


class _Proxy(BaseHTTPRequestHandler):
    """Forwards every request to `upstream`. fault: what it does instead; empty for none."""

    protocol_version = "HTTP/1.1"
    upstream: str
    fault: str

    def forward(self) -> None:
        fault = self.fault
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "store refuses":
            self.send_error(503)
            return
        if fault == "store slow":
            time.sleep(SLOW_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        answer = requests.request(
            self.command, self.upstream + self.path, data=body, headers=headers, timeout=60, stream=True
        )
        content = answer.raw.read(decode_content=False)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "store cuts off" and content:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    def log_message(self, *_: object) -> None:
        """Logs nothing: the service's log has what matters."""


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Stops the processes while the block runs, as when a virtual machine is paused."""
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
    """how: "database killed", "database restarted" or "database paused". seconds: how long it is unavailable."""
    if how == "database paused":
        with paused(postgres.pids()):
            time.sleep(seconds)
        return
    postgres.kill() if how == "database killed" else postgres.stop("fast")
    time.sleep(seconds)
    postgres.start()

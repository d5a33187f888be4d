"""A real web process and a real engine for tests, as separate processes on a free port, in one folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from _serving import clean_environ, free_port

PATIENCE = 600
"""Seconds; how long a test waits for a process, at most."""

FAST: dict[str, object] = {
    "SHAPES__GAUSSIANS": 3_000,
    "VALIDATE__MIN_GAUSSIANS": 1_000,
    "VALIDATE__THRESHOLD": 0.25,
    "RENDER__SIZE": 96,
    "TURNTABLE__SIZE": 64,
    "TURNTABLE__SECONDS": 0.2,
}
"""Settings for small splats. With seed 0 they give "a blue rocket" over 0.30 and REFUSED under 0.23."""

REFUSED = "a brown table next to a red rocket"


@dataclass(frozen=True)
class Service:
    """A running web process. log: what it wrote to standard error."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def folder(self) -> Path:
        return self.log_file.parent

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def web(folder: Path, **settings: object) -> Iterator[Service]:
    """`python -m app.web.server` on a free port, answering. settings: SECTION__KEY=value."""
    port = free_port()
    log = folder / f"web-{port}.log"
    with _process("app.web.server", log, {"SERVE__DATA": folder, "SERVE__PORT": port} | settings) as process:
        service = Service(f"http://127.0.0.1:{port}", process, log)
        wait_until(lambda: _answers(service), "the web process answers", log.read_text)
        yield service


@contextmanager
def engine(folder: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m app.engine` on the same folder, started but perhaps not ready yet."""
    with _process("app.engine", folder / "engine.log", {"SERVE__DATA": folder} | settings) as process:
        yield process


def wait_until(condition: Callable[[], bool], what: str, log: Callable[[], str] = str) -> None:
    """log: read where the condition does not come true, to be shown."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}\n{log()}"
        time.sleep(0.05)


@contextmanager
def _process(module: str, log: Path, settings: dict[str, object]) -> Iterator[subprocess.Popen[bytes]]:
    environment = clean_environ() | {f"SPLATGATE__{name}": str(value) for name, value in settings.items()}
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=stream, stdout=stream)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(service: Service) -> bool:
    assert service.process.poll() is None, service.log
    try:
        return requests.get(f"{service.url}/livez", timeout=5).ok
    except requests.RequestException:
        return False

"""Starts `splatgate serve` for scripts and tests: on a free port, ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from _venv import ROOT

PATIENCE = 600.0
"""Seconds for its start, and for its end."""


@contextmanager
def service(folder: Path, profile: str = "shapes", root: Path = ROOT, **settings: object) -> Iterator[str]:
    """Yields its URL without a trailing slash. folder: for its data and log. root: holds app/. settings:
    SECTION__KEY=value.

    Raises RuntimeError with the end of the log if it does not become ready.
    """
    port = free_port()
    environ = clean_environ() | {f"SPLATGATE__{name}": str(value) for name, value in settings.items()}
    environ["PYTHONPATH"] = str(root)
    words = "serve", "--profile", profile, "--port", str(port), "--data", str(folder / "data")
    url, log = f"http://127.0.0.1:{port}", folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *words],
            env=environ,
            cwd=root,
            stdout=stream,
            stderr=stream,
        )
    try:
        end = time.monotonic() + PATIENCE
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service did not become ready:\n{log.read_text()[-3_000:]}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environ() -> dict[str, str]:
    """The environment without settings of Splatgate."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPLATGATE")}


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=20).ok
    except requests.RequestException:
        return False

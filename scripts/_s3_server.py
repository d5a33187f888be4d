"""An S3 server with one bucket, for tests and scripts/chaos."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from _serving import PATIENCE

BUCKET = "splats"


@contextmanager
def object_store(port: int, log: Path) -> Iterator[str]:
    """A server in a process of its own, with an empty bucket. Yields its URL.

    Raises RuntimeError if it does not start.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    end = time.monotonic() + PATIENCE
    try:
        while not _has_bucket(url):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the S3 server did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def _has_bucket(url: str) -> bool:
    try:
        return requests.put(f"{url}/{BUCKET}", timeout=60).ok
    except requests.RequestException:
        return False

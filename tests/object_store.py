"""An object store for tests: an S3 server in its own process, with one bucket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from service import free_port, wait_until

BUCKET = "splats"
SECRET = "this-is-the-secret-key-of-the-bucket"  # what no log and no message may hold


@contextmanager
def object_store(port: int, log: Path) -> Iterator[str]:
    """A server with an empty bucket. Yields its address."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: _has_bucket(url) or server.poll() is not None, "the object store answers")
        assert server.poll() is None, log.read_text()
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that all tests share."""
    with object_store(free_port(), tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty place in the store; this process, and those that it starts, have the credentials."""
    give_credentials(monkeypatch, s3_server)
    return f"s3://{BUCKET}/{tmp_path.name}"


def give_credentials(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def _has_bucket(url: str) -> bool:
    try:
        return requests.put(f"{url}/{BUCKET}", timeout=60).ok
    except requests.RequestException:
        return False

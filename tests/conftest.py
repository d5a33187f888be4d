"""Fixtures of several test modules: one real service, started once, when a test first uses it."""

import os
from collections.abc import Iterator

import pytest
import requests
from hypothesis import settings
from service import FAST, Service, engine, wait_until, web

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: torch's own threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, as many seconds as they need. `--hypothesis-profile default` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A web process and an engine with small splats, READY."""
    folder = tmp_path_factory.mktemp("service")
    with engine(folder, **FAST), web(folder, **FAST) as running:
        wait_until(lambda: requests.get(f"{running.url}/readyz", timeout=20).ok, "an engine is ready")
        yield running

"""What several test modules share: one real service, started once, and only when a test asks for it."""

from collections.abc import Iterator

import pytest
import requests
from hypothesis import settings
from service import FAST, Service, engine, wait_until, web

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

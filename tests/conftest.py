"""What several test modules share: one real service, started once, and only when a test asks for it."""

from collections.abc import Iterator

import pytest
import requests
from service import FAST, Service, engine, wait_until, web


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A web process and an engine with small splats, READY."""
    folder = tmp_path_factory.mktemp("service")
    with engine(folder, **FAST), web(folder, **FAST) as running:
        wait_until(lambda: requests.get(f"{running.url}/readyz", timeout=20).ok, "an engine is ready")
        yield running

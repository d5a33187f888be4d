"""The service under kill -9: nothing that was acknowledged is lost, nothing is done twice. See scripts/chaos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from _disturbances import postgres_programs

pytestmark = pytest.mark.e2e

CHAOS = Path(__file__).parent.parent / "scripts" / "chaos"
TWO_HOURS = 7_200.0
"""The machine may be slow: this tests that nothing is lost, not how long it takes."""


NOTHING = (
    *("lost", "duplicates", "done without a result", "files that differ", "certificates that differ"),
    *("folders of no job", "answers that were wrong"),
)


def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    """Faster than `scripts/chaos` by default: half of the kills do not wait until the service is ready again."""
    _chaos(tmp_path, 20)


@pytest.mark.skipif(
    not postgres_programs(), reason="PostgreSQL's server is not installed: scripts/test-deps installs it"
)
@pytest.mark.parametrize("options", [("--database", "--store", "--pause"), ("--hosts", "3", "--s3")], ids=" ".join)
def test_failing_databases_stores_and_hosts_lose_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    _chaos(tmp_path, 15, *options)


def _chaos(folder: Path, kills: int, *options: str) -> None:
    command = [sys.executable, str(CHAOS), "--kills", str(kills), "--seed", "7", "--alive", "1", "--early", "0.5"]
    command += ["--keep", str(folder), "--json", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TWO_HOURS)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert sum(found["kills"].values()) == kills
    assert found["acknowledged"] > 0
    for nothing in NOTHING:
        assert found[nothing] == [], nothing
    assert found["jobs that are stuck"] == 0

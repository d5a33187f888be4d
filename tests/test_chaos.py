"""The service under kill -9: nothing that was acknowledged is lost, nothing is done twice. See scripts/chaos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

CHAOS = Path(__file__).parent.parent / "scripts" / "chaos"
TWO_HOURS = 7_200.0
"""A machine may be as slow as it likes: that nothing is lost is what is tested here, and no time."""


def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    """At a quicker pace than `scripts/chaos` has by itself: half of the kills do not wait for the last one's end."""
    command = [sys.executable, str(CHAOS), "--kills", "20", "--seed", "7", "--alive", "1", "--early", "0.5"]
    command += ["--keep", str(tmp_path), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TWO_HOURS)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert sum(found["kills"].values()) == 20
    assert found["acknowledged"] > 0
    for nothing in ("lost", "duplicates", "files that differ", "answers that were wrong"):
        assert found[nothing] == [], nothing
    assert found["jobs that are stuck"] == 0

"""The service under kill -9: nothing that was acknowledged is lost, nothing is done twice. See scripts/chaos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent.parent / "scripts" / "chaos"


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(CHAOS), "--kills", "20", "--seed", "5", "--keep", str(tmp_path), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert sum(found["kills"].values()) == 20
    assert found["acknowledged"] > 0
    for nothing in ("lost", "duplicates", "files that differ", "answers that were wrong"):
        assert found[nothing] == [], nothing

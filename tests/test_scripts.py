"""Every script explains itself."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
NAMES = sorted(
    path.name for path in SCRIPTS.iterdir() if path.is_file() and not path.name.startswith("_") and not path.suffix
)


@pytest.mark.e2e
@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_does_and_how_it_is_called(name: str) -> None:
    ran = subprocess.run([SCRIPTS / name, "--help"], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert f"scripts/{name}" in ran.stdout or f"usage: {name}" in ran.stdout
    assert len(ran.stdout.splitlines()) >= 2

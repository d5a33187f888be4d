"""Lets the Python scripts in this folder be run directly: they re-execute themselves with the interpreter of .venv."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def enter() -> None:
    """Re-executes the script in .venv if there is one, and makes `app` importable.

    A GPU machine may have the packages elsewhere, and no .venv.
    """
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), *sys.argv])
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))

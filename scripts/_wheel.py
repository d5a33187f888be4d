"""The wheel: built from the checkout, compared with it, and tried in an environment with no other copy of Splatgate."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

from _venv import ROOT

VIEWER = "app/web/static/vendor/"
"""What scripts/page installs; not in git, but part of the wheel."""


class WheelError(Exception):
    """The wheel lacks something, holds too much, or does not work."""


def build(folder: Path) -> Path:
    """Builds the wheel into the folder, in place of an earlier one. Raises WheelError with the output of the build."""
    for earlier in folder.glob("*.whl"):
        earlier.unlink()
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder.resolve())
    return next(folder.glob("*.whl"))


def needed() -> set[str]:
    """The files under app/ that are in git, and those of the viewer."""
    tracked = run("git", "ls-files", "app").splitlines()
    return {*tracked, *(path.relative_to(ROOT).as_posix() for path in (ROOT / VIEWER).glob("*"))}


def check_contents(wheel: Path, needed: Iterable[str]) -> None:
    """Raises WheelError with the names of the files that the wheel lacks or should not have."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set(needed)
    if f"{VIEWER}spark.js" not in wanted:
        raise WheelError("the page's viewer is not installed, so that the wheel lacks it; run scripts/page")
    if wrong := sorted(wanted ^ held):
        words = [f"{name} ({'missing' if name in wanted else 'not in git'})" for name in wrong]
        raise WheelError(f"{wheel.name} does not hold what git has: {', '.join(words[:10])}")


def install(wheel: Path, folder: Path, lock: Path | None) -> Path:
    """Makes an environment with the wheel. Returns its folder of programs.

    lock: the dependencies are installed from it. None: they are those of this environment, which are on the path after
    the new one's own packages, so that `app` can only come from the wheel.
    """
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if lock:
        run(*pip, "--require-hashes", "--requirement", lock)
    else:
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*pip, "--no-deps", "--no-index", wheel)
    return folder / "bin"


def check_works(programs: Path, version: str, folder: Path) -> None:
    """Runs the installed command: its version, its help, and one splat from a prompt, away from the checkout."""
    folder.mkdir()
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "PYTHONSAFEPATH": "1"}
    splatgate = programs / "splatgate"
    where = run(programs / "python", "-c", "import app; print(app.__file__)", folder=folder, environ=environ).strip()
    if not Path(where).is_relative_to(programs.parent):
        raise WheelError(f"app is imported from {where}, not from the wheel")
    if run(splatgate, "--version", folder=folder, environ=environ).split()[-1] != version:
        raise WheelError(f"the installed splatgate is not {version}")
    run(splatgate, "--help", folder=folder, environ=environ)
    words = "generate", "--profile", "shapes", "--seed", "0", "--output", "splat", "a blue rocket"
    run(splatgate, *words, folder=folder, environ=environ)
    if not list(folder.glob("splat/**/*.ply")):
        raise WheelError("splatgate generate ended without an error, but wrote no splat")


def run(*words: str | Path, folder: Path = ROOT, environ: dict[str, str] | None = None) -> str:
    """The standard output. Raises WheelError with the last lines if the command fails."""
    environ = {**os.environ, "PYTHONPATH": ""} if environ is None else environ
    done = subprocess.run([*map(str, words)], cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        end = (done.stdout + done.stderr)[-1500:]
        raise WheelError(f"{' '.join(map(str, words))}: exit {done.returncode}\n{end}")
    return done.stdout

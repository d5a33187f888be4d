"""The pins of the lock files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from _venv import ROOT
from packaging.markers import Marker

IMAGE, DEVELOPMENT = ROOT / "scripts/image.lock", ROOT / "scripts/requirements.lock"
PYTHONS = "3.11", "3.12", "3.13"
IMAGE_PYTHON = "3.12"
"""The version that Ubuntu 24.04, the base of the image, has."""

PIN = re.compile(r"^(?P<name>[^\s=]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\\n]+))?", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Pin:
    """hashes: sha256 in hex, one for each file of the package that may be installed."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version


def pins(lock: Path, pythons: tuple[str, ...] = PYTHONS) -> list[Pin]:
    """What the lock installs on Linux, x86-64, with any of these versions of Python; sorted by name."""
    text = lock.read_text()
    found = list(PIN.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return sorted(
        Pin(match["name"], match["version"], tuple(re.findall(r"sha256:(\w+)", text[match.end() : end])))
        for match, end in zip(found, ends, strict=True)
        if any(applies(match["marker"], python) for python in pythons)
    )


def applies(marker: str | None, python: str) -> bool:
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
    cpython = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    version = {"python_version": python, "python_full_version": f"{python}.0"}
    return not marker or Marker(marker).evaluate(linux | cpython | version)

"""The licences of everything that Splatgate installs, loads or builds on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from _locks import DEVELOPMENT, IMAGE, IMAGE_PYTHON, PYTHONS, Pin, pins
from _venv import ROOT
from cyclonedx import spdx
from packaging.utils import canonicalize_name

from app.weights.manifest import MODELS

FILE = ROOT / "THIRD_PARTY_LICENCES.md"
Licences = Mapping[tuple[str, str], str]

SPDX = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD": "BSD License",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "LicenseRef-NVIDIA-Proprietary": "LicenseRef-NVIDIA-Proprietary",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages call their licences. Which BSD licence "BSD License" is, their metadata do not say."""

BY_HAND = {
    "axe-playwright-python": "MIT AND MPL-2.0",  # the latter: axe-core, which it brings
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # no files of its own; its dependencies are NVIDIA's
    "gsplat": "Apache-2.0",
    "torchao": "BSD-3-Clause",
    "torchvision": "BSD-3-Clause",
}
"""Of packages whose metadata name none: read in the licence file that the package brings."""

COPYLEFT = {
    "plyfile": "GPL-3.0-or-later; `app/splat/ply.py` imports it. Splatgate's own source is MIT, but whoever "
    "distributes it together with plyfile, as in the image, has to follow the GPL for the combination",
    "av": "BSD-3-Clause, but its wheels contain FFmpeg (LGPL-3.0-or-later) with libx264, which encodes "
    "`turntable.mp4`, and libx265 (both GPL-2.0-or-later)",
}
"""What the image holds under the GPL, with what follows. `render` fails on any other."""

IMAGES = {
    "nvidia/cuda": "NVIDIA Deep Learning Container License; its Ubuntu packages have their own",
    "postgres": "PostgreSQL; only with `compose/postgres.yaml`",
    "prom/prometheus": "Apache-2.0; only with `compose/monitoring.yaml`",
    "grafana/grafana": "AGPL-3.0-only; only with `compose/monitoring.yaml`",
}

HEAD = """# Licences of dependencies
<!-- made by scripts/licences: do not edit -->
Splatgate's own code and its own small weights are under the MIT licence ([LICENSE](LICENSE)). What it installs and
loads has licences of its own. The list is made from the locks and the metadata of the packages. The texts of the
licences are in the packages; in the image these are under `/opt/splatgate`.

Obligations that permissive licences do not have:
"""


class MissingError(Exception):
    """A package without a known licence, or one with a licence that needs a decision."""


def render(*, download: bool) -> str:
    """The file. Raises MissingError, which names the packages, if a licence is unknown."""
    shipped = pins(IMAGE, (IMAGE_PYTHON,))
    every = sorted({pin.key: pin for pin in [*shipped, *pins(DEVELOPMENT)]}.values())
    licences = licences_of(every, download=download)
    in_image = {pin.key for pin in shipped}
    check_copyleft({name: licences[name, version] for name, version in in_image})
    packages = [
        (pin.name, pin.version, licences[pin.key], "image" if pin.key in in_image else "development") for pin in every
    ]
    notes = [f"- **{name}**: {note}." for name, note in COPYLEFT.items()]
    notes.append(f"- **{of(licences, in_image, 'LGPL')}**: LGPL, used unchanged as libraries that can be replaced.")
    notes.append(f"- **{of(licences, in_image, 'MPL')}**: MPL, used unchanged.")
    notes.append(f"- **{of(licences, in_image, 'NVIDIA-Proprietary')}**: NVIDIA's licence terms for CUDA libraries.")
    parts = [
        HEAD + "\n".join(notes),
        f"## Python packages\nPython {PYTHONS[0]} to {PYTHONS[-1]} on Linux; the image has {IMAGE_PYTHON}.\n\n"
        + table(("package", "version", "licence", "in"), packages),
        "## Modules of the page\n" + table(("module", "version", "licence"), page_modules()),
        "## Models\nNot part of the image. `splatgate models fetch` downloads those whose licence is stated.\n\n"
        + table(("model", "repository", "licence"), [(one.name, one.repository, one.licence) for one in MODELS]),
        "## Images\n" + table(("image", "licence"), IMAGES.items()),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of(licences: Licences, keys: set[tuple[str, str]], word: str) -> str:
    return ", ".join(name for name, version in sorted(keys) if word in licences[name, version])


def listed(file: Path = FILE) -> dict[tuple[str, str], str]:
    """The licences of packages that the file lists, by name and version."""
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([^|]+) \| (?:image|development) \|$", file.read_text(), re.MULTILINE)
    return {(name, version): licence for name, version, licence in rows}


def page_modules() -> list[tuple[str, str, str]]:
    """Name, version and licence of the modules that scripts/page installs."""
    packages = json.loads((ROOT / "app/web/package-lock.json").read_text())["packages"]
    return [
        (path.removeprefix("node_modules/"), entry["version"], entry["license"])
        for path, entry in packages.items()
        if path
    ]


# ---- the licences of packages ----------------------------------------------------------------------------------------


def licences_of(every: list[Pin], *, download: bool) -> dict[tuple[str, str], str]:
    found = read_all(distributions())
    if FILE.exists():
        found = listed() | found
    missing = [pin for pin in every if pin.key not in found]
    if missing and not download:
        names = ", ".join(f"{pin.name} {pin.version}" for pin in missing)
        raise MissingError(f"{FILE.name} does not list {names}; run scripts/licences")
    if missing:
        found |= downloaded(missing)
    return found


def read_all(found: Iterable[Distribution]) -> dict[tuple[str, str], str]:
    packages = ((canonicalize_name(each.name), each) for each in found)
    return {(name, each.version): licence(name, each) for name, each in packages if name != "splatgate"}


def downloaded(missing: list[Pin]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for number, pin in enumerate(missing, 1):
        print(f"scripts/licences: {number} of {len(missing)}: {pin.name} {pin.version}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            install(pin, folder)
            found |= read_all(distributions(path=[folder]))
    return found


def install(pin: Pin, folder: str) -> None:
    """Unpacks the package alone. Raises MissingError with the last lines of uv."""
    words = ["uv", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder]
    words += ["--python-platform", "x86_64-unknown-linux-gnu"]
    for python in PYTHONS:
        done = subprocess.run(
            [*words, "--python-version", python, f"{pin.name}=={pin.version}"], capture_output=True, text=True
        )
        if done.returncode == 0:
            return
    raise MissingError(f"uv could not install {pin.name} {pin.version}:\n{done.stderr[-1000:]}")


def licence(name: str, package: Distribution) -> str:
    """An SPDX expression where the metadata allow one, else the licence's name.

    Raises MissingError if there is none.
    """
    metadata = package.metadata
    if name in BY_HAND or "License-Expression" in metadata:
        return BY_HAND.get(name) or metadata["License-Expression"]
    text = " ".join((metadata.get("License") or "").split())
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if each[:7] == "License"]
    names = [SPDX.get(each, each) for each in classifiers]
    exact = SPDX.get(text) or spdx.fixup_id(text) or (text if spdx.is_expression(text) else "")
    if exact and exact != "BSD License":
        return exact
    short = exact or (text if len(text) < 40 else "")
    if not names and not short:
        raise MissingError(f"{name}: its metadata name no licence; read its licence file and add it to BY_HAND")
    return ", ".join(names) or short


def check_copyleft(image: Mapping[str, str]) -> None:
    strong = {name for name, text in image.items() if re.search(r"(?<!L)GPL|GNU General", text)}
    if unknown := strong - COPYLEFT.keys():
        raise MissingError(f"the image would hold packages under the GPL: {', '.join(sorted(unknown))}; see COPYLEFT")

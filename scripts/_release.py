"""What scripts/release checks before a release, and the texts that it writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import _licences
from _venv import ROOT

BUILD = re.compile(r"^    build:\n(?: {6,}.*\n)+", re.MULTILINE)
IMAGE = "${SPLATGATE_IMAGE:-splatgate:latest}"
BASE = re.compile(r"^ARG (\w+_BASE)=(\S+)$", re.MULTILINE)
PINNED = re.compile(r"^(\S+@)?sha256:[0-9a-f]{64}$")


class ReleaseError(Exception):
    """A reason for which the release cannot be made."""


def git(*words: str, root: Path = ROOT) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def docker(*words: str | Path, shown: bool = False) -> str:
    """The standard output, or nothing if it is shown. Raises ReleaseError if there is no engine, or if it fails."""
    without = "Without it run: scripts/release check wheel sbom, and compose with --image"
    if not shutil.which("docker"):
        raise ReleaseError(f"this step needs Docker, which is not installed. {without}")
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True)
    if asked.returncode:
        raise ReleaseError(f"this step needs a running Docker engine: {asked.stderr.strip()}\n{without}")
    done = subprocess.run(["docker", *map(str, words)], capture_output=not shown, text=True)
    if done.returncode:
        hint = "" if shown else f"\n{done.stderr[-1500:]}"
        raise ReleaseError(f"docker {words[0]}: exit {done.returncode}{hint}")
    return done.stdout or ""


def docker_has(image: str) -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def obstacles(version: str, root: Path = ROOT) -> Iterator[str]:
    """Every reason not to release this checkout as this version, with the remedy."""
    changed = git("diff", "--name-only", "HEAD", root=root).splitlines()
    if names := changed + git("ls-files", "--others", "--exclude-standard", root=root).splitlines():
        yield f"the checkout has changes: commit or remove {', '.join(names[:5])}"
    if git("tag", "--list", f"v{version}", root=root):
        yield f"the tag v{version} exists: set the next version in app/__init__.py"
    yield from changelog_obstacles(version, (root / "CHANGELOG.md").read_text())
    for argument, image in bases(root).items():
        if not PINNED.match(image):
            yield f"{argument}={image} has no digest: run scripts/renew-base-images"


def bases(root: Path = ROOT) -> dict[str, str]:
    """The base images in the Dockerfile, by their build arguments."""
    return dict(BASE.findall((root / "Dockerfile").read_text()))


def changelog_obstacles(version: str, text: str) -> Iterator[str]:
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    heads = [section.splitlines()[0] for section in sections]
    if not any(head.startswith(f"[{version}] - ") for head in heads):
        yield f"CHANGELOG.md has no section for {version}: '## [{version}] - YYYY-MM-DD'"
    for head, section in zip(heads, sections, strict=True):
        if head == "[Unreleased]" and section.strip() != head:
            yield f"CHANGELOG.md has entries under [Unreleased]: move them to [{version}]"


def licence_obstacles() -> Iterator[str]:
    try:
        text = _licences.render(download=False)
    except _licences.MissingError as error:
        yield str(error)
    else:
        if text != _licences.FILE.read_text():
            yield f"{_licences.FILE.name} is out of date: run scripts/licences"


def pinned_compose(text: str, reference: str) -> str:
    """A Compose file of ours for hosts without a checkout: it names the image by digest, and builds nothing.

    reference: NAME@sha256:..., or sha256:..., the ID of an image that is not in a registry. Raises ReleaseError for
    anything else, as a tag can be moved.
    """
    if not PINNED.match(reference):
        raise ReleaseError(f"{reference} is no digest: NAME@sha256:... or sha256:... is needed")
    text = BUILD.sub("", text.replace(IMAGE, reference))
    return "".join(line for line in text.splitlines(keepends=True) if "docker compose build" not in line)

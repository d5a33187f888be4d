"""What a release promises: one version, a changelog by release, the licences of all dependencies, files for a forge."""

import re
import subprocess
import sys
from email.message import Message
from importlib.metadata import PathDistribution
from pathlib import Path

import _licences
import pytest
from _locks import IMAGE, Pin, applies, pins

from app import __version__

ROOT = Path(__file__).parent.parent
FORGE = ROOT / ".github"


def check_schema(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    check = Path(sys.executable).with_name("check-jsonschema")
    return subprocess.run([check, "--builtin-schema", schema, *files], capture_output=True, text=True)


# ---- version and changelog -------------------------------------------------------------------------------------------


def test_the_version_is_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    names = "app", "scripts", "compose", "systemd", "pyproject.toml", "Dockerfile", "compose.yaml", "config.toml"
    paths = [path for name in names for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
    paths = [path for path in paths if path.suffix not in (".lock", ".pyc", ".safetensors", ".gz")]
    paths = [path for path in paths if not {"vendor", "node_modules"} & set(path.parts) and "-lock" not in path.name]
    exact = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    assert [path.relative_to(ROOT).as_posix() for path in paths if exact.search(path.read_text())] == [
        "app/__init__.py"
    ]


def test_the_changelog_is_by_release_and_the_newest_is_this_version() -> None:
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("#")]
    releases = [line for line in lines if line.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    dated = [re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", line) for line in releases[1:]]
    assert all(dated)
    assert next(match[1] for match in dated if match) == __version__
    dates = [match[2] for match in dated if match]
    assert dates == sorted(dates, reverse=True)
    kinds = {"### Added", "### Changed", "### Deprecated", "### Removed", "### Fixed", "### Security"}
    assert {line for line in lines[1:] if not line.startswith("## ")} <= kinds


# ---- licences --------------------------------------------------------------------------------------------------------


def test_the_list_of_licences_is_current() -> None:
    assert _licences.FILE.read_text() == _licences.render(download=False), "run scripts/licences"


def test_every_package_of_the_image_is_listed_with_its_licence() -> None:
    listed = _licences.listed()
    assert {pin.key for pin in pins(IMAGE)} - listed.keys() == set()
    assert not [key for key, licence in listed.items() if not licence.strip() or licence == "UNKNOWN"]


def test_a_package_that_is_not_listed_is_named() -> None:
    with pytest.raises(_licences.MissingError, match=r"does not list nosuch 1\.2"):
        _licences.licences_of([Pin("nosuch", "1.2")], download=False)


def test_a_new_package_under_the_gpl_needs_a_decision() -> None:
    _licences.check_copyleft({"a": "MIT", "b": "LGPL-3.0-only", "plyfile": "GPL-3.0-or-later"})
    for licence in ("GPL-2.0-only", "MIT AND GPL-3.0-or-later", "AGPL-3.0-only", "GNU General Public License (GPL)"):
        with pytest.raises(_licences.MissingError, match="c; see COPYLEFT"):
            _licences.check_copyleft({"a": "MIT", "c": licence})


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT AND PSF-2.0", "License": "see COPYING"}, "MIT AND PSF-2.0"),
        ({"License": "apache-2.0"}, "Apache-2.0"),
        ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
        ({"License": "BSD", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "Copyright (c) 2001 " * 9, "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: ISC License (ISCL)"}, "ISC"),
        ({"License": "A licence of our own"}, "A licence of our own"),
    ],
)
def test_a_licence_is_read_from_every_form_of_metadata(fields: dict[str, str], licence: str, tmp_path: Path) -> None:
    assert _licences.licence("a", distribution(tmp_path, fields)) == licence


def test_metadata_without_a_licence_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(_licences.MissingError, match="a: its metadata name no licence"):
        _licences.licence("a", distribution(tmp_path, {"Classifier": "Topic :: Software Development"}))


def distribution(folder: Path, fields: dict[str, str]) -> PathDistribution:
    message = Message()
    for name, value in ({"Metadata-Version": "2.4", "Name": "a", "Version": "1"} | fields).items():
        message[name] = value
    (folder / "METADATA").write_text(message.as_string())
    return PathDistribution(folder)


def test_every_image_that_is_named_has_a_licence() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "Dockerfile", *(ROOT / "compose").glob("*.yaml")))
    named = set(re.findall(r"(?:_BASE=|^ +image: )([\w./-]+):", text, re.MULTILINE))
    assert named == set(_licences.IMAGES)


def test_markers_of_the_lock_choose_what_linux_installs() -> None:
    assert applies(None, "3.11")
    assert applies("python_full_version < '3.12' and sys_platform == 'linux'", "3.11")
    assert not applies("python_full_version < '3.12'", "3.12")
    assert not applies("sys_platform == 'win32'", "3.12")
    image = {pin.name: pin for pin in pins(IMAGE, ("3.12",))}
    assert "colorama" not in image
    assert len(pins(IMAGE, ("3.12",))) == len(image), "one version of each package for one Python"
    assert all(len(each) == 64 for each in image["torch"].hashes)


# ---- the forge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", [*FORGE.glob("workflows/*.yml")]),
        ("vendor.github-issue-config", [FORGE / "ISSUE_TEMPLATE/config.yml"]),
        ("vendor.github-issue-forms", [*FORGE.glob("ISSUE_TEMPLATE/*_*.yml")]),
    ],
)
def test_files_for_the_forge_are_what_it_allows(schema: str, files: list[Path]) -> None:
    assert files
    done = check_schema(schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_workflow_is_seen(tmp_path: Path) -> None:
    text = (FORGE / "workflows/ci.yml").read_text()
    (tmp_path / "ci.yml").write_text(text.replace("runs-on:", "run-on:"))
    assert "run-on" in check_schema("vendor.github-workflows", tmp_path / "ci.yml").stdout


def test_the_forge_runs_the_same_checks_as_we_do_and_may_only_read() -> None:
    text = (FORGE / "workflows/ci.yml").read_text()
    assert re.search(r"^ +(TMPDIR=\S+ )?\.ci/run$", text, re.MULTILINE)
    assert "permissions:\n  contents: read\n" in text
    assert "pull_request_target" not in text
    assert all(re.search(r"@[0-9a-f]{40} # v", line) for line in re.findall(r"uses: .*", text)), "pinned by commit"

"""What a release promises: version, changelog, licences, wheel, SBOM, pinned images, and the files for a forge."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from email.message import Message
from importlib.metadata import PathDistribution
from pathlib import Path

import _licences
import _wheel
import pytest
import yaml
from _locks import IMAGE, Pin, applies, pins
from _release import PINNED, ReleaseError, bases, changelog_obstacles, docker, docker_has, obstacles, pinned_compose
from _sbom import SbomError, sbom

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
    paths = [
        path
        for path in paths
        if not {"vendor", "node_modules", "__pycache__"} & set(path.parts) and "-lock" not in path.name
    ]
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


# ---- base images -----------------------------------------------------------------------------------------------------

DIGESTS = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def renew(folder: Path, answer: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs scripts/renew-base-images on folder/Dockerfile. `answer`: shell commands in place of `docker buildx`."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/docker").write_text(f'#!/bin/sh\ncase "$*" in\n"buildx version") ;;\n{answer}\nesac\n')
    (folder / "bin/docker").chmod(0o755)
    script = ROOT / "scripts/renew-base-images"
    environ = {"PATH": f"{folder}/bin:/usr/bin:/bin"}
    return subprocess.run([script, *words, folder / "Dockerfile"], env=environ, capture_output=True, text=True)


def test_base_images_are_named_by_digest() -> None:
    assert set(bases()) == {"BUILD_BASE", "RUN_BASE"}
    assert all(PINNED.match(image) for image in bases().values())


def test_digests_are_renewed_and_nothing_else_changes(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text()
    tags = [image.partition("@")[0] for image in bases().values()]
    (tmp_path / "Dockerfile").write_text(text.replace(bases()["RUN_BASE"], tags[1]))
    cases = (
        f"""*"inspect {tag} --format {{{{json"*) echo '"{digest}"' ;;"""
        for tag, digest in zip(tags, DIGESTS, strict=True)
    )
    answer = "\n".join(cases)
    assert renew(tmp_path, answer, "--check").returncode == 1
    assert renew(tmp_path, answer).returncode == 0
    assert list(bases(tmp_path).values()) == [f"{tag}@{digest}" for tag, digest in zip(tags, DIGESTS, strict=True)]
    digest = re.compile("(_BASE=.*)@sha256:.*")
    assert digest.sub(r"\1", (tmp_path / "Dockerfile").read_text()) == digest.sub(r"\1", text)
    assert renew(tmp_path, answer, "--check").returncode == 0


@pytest.mark.parametrize(
    "answer", ["*devel*) echo sha256:12 ;;", "*devel*) exit 1 ;;", f"*devel*) echo {DIGESTS[0]} ;;"]
)
def test_a_registry_without_an_answer_changes_no_digest(answer: str, tmp_path: Path) -> None:
    """Also if it has answered for one of the images: the third."""
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    failed = renew(tmp_path, answer)
    assert failed.returncode == 1
    assert "scripts/renew-base-images: nvidia/cuda:13" in failed.stderr
    assert (tmp_path / "Dockerfile").read_text() == (ROOT / "Dockerfile").read_text()


# ---- scripts/release -------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean repository with what scripts/release looks at."""
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n## [Unreleased]\n\n## [2.0.0] - 2026-12-01\n### Added\n- A.\n")
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    identity = "-c", "user.name=a", "-c", "user.email=a@example.org"
    subprocess.run(["git", "-C", folder, *identity, *words], check=True)


def test_a_clean_checkout_can_be_released(checkout: Path) -> None:
    assert list(obstacles("2.0.0", checkout)) == []


def test_what_stands_in_the_way_of_a_release_is_named(checkout: Path) -> None:
    git(checkout, "tag", "v2.0.0")
    assert ["the tag v2.0.0 exists" in each for each in obstacles("2.0.0", checkout)] == [True]
    assert ["no section for 2.0.1" in each for each in obstacles("2.0.1", checkout)] == [True]
    text = (checkout / "Dockerfile").read_text()
    (checkout / "Dockerfile").write_text(re.sub("@sha256:[0-9a-f]+", "", text, count=1))
    (checkout / "new file").write_text("")
    found = "\n".join(obstacles("2.0.0", checkout))
    assert "commit or remove Dockerfile, new file" in found
    assert "BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 has no digest: run scripts/renew-base-images" in found
    assert "RUN_BASE" not in found


def test_entries_that_are_not_released_are_seen() -> None:
    text = "# Changelog\n## [Unreleased]\n### Fixed\n- B.\n\n## [2.0.0] - 2026-12-01\n"
    assert "move them to [2.0.0]" in "".join(changelog_obstacles("2.0.0", text))


def test_released_compose_files_name_the_digest_and_build_nothing() -> None:
    reference = f"registry.example.org/splatgate@{DIGESTS[0]}"
    for path in (ROOT / "compose.yaml", *(ROOT / "compose").glob("*.yaml")):
        before, after = path.read_text(), pinned_compose(path.read_text(), reference)
        services = yaml.safe_load(after.replace("!reset ", ""))["services"]
        original = yaml.safe_load(before.replace("!reset ", ""))["services"]
        for name, service in original.items():
            expected = {key: value for key, value in service.items() if key != "build"}
            if "SPLATGATE_IMAGE" in expected.get("image", ""):
                expected["image"] = reference
            assert services[name] == expected
        assert "build" not in re.sub("#.*", "", after)
        assert "SPLATGATE_IMAGE" not in after


@pytest.mark.parametrize("reference", ["splatgate:1.0.0", "splatgate", f"splatgate:{DIGESTS[0]}", "a@sha256:12"])
def test_a_tag_does_not_pin(reference: str) -> None:
    with pytest.raises(ReleaseError, match="is no digest"):
        pinned_compose("image: ${SPLATGATE_IMAGE:-splatgate:latest}", reference)


def test_the_sbom_lists_what_the_image_holds() -> None:
    made, base = datetime(2026, 11, 30, tzinfo=UTC), f"nvidia/cuda:13.0@{DIGESTS[0]}"
    python = [*(pin.key for pin in pins(IMAGE, ("3.12",))), ("pip", "24.0")]
    text = sbom("1.2.3", "c0ffee", made, base, python, [("ubuntu", "libc6", "2.39-0ubuntu8", "amd64")])
    document = json.loads(text)
    assert document["metadata"]["component"]["version"] == "1.2.3"
    parts = {part.get("purl", part["name"]): part for part in document["components"]}
    listed = {(part["name"], part["version"]) for url, part in parts.items() if url.startswith("pkg:pypi/")}
    assert listed == set(python)
    assert parts["pkg:deb/ubuntu/libc6@2.39-0ubuntu8?arch=amd64"]
    assert parts["nvidia/cuda"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert {part["name"] for url, part in parts.items() if url.startswith("pkg:npm/")} == {"spark", "three", "fflate"}
    licensed = [url for url, part in parts.items() if url.startswith(("pkg:pypi/", "pkg:npm/")) and "licenses" in part]
    assert len(licensed) == len(python) - 1 + 3, "all but pip"
    assert text == sbom("1.2.3", "c0ffee", made, base, python, [("ubuntu", "libc6", "2.39-0ubuntu8", "amd64")])


def test_an_sbom_without_a_base_image_is_refused() -> None:
    with pytest.raises(SbomError, match="not the name of an image"):
        sbom("1.2.3", "c0ffee", datetime(2026, 11, 30, tzinfo=UTC), "nvidia/cuda", [], [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [("", "needs Docker, which is not installed"), ("echo no daemon >&2; exit 1", "running Docker engine: no daemon")],
)
def test_a_step_without_docker_says_what_it_lacks(
    answer: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if answer:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / "docker").chmod(0o755)
    with pytest.raises(ReleaseError, match=f"{message}(?s:.*)Without it run: scripts/release check wheel sbom"):
        docker("build", ".")
    assert not docker_has("splatgate:1.0.0")


@pytest.mark.e2e
def test_the_wheel_holds_what_git_has_and_generates_a_splat(tmp_path: Path) -> None:
    """Without the viewer where scripts/page was not run: scripts/release runs it."""
    wheel = _wheel.build(tmp_path)
    needed = _wheel.needed() | {f"{_wheel.VIEWER}spark.js"}
    lost = "" if (ROOT / _wheel.VIEWER / "spark.js").exists() else r"spark.js \(missing\)$"
    if lost:
        with pytest.raises(_wheel.WheelError, match=lost):
            _wheel.check_contents(wheel, needed)
    else:
        _wheel.check_contents(wheel, needed)
    with pytest.raises(_wheel.WheelError, match=r"app/__init__.py \(not in git\)"):
        _wheel.check_contents(wheel, needed - {"app/__init__.py"})
    with pytest.raises(_wheel.WheelError, match=r"app/new.py \(missing\)"):
        _wheel.check_contents(wheel, needed | {"app/new.py"})
    programs = _wheel.install(wheel, tmp_path / "venv", None)
    _wheel.check_works(programs, __version__, tmp_path / "home")


# ---- the forge -------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
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


@pytest.mark.e2e
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

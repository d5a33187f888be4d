"""What README and docs say exists: links, settings, commands and their options, files, variables, metrics, pictures."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from app.certificate import Certificate
from app.commands.main import main
from app.config import ENV_PREFIX, Config

ROOT = Path(__file__).parent.parent
FRONT = "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"
PAGES = [*(ROOT / name for name in FRONT), *sorted((ROOT / "docs").glob("*.md"))]
TREE = Config().model_dump(by_alias=True)

CODE = re.compile(r"```.*?```|`[^`\n]+`|^ {4}[^\n]*$", re.DOTALL | re.MULTILINE)
GROUPS = "|".join(name for name, command in main.commands.items() if isinstance(command, click.Group))
CALL = re.compile(rf"\bsplatgate (?:({GROUPS}) )?([a-z]+(?: \| [a-z]+)*)((?: ?[^\s`;&#]+)*)")
"""A group or nothing, a command or several to choose from, and what follows as far as the next two spaces."""

MADE = "app/web/static/vendor", "app/web/node_modules"
"""Folders that scripts/page makes."""
EXAMPLES = {
    *("npy.py", "mine.py", "coverage.py", "app/generators/mine.py", "app/generators/ball.py", "app/stages/ball.py"),
    *("app/metrics/coverage.py", "app/stages/coverage.py"),
}
"""Files that a page tells the reader to write."""

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@pytest.mark.parametrize("script", ["config_table", "http_table", "diagram"])
def test_what_scripts_write_is_up_to_date(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@page
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@page
def test_settings_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]+)?`", page.read_text())
    named = [words for words in named if words[0] in TREE and words[1] not in ("py", "md", "js")]
    variables = set(re.findall(rf"{ENV_PREFIX}([A-Z_]+)", page.read_text())) - {"SECTION__KEY"}
    named += [tuple(words.lower().split("__")) for words in variables]
    assert [f"{section}.{key}" for section, key in named if key not in TREE.get(section, {})] == []


@page
def test_variables_that_are_named_are_read_somewhere(page: Path) -> None:
    before = r"\$\{", r"^[A-Z]+ = \"", r"environ.*\"", r"envvar=\""
    used = re.compile("|".join(rf"{each}(SPLATGATE_[A-Z_]+)" for each in before), re.MULTILINE)
    files = [
        ROOT / "compose.yaml",
        *ROOT.glob("compose/*.yaml"),
        *ROOT.glob("app/**/*.py"),
        ROOT / "systemd/watch-health",
    ]
    read = {name for path in files for found in used.findall(path.read_text()) for name in found}
    assert set(re.findall(r"\bSPLATGATE_[A-Z]+(?:_[A-Z]+)*\b", page.read_text())) - read == set()


@page
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for group, names, rest in CALL.findall("\n".join(CODE.findall(page.read_text()))):
        parent = main.commands[group] if group else main
        for name in names.split(" | "):
            command = parent.commands.get(name) if isinstance(parent, click.Group) else None
            known = {each for owner in (main, command) if owner for option in owner.params for each in option.opts}
            if not command or set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest)) - known - {"--help"}:
                wrong.append(f"splatgate {group} {name}{rest}")
    assert wrong == []


@page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?<![\w/.-])((?:scripts|app|tests|compose|systemd)/[\w./*-]*[\w*])", text))
    lost = {name for name in named - EXAMPLES if not any(ROOT.glob(name)) and not name.startswith(MADE)}
    short = set(re.findall(r"`([\w/]+\.(?:py|js|css|html))`", text)) - named - EXAMPLES
    assert lost | {name for name in short if not any(ROOT.glob(f"[ast]*/**/{name}"))} == set()


@page
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = (ROOT / "app/web/metrics.py").read_text()
    named = {re.sub("_(total|bucket|sum|count)$", "", name) for name in re.findall(r"splatgate_\w+", page.read_text())}
    assert {name for name in named if f'"{name}"' not in known} == set()


@page
def test_endpoints_that_are_named_exist(page: Path) -> None:
    """docs/http.md has all that the schema describes: a script writes it."""
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` ", (ROOT / "docs/http.md").read_text(), re.MULTILINE)
    known = {re.sub(r"\{\w+\}", "ID", row) for row in rows} | {"GET /docs", "GET /openapi.json"}
    named = re.findall(r"\b((?:GET|POST|PATCH|DELETE) /[\w/{}.-]*)", page.read_text())
    named = [re.sub(r"\{\w+\}", "ID", each.rstrip(".")) for each in named]
    assert [each for each in named if each not in known and f"{each}/" not in known] == []


def test_every_metric_is_described() -> None:
    known = re.findall(r'"(splatgate_\w+)"', (ROOT / "app/web/metrics.py").read_text())
    described = re.findall(r"`(splatgate_\w+?)(?:_total)?`", (ROOT / "docs/metrics.md").read_text())
    assert set(known) - set(described) == set()


def test_every_key_of_a_certificate_is_described() -> None:
    described = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/certificate.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(described))) == set(Certificate.model_fields)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_first_line_of_a_page_says_for_whom_it_is(page: Path) -> None:
    title, first = page.read_text().splitlines()[:2]
    assert title.startswith("# ")
    assert re.match(r"For (\w+ )*(creators|operators|developers|everybody)\b", first)


def test_the_index_leads_to_every_page_and_the_readme_to_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {page.name for page in index.parent.glob("*.md")} - {index.name}
    assert pages - set(re.findall(r"\]\((\w[\w.-]*\.md)\)", index.read_text())) == set()
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


def test_the_readme_has_at_most_1500_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1_500


def test_every_picture_is_shown_and_all_of_them_are_small() -> None:
    pictures = sorted((ROOT / "docs/images").iterdir())
    pages = " ".join(page.read_text() for page in PAGES)
    assert [picture.name for picture in pictures if f"images/{picture.name})" not in pages] == []
    assert sum(picture.stat().st_size for picture in pictures) < 2e6


# ---- what a page says ------------------------------------------------------------------------------------------------


def prose(page: Path) -> str:
    """Without code, in which brackets mean something else."""
    return CODE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

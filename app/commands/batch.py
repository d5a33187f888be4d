"""`splatgate generate --prompts`: many prompts with the models loaded once; a rerun resumes where it stopped."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli import print_json, progress
from app.commands.output import COLOURS, exit_by
from app.commands.output_folder import check_output, folder_name
from app.commands.result import PromptResult, run_one
from app.config import Config
from app.errors import BadFile, BadInput, BadPrompt
from app.reading import read_bytes

if TYPE_CHECKING:
    from app.certificate import Certificate

MAX_BYTES = 16 << 20
MAX_SHOWN = 10
"""How many invalid lines the error message lists."""


@dataclass(frozen=True)
class Row:
    """The result of one prompt. seconds: None if an earlier run generated it."""

    prompt: str
    made: PromptResult
    seconds: float | None

    def document(self) -> dict[str, Any]:
        score = self.made.certificate.score if self.made.certificate else None
        return {
            "prompt": self.prompt,
            "outcome": self.made.outcome,
            "reasons": self.made.reasons,
            "score": score,
            "folder": str(self.made.folder) if self.made.folder else None,
            "seconds": self.seconds,
        }


def generate_all(config: Config, file: Path, seed: int, attempts: int, parent: Path, as_json: bool) -> None:
    """Generates every prompt of the file that has no folder yet, and exits with 3 if any was refused."""
    prompts = _read(file, config)
    check_output(parent)
    rows = [Row(prompt, made, None) for prompt in prompts if (made := _done_before(parent, prompt, seed, config))]
    todo = [prompt for prompt in prompts if prompt not in {row.prompt for row in rows}]
    try:
        if todo:
            _run(config, todo, seed, attempts, parent, rows)
    finally:
        _show(sorted(rows, key=lambda row: prompts.index(row.prompt)), len(prompts), as_json)
    exit_by("refused" if any(row.made.outcome == "refused" for row in rows) else "passed")


def _run(config: Config, prompts: list[str], seed: int, attempts: int, parent: Path, rows: list[Row]) -> None:
    """Adds a row for each prompt once it is done, so that the rows survive an interruption."""
    from app.pipeline import GenerationRequest, load_stages

    with progress("Loading") as on_text:
        stages = load_stages(config)
        for number, prompt in enumerate(prompts, 1):

            def on_stage(text: str, place: str = f"[{number} of {len(prompts)}] {prompt[:40]}: ") -> None:
                on_text(place + text)

            began, folder = time.monotonic(), parent / folder_name(prompt, seed)
            made = run_one(GenerationRequest(prompt), seed, attempts, stages, config, folder, on_stage)
            rows.append(Row(prompt, made, round(time.monotonic() - began, 2)))


def _read(file: Path, config: Config) -> list[str]:
    """The prompts without duplicates, ignoring case.

    Raises BadFile, and BadPrompt with the numbers of lines that cannot be generated.
    """
    from app.pipeline import GenerationRequest

    data = sys.stdin.buffer.read(MAX_BYTES + 1) if str(file) == "-" else read_bytes(file, MAX_BYTES, "split it")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadFile(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    numbered = {number: line.strip() for number, line in enumerate(lines, 1)}
    prompts = {number: text for number, text in numbered.items() if text and not text.startswith("#")}
    if not prompts:
        raise BadInput(f"{file}: has no prompts; write one per line")
    invalid = []
    for number, prompt in prompts.items():
        try:
            GenerationRequest(prompt).check(config)
        except BadPrompt as error:
            invalid.append(f"{file}, line {number}: {error}")
    if invalid:
        more = f"\nand {len(invalid) - MAX_SHOWN:,} more lines" if len(invalid) > MAX_SHOWN else ""
        raise BadPrompt("\n".join(invalid[:MAX_SHOWN]) + more)
    return list({folder_name(prompt, 0): prompt for prompt in reversed(prompts.values())}.values())[::-1]


def _done_before(parent: Path, prompt: str, seed: int, config: Config) -> PromptResult | None:
    """The result of an earlier run with the same prompt, seed and settings, or None."""
    folder = parent / folder_name(prompt, seed)
    path = folder / "certificate.json"
    if not path.is_file():
        return None
    from app.certificate import read_certificate

    try:
        issued = read_certificate(path)
    except BadFile:
        return None
    if not _matches(issued, prompt, seed, config) or not all((folder / each.name).is_file() for each in issued.assets):
        return None
    return PromptResult(issued.verdict.outcome, issued.verdict.reasons, issued.verdict.reason_codes, folder, issued)


def _matches(issued: Certificate, prompt: str, seed: int, config: Config) -> bool:
    first_seed = issued.seed - issued.attempt + 1
    return (issued.prompt, first_seed, issued.config_digest) == (prompt, seed, config.digest())


def _show(rows: list[Row], total: int, as_json: bool) -> None:
    if as_json:
        print_json({"prompts": total, "results": [row.document() for row in rows]})
        return
    table = Table("prompt", "result", "score", "seconds", "folder", box=None, pad_edge=False)
    for row in rows:
        found = row.document()
        score = "-" if found["score"] is None else f"{found['score']:.3f}"
        seconds = "done before" if row.seconds is None else f"{row.seconds:.1f}"
        outcome = Text(row.made.outcome, COLOURS.get(row.made.outcome, "yellow"))
        table.add_row(Text(row.prompt), outcome, score, seconds, Text(found["folder"] or "-"))
    Console().print(table)
    counts = {word: sum(row.made.outcome == word for row in rows) for word in ("passed", "refused", "not validated")}
    parts = [f"{count:,} {word}" for word, count in counts.items() if count]
    if missing := total - len(rows):
        parts.append(f"{missing:,} not done; run the same command again to continue")
    click.echo(f"{total:,} prompt{'s' if total > 1 else ''}: {', '.join(parts)}")
    for row in rows:
        for reason in row.made.reasons if row.made.outcome == "refused" else ():
            click.echo(f"  {row.prompt}: {reason}")

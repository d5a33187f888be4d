"""Output that several commands share: findings, repairs and verdicts; and the exit code of a refusal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from loguru import logger

REFUSED, FOUND = 3, 4
"""Exit codes: the gate refused or a certificate does not match; `inspect --strict` has findings."""

COLOURS = {"passed": "green", "refused": "red"}
"""Colours of outcomes; others are yellow."""


def print_findings(diagnosis: dict[str, Any]) -> None:
    """Prints the findings and hints of a diagnosis, as returned by Diagnosis.to_dict."""
    if not diagnosis["findings"]:
        click.echo("findings: none")
    for finding in diagnosis["findings"]:
        click.secho(f"finding: {finding['kind']}: {finding['message']}", fg="yellow")
    for hint in diagnosis.get("hints", ()):  # certificates of older releases have none
        click.echo(f"hint: {hint['kind']}: {hint['message']}")


def print_notes(notes: tuple[str, ...]) -> None:
    """Prints what the reader of a splat file dropped or changed."""
    for note in notes:
        click.echo(f"note: {note}")


@contextmanager
def findings_not_logged() -> Iterator[None]:
    """Keeps findings and repairs out of the log, for a command that prints them."""
    logger.disable("app.splat")
    try:
        yield
    finally:
        logger.enable("app.splat")


def print_repairs(repairs: list[dict[str, Any]]) -> None:
    for done in repairs:
        click.echo(f"repaired: {done['field']}, {done['count']:,} gaussians: {done['strategy']}")


def print_verdict(outcome: str, reasons: Sequence[str], value: float | None, views: dict[str, float]) -> None:
    click.secho(outcome.upper(), fg=COLOURS.get(outcome, "yellow"), bold=True, nl=False)
    score = "" if value is None else f"  score {value:.3f}"
    each = ", ".join(f"{name} {each:.3f}" for name, each in views.items())
    click.echo(score + (f"  ({each})" if each else ""))
    for reason in reasons:
        click.echo(f"  because: {reason}")


def exit_by(outcome: str) -> None:
    if outcome == "refused":
        sys.exit(REFUSED)

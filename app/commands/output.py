"""What several commands print: findings, repairs and verdicts; and the exit code of a refusal."""

from __future__ import annotations

import sys
from typing import Any

import click

REFUSED = 3
"""Exit code."""


def print_findings(diagnosis: dict[str, Any]) -> None:
    """Findings and hints of a diagnosis, as Diagnosis.to_dict gives it."""
    if not diagnosis["findings"]:
        click.echo("findings: none")
    for finding in diagnosis["findings"]:
        click.secho(f"finding: {finding['kind']} in {finding['field']}: {finding['message']}", fg="yellow")
    for hint in diagnosis.get("hints", ()):  # certificates of older releases have none
        click.echo(f"hint: {hint['kind']} in {hint['field']}: {hint['message']}")


def print_repairs(repairs: list[dict[str, Any]]) -> None:
    for done in repairs:
        click.echo(f"repaired: {done['field']}, {done['count']:,} gaussians, by {done['strategy']}")


def print_verdict(outcome: str, reasons: tuple[str, ...], value: float | None, views: dict[str, float]) -> None:
    colour = {"passed": "green", "refused": "red"}.get(outcome, "yellow")
    click.secho(outcome.upper(), fg=colour, bold=True, nl=False)
    score = "" if value is None else f"  score {value:.3f}  ("
    click.echo(score + ", ".join(f"{name} {each:.3f}" for name, each in views.items()) + (")" if score else ""))
    for reason in reasons:
        click.echo(f"  because: {reason}")


def exit_by(outcome: str) -> None:
    if outcome == "refused":
        sys.exit(REFUSED)

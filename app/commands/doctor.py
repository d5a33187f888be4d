"""`splatgate doctor`: what this host has, what the configured profile needs, and how to fix the differences."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli import JSON, PROFILE, configured, print_json, progress
from app.commands.fact import Fact
from app.commands.facts import (
    disk_facts,
    host_facts,
    memory,
    model_facts,
    service_facts,
    settings_facts,
    shared_facts,
    version_facts,
)
from app.commands.gpu_facts import gpu_facts
from app.config import Config


@click.command()
@PROFILE
@JSON
@configured
def doctor(config: Config, as_json: bool) -> None:
    """Check whether this host can run the profile.

    Checks GPU, driver, versions, memory, disk, port, tokens, models, database and assets.
    Exit code: 0 it can, 1 it cannot.
    """
    with progress("Checking"):
        facts = tuple(examine(config))
    blocked = any(fact.blocking for fact in facts)
    if as_json:
        print_json({"profile": config.profile.name, "works": not blocked, "facts": [asdict(fact) for fact in facts]})
    else:
        _print(facts, config, blocked)
    sys.exit(1 if blocked else 0)


def examine(config: Config) -> Iterator[Fact]:
    """Every fact, in the order in which it is shown."""
    yield from settings_facts(config)
    yield from host_facts()
    yield from gpu_facts(config, memory("MemTotal"))
    yield from version_facts(config)
    yield from disk_facts(config)
    yield from service_facts(config)
    yield from shared_facts(config)
    yield from model_facts(config)


def _print(facts: Sequence[Fact], config: Config, blocked: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    area = ""
    for fact in facts:
        mark = Text("✗", "red") if fact.blocking else Text("!", "yellow") if fact.problem else Text("✓", "green")
        table.add_row(mark, Text(fact.area if fact.area != area else "", "dim"), Text(fact.what), Text(fact.found))
        area = fact.area
    console = Console()
    console.print(table)
    for fact in facts:
        if fact.problem:
            click.secho(f"{fact.what}: {fact.problem}", fg="red" if fact.blocking else "yellow")
    name = config.profile.name
    words = f"profile {name} cannot run here" if blocked else f"profile {name} can run here"
    click.secho(words, fg="red" if blocked else "green", bold=True)

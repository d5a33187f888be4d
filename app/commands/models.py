"""`splatgate models list | fetch | verify`: the weights, from the hub to the disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from loguru import logger
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.cli import JSON, configured, print_json
from app.config import Config

if TYPE_CHECKING:
    from app.weights.digests import OnBytes
    from app.weights.manifest import Model
    from app.weights.store import State

NAMES = click.argument("names", nargs=-1)
STEP = 0.05
"""Without a terminal, progress is logged each time another fraction of this size is done."""

COLOURS = {"verified": "green", "present": "green", "missing": "yellow", "broken": "red"}


@click.group()
def models() -> None:
    """List, fetch and verify the weights."""


@models.command("list")
@JSON
@configured
def list_models(config: Config, as_json: bool) -> None:
    """List every known model: role, licence, size, state and commit.

    "verified": every file has the sha256 in the lock. "present": the sizes match, the digests are not checked yet.
    An asterisk marks what profile full needs in this configuration.
    """
    from app.weights import store
    from app.weights.manifest import MODELS

    wanted = _needed(config)
    states = [store.state_of(model, config) for model in MODELS]
    if as_json:
        print_json({"folder": config.models.folder, "models": [_row(state, wanted) for state in states]})
        return
    name, rest = Column("model", no_wrap=True), ("licence", "size", "state", "commit")
    table = Table(name, "role", *(Column(title, no_wrap=True) for title in rest), box=None, pad_edge=False)
    for state in states:
        star = "*" if state.model in wanted else " "
        size, commit = _size(state), state.locked.commit if state.locked else state.model.revision
        cells = f"{star} {state.model.name}", state.model.role.replace("_", " "), state.model.licence, size
        table.add_row(*map(Text, cells), Text(state.condition, COLOURS[state.condition]), Text(commit[:7]))
    Console().print(table)
    click.echo(f"folder: {config.models.folder}")
    _print_problems(states)


@models.command()
@NAMES
@click.option("--all", "everything", is_flag=True, help="Fetch every model that can be, including the optional ones.")
@JSON
@configured
def fetch(config: Config, names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Fetch models by NAMES; without names, what profile full needs in this configuration.

    Complete models are not fetched again, and an interrupted download resumes where it stopped. Gated models need an
    account: set HF_TOKEN, or run `hf auth login` once.
    """
    from app.weights import fetching
    from app.weights.manifest import gigabytes

    chosen = _chosen(config, names, everything)
    plans = []
    for model in chosen:
        with _bar(f"checking {model.name}", model.about_bytes) as on_bytes:
            plan = fetching.plan(model, config, on_bytes)
        plans += [plan] if plan else []
    fetching.check_disk_space(plans, config)
    for plan in plans:
        licence, size = plan.model.licence, gigabytes(plan.bytes)
        logger.info(f"{plan.model.name}: {size} from {plan.model.repository}, licence {licence}")
        with _bar(plan.model.name, plan.bytes, plan.arrived) as on_bytes:
            fetching.fetch(plan, config, on_bytes)
    fetched = {plan.model.name: plan.bytes for plan in plans}
    if as_json:
        print_json({"folder": config.models.folder, "fetched": fetched, "models": [model.name for model in chosen]})
        return
    for model in chosen:
        done = f"fetched {gigabytes(fetched[model.name])}" if model.name in fetched else "already present, verified"
        click.echo(f"{model.name}: {done}")


@models.command()
@NAMES
@JSON
@configured
def verify(config: Config, names: tuple[str, ...], as_json: bool) -> None:
    """Rehash every file of the models NAMES; without names, of all fetched models.

    Exit code: 0 all are intact, 1 one is not, or there is none.
    """
    from app.errors import BadWeights
    from app.weights import store
    from app.weights.lock import read_lock
    from app.weights.manifest import MODELS, find

    locked = read_lock(store.root(config)).models
    chosen = [find(name) for name in names] or [model for model in MODELS if model.name in locked]
    problems = {}
    for model in chosen:
        size = locked[model.name].bytes if model.name in locked else 0
        with _bar(f"hashing {model.name}", size) as on_bytes:
            try:
                store.verify(model, config, rehash=True, on_bytes=on_bytes)
            except BadWeights as error:
                problems[model.name] = str(error)
    if as_json:
        print_json({"verified": [model.name for model in chosen if model.name not in problems], "problems": problems})
    else:
        for model in chosen:
            click.echo(problems.get(model.name) or f"{model.name}: verified, {len(locked[model.name].files)} files")
        if not chosen:
            click.echo("no models have been fetched: run splatgate models fetch")
    sys.exit(1 if problems or not chosen else 0)


def _chosen(config: Config, names: tuple[str, ...], everything: bool) -> list[Model]:
    from app.weights.manifest import MODELS, find

    if everything:  # of what can be fetched
        return [model for model in MODELS if not model.by_hand]
    return [find(name) for name in dict.fromkeys(names)] or list(_needed(config))


def _needed(config: Config) -> tuple[Model, ...]:
    """The models of the configured profile or, if it needs none, of the first profile that needs any."""
    from app.generators import GENERATORS
    from app.weights.manifest import needed

    generator = config.profile.generator
    if not generator.models:
        generator = next(each for each in GENERATORS.values() if each.models)
    return needed(config.model_copy(update={"profile": config.profile.model_copy(update={"name": generator.name})}))


def _row(state: State, wanted: tuple[Model, ...]) -> dict[str, Any]:
    model, locked = state.model, state.locked
    return {
        "name": model.name,
        "role": model.role,
        "repository": model.repository,
        "licence": model.licence,
        "gated": model.gated,
        "bytes": locked.bytes if locked else None,
        "about_bytes": model.about_bytes,
        "state": state.condition,
        "commit": locked.commit if locked else None,
        "sha256": locked.sha256 if locked else None,
        "needed": model in wanted,
        "problem": state.problem if state.condition == "broken" else "",
    }


def _size(state: State) -> str:
    from app.weights.manifest import gigabytes

    return gigabytes(state.locked.bytes) if state.locked else "~" + gigabytes(state.model.about_bytes)


def _print_problems(states: list[State]) -> None:
    for state in states:
        if state.condition == "broken":
            click.secho(state.problem, fg="red")
    missing = [state.model for state in states if state.condition == "missing"]
    for model in missing:
        if model.by_hand:
            click.echo(f"not fetched, see docs/full-profile.md: {model.name}")
    if gated := [model.name for model in missing if model.gated]:
        click.echo(f"gated, fetched only with an account that has accepted the conditions: {', '.join(gated)}")


@contextmanager
def _bar(title: str, total: int, done: int = 0) -> Iterator[OnBytes]:
    """Shows bytes, rate and time left: a bar on a terminal, log lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, done)
        return
    from rich import progress as rich

    columns = rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn()
    with rich.Progress(
        *columns, rich.TransferSpeedColumn(), rich.TimeRemainingColumn(), console=console, transient=True
    ) as bars:
        task = bars.add_task(title, total=total, completed=done)
        yield lambda count: bars.advance(task, count)


class _Lines:
    """Logs progress at each STEP. Called by several threads."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.before, self.began, self.logged = done, time.monotonic(), self._share()

    def __call__(self, count: int) -> None:
        self.done += count
        if self._share() >= self.logged + STEP:
            self.logged = self._share()
            logger.info(self._line(time.monotonic() - self.began))

    def _share(self) -> float:
        return self.done / max(self.total, 1)

    def _line(self, seconds: float) -> str:
        from app.weights.manifest import gigabytes

        rate = (self.done - self.before) / max(seconds, 1e-3)
        left = max(self.total - self.done, 0) / max(rate, 1.0)
        size = f"{gigabytes(self.done)} of {gigabytes(self.total)} ({self._share():.0%})"
        return f"{self.title}: {size}, {rate / 1e6:.1f} MB/s, {left // 60:.0f} min {left % 60:.0f} s left"

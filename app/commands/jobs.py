"""`splatgate jobs list | show | cancel | wait`: the jobs of a running service, over HTTP."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, get_args
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from app.address import own_address
from app.bounds import Bounds
from app.cli import JSON, Within, configured, print_json, progress
from app.commands.client import Client
from app.commands.output import COLOURS, REFUSED
from app.config import Config
from app.errors import BadInput, Unavailable
from app.jobs.records import ENDED, JobOutcome, Kind, Order, State

IDS = click.argument("ids", metavar="ID...", nargs=-1, required=True)
LIMIT, TIMEOUT = Bounds(1, 200), Bounds(0.0, 86_400.0 * 30, above=True)
SHOWN = (
    *("kind", "prompt", "seed", "attempts", "priority", "state", "stage", "position", "eta"),
    *("outcome", "score", "gaussians", "error", "engine"),
)
POLL_SECONDS = 1.0
PATIENCE = 60.0
"""Seconds without an answer after which `wait` gives up: a restart of the service takes less."""


@click.group()
def jobs() -> None:
    """List, show, cancel and wait for jobs of the service.

    The default is the service on this machine, at the configured address; --url or SPLATGATE_URL selects another one.
    If the service needs a token, set SPLATGATE_TOKEN.
    """


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --url and --json, and passes the command a Client."""

    @click.option("--url", envvar="SPLATGATE_URL", callback=_checked_url, help="Default: the service on this machine.")
    @click.option("--token", envvar="SPLATGATE_TOKEN", hidden=True)
    @JSON
    @configured
    @wraps(command)
    def run(config: Config, url: str | None, token: str | None, **options: Any) -> None:
        command(Client(url or f"http://{own_address(config)}", token or ""), **options)

    return run


def _checked_url(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise click.BadParameter(f"{value!r}: give http://host:port")
    return value.rstrip("/") if value else None


@jobs.command("list")
@click.option("--state", multiple=True, type=click.Choice(get_args(State), case_sensitive=False), help="Repeatable.")
@click.option("--outcome", multiple=True, type=click.Choice(get_args(JobOutcome)), help="Repeatable.")
@click.option("--kind", multiple=True, type=click.Choice(get_args(Kind)), help="Repeatable.")
@click.option("--search", default="", help="Part of the prompt.")
@click.option("--order", type=click.Choice(get_args(Order)), default="newest", show_default=True)
@click.option("--limit", type=Within(LIMIT), default=20, show_default=True)
@connected
def list_jobs(client: Client, as_json: bool, search: str, **filters: Any) -> None:
    """List jobs, by default the newest first."""
    found = client.json("/v1/jobs", filters | ({"q": search} if search else {}))
    if as_json:
        print_json(found)
        return
    table = Table(Column("id", no_wrap=True), "state", "outcome", "age", "prompt", box=None, pad_edge=False)
    for job in found["jobs"]:
        outcome = job["outcome"] or "-"
        shown = Text(outcome, COLOURS.get(outcome, ""))
        table.add_row(job["id"], job["state"], shown, _age(time.time() - job["created"]), Text(_title(job)))
    Console().print(table)
    if found["next"]:
        click.echo("more jobs match: raise --limit, or use filters")


@jobs.command()
@click.argument("id")
@connected
def show(client: Client, as_json: bool, id: str) -> None:
    """Show everything about a job."""
    job = client.json(f"/v1/jobs/{_checked(id)}")
    if as_json:
        print_json(job)
        return
    times = {name: _moment(job[name]) for name in ("created", "started", "finished", "deadline") if job[name]}
    for name, value in ({name: job[name] for name in SHOWN if job[name] not in (None, "")} | times).items():
        click.echo(f"{name + ':':<11}{value}")
    for reason in job["reasons"]:
        click.echo(f"because:   {reason}")
    for name in job["assets"]:
        click.echo(f"file:      {client.url}/v1/jobs/{job['id']}/{name}")


@jobs.command()
@IDS
@connected
def cancel(client: Client, as_json: bool, ids: tuple[str, ...]) -> None:
    """Cancel jobs: queued ones at once, running ones after their current stage.

    Jobs that have ended do not change.
    """
    found = [client.json(f"/v1/jobs/{_checked(id)}/cancel", method="POST") for id in ids]
    if as_json:
        print_json({"jobs": found})
        return
    for job in found:
        note = "" if job["state"] in ENDED else ", will be cancelled after its current stage"
        click.echo(f"{job['id']}: {job['state']}{note}")


@jobs.command()
@IDS
@click.option("--timeout", type=Within(TIMEOUT), help="Maximum seconds to wait. Default: no limit.")
@connected
def wait(client: Client, as_json: bool, ids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until jobs have ended.

    Exit code: 0 all are done and none was refused, 3 at least one was refused, 1 at least one failed, was cancelled or
    expired, or the timeout passed.
    """
    end = time.monotonic() + timeout if timeout else None
    with progress("Waiting") as on_text:
        found = [_ended(client, _checked(id), end, on_text) for id in ids]
    if as_json:
        print_json({"jobs": found})
    else:
        for job in found:
            why = "; ".join([*job["reasons"], *([job["error"]] if job["error"] else [])])
            click.echo(f"{job['id']}: {job['state']} {job['outcome'] or ''}".rstrip() + (f": {why}" if why else ""))
    if any(job["state"] != "DONE" for job in found):
        sys.exit(1)
    sys.exit(REFUSED if any(job["outcome"] == "refused" for job in found) else 0)


def _ended(client: Client, id: str, end: float | None, on_text: Callable[[str], None]) -> dict[str, Any]:
    """The job once it has ended. Raises Unavailable at the timeout, or if the service is unreachable for PATIENCE."""
    last_answer = time.monotonic()
    while True:
        try:
            job = client.json(f"/v1/jobs/{id}")
            last_answer = time.monotonic()
            if job["state"] in ENDED:
                return job
            place = f", number {job['position']} in the queue" if job["position"] else ""
            on_text(f"{_title(job)[:40]}: {job['stage'] or job['state']}{place}")
        except Unavailable:
            if time.monotonic() - last_answer > PATIENCE:
                raise
            on_text("the service does not respond; trying again")
        if end and time.monotonic() > end:
            raise Unavailable(f"job {id} has not ended in time; it continues")
        time.sleep(POLL_SECONDS)


def _checked(id: str) -> str:
    """Raises BadInput for an id that would change the path of the request."""
    if not id.isalnum():
        raise BadInput(f"{id!r} is not the id of a job: see splatgate jobs list")
    return id


def _title(job: dict[str, Any]) -> str:
    return job["prompt"] or f"({job['kind']})"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

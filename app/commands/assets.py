"""`splatgate assets`: the folders in the asset store, and whether the database knows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from app.cli import JSON, configured, print_json, progress
from app.config import Config
from app.errors import BadFile, Conflict

if TYPE_CHECKING:  # SQLAlchemy and fsspec are imported when a command runs, not for --help
    from app.jobs.assets import Assets
    from app.jobs.orphans import Orphans
    from app.jobs.ownership import Ownership
    from app.jobs.store import Store


@click.group()
def assets() -> None:
    """Manage the files of jobs in the asset store.

    The service never removes results that its database does not know. Use these commands after a database was lost,
    restored from an older backup, or moved.
    """


@assets.command("list")
@JSON
@configured
def list_(config: Config, as_json: bool) -> None:
    """List the folders that the database does not know, and those in quarantine."""
    from app.jobs.orphans import made

    with _opened(config) as (ownership, orphans):
        unknown: list[dict[str, Any]] = [
            {"job": id, "made": _date(made(id)), "files": _files(orphans.assets, id)} for id in orphans.unknown()
        ]
        quarantined = [
            {"job": each.job, "since": _date(each.since), "path": each.path} for each in orphans.quarantined()
        ]
        known = len(orphans.assets.jobs()) - len(unknown)
        conflict = ownership.conflict()
    if as_json:
        print_json({"known": known, "unknown": unknown, "quarantined": quarantined, "conflict": conflict})
        return
    for row in unknown:
        click.echo(f"unknown      {row['job']}  made {row['made']}  {', '.join(row['files'])}")
    for each in quarantined:
        click.echo(f"quarantined  {each['job']}  since {each['since']}")
    click.echo(f"{known:,} known, {len(unknown):,} unknown, {len(quarantined):,} quarantined in {orphans.assets.url}")
    if conflict:
        click.secho(f"warning: {conflict}", fg="yellow", err=True)


@assets.command()
@click.argument("jobs", nargs=-1)
@click.option("--take-over", is_flag=True, help="Adopt even if the store belongs to another database.")
@JSON
@configured
def adopt(config: Config, jobs: tuple[str, ...], take_over: bool, as_json: bool) -> None:
    """Add unknown results to the database, from their certificates: all, or the named JOBS.

    Results in quarantine are moved back first. Every file is checked against its certificate. The store then belongs
    to this database.
    """
    with _opened(config) as (ownership, orphans), progress("Reading certificates") as stage:
        marker = ownership.marker()
        if marker and marker.database != ownership.own().database and not take_over:
            raise Conflict(ownership.conflict())
        for folder in orphans.quarantined():
            if not jobs or folder.job in jobs:
                orphans.assets.move(folder.path, folder.job)
        chosen = [id for id in orphans.unknown() if not jobs or id in jobs]
        adopted, left = _adopt_all(chosen, orphans.assets, ownership.store, stage)
        ownership.confirm()
    if as_json:
        print_json({"adopted": adopted, "left": left})
        return
    for id, reason in left.items():
        click.echo(f"left  {id}  {reason}")
    click.echo(f"adopted {len(adopted):,} results, left {len(left):,} folders")


def _adopt_all(
    ids: list[str], assets: Assets, store: Store, stage: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """The adopted jobs, and why the others were left."""
    from app.jobs.adoption import adopt as add_result
    from app.jobs.adoption import find_result

    adopted: list[str] = []
    left: dict[str, str] = {}
    for id in ids:
        stage(f"{len(adopted):,} adopted: {id}")
        try:
            if result := find_result(assets, id):
                add_result(store, result)
                adopted.append(id)
            else:
                left[id] = "no certificate: the job did not finish"
        except BadFile as error:
            left[id] = str(error)
    return adopted, left


@assets.command()
@click.option("--unknown", is_flag=True, help="Also the folders that the database does not know.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@JSON
@configured
def purge(config: Config, unknown: bool, yes: bool, as_json: bool) -> None:
    """Permanently remove what is in quarantine; with --unknown, also what the database does not know."""
    with _opened(config) as (ownership, orphans):
        if conflict := ownership.conflict():
            raise Conflict(conflict)
        paths = [each.path for each in orphans.quarantined()] + (orphans.unknown() if unknown else [])
        if paths and not yes:
            click.confirm(f"Remove {len(paths):,} folders from {orphans.assets.url} permanently?", abort=True)
        for path in paths:
            orphans.assets.remove(path)
    if as_json:
        print_json({"removed": paths})
    else:
        click.echo(f"removed {len(paths):,} folders")


@contextmanager
def _opened(config: Config) -> Iterator[tuple[Ownership, Orphans]]:
    from app.jobs.assets import Assets
    from app.jobs.clock_guard import ClockGuard, clock_tolerance
    from app.jobs.orphans import Orphans
    from app.jobs.ownership import Ownership
    from app.jobs.store import Store

    store, files = Store(config), Assets(config)
    try:
        guard = ClockGuard(store, clock_tolerance(config.assets), time.time)
        yield Ownership(store, files), Orphans(store, files, config.assets, time.time, guard)
    finally:
        store.close()


def _files(store: Assets, job: str) -> list[str]:
    return [
        f"{folder}/{name}" for folder in sorted(store.names(job)) for name in sorted(store.names(f"{job}/{folder}"))
    ]


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"

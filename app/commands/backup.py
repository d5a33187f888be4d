"""`splatgate backup` and `splatgate restore`: copies of the service's data."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from app.cli import FILE, JSON, configured, print_json, progress
from app.config import Config
from app.writing import replacing


@click.command()
@click.option("--archive", metavar="FILE", help="Write database and files into this tar file; - for standard output.")
@click.option("-o", "--output", type=FILE, help="Folder for copies of the database. Default: backups in serve.data.")
@click.option(
    "--keep",
    type=click.IntRange(1, 1_000),
    default=14,
    show_default=True,
    help="Number of copies to keep; older ones are deleted.",
)
@JSON
@configured
def backup(config: Config, archive: str | None, output: Path | None, keep: int, as_json: bool) -> None:
    """Copy the service's data while it runs.

    With --archive, one tar file receives everything: the database and the files of all jobs. `splatgate restore` reads
    it. Without, only the SQLite database is copied (jobs, verdicts, feedback), into a folder that keeps several copies.
    """
    if archive:
        _archive(config, archive, as_json)
        return
    from app.jobs.assets import ASSETS_FOLDER, shown
    from app.jobs.backup import back_up

    with progress("Copying the database"):
        written = back_up(config, output or Path(config.serve.data) / "backups", keep, datetime.now(UTC))
    size = written.stat().st_size
    elsewhere = shown(config.assets.url) or str(Path(config.serve.data) / ASSETS_FOLDER)
    if as_json:
        print_json({"output": str(written), "bytes": size, "assets_not_included": elsewhere})
    else:
        click.echo(
            f"wrote {written}: {size / 2**20:.1f} MB; splats and pictures are not included: they are in {elsewhere}"
        )


def _archive(config: Config, target: str, as_json: bool) -> None:
    """The summary goes to standard error if the archive goes to standard output."""
    from app.jobs.archive import write_archive

    to_output = target == "-"
    if to_output and sys.stdout.isatty():
        raise click.UsageError("the archive would be written to the terminal: redirect it, or name a file")
    # not click's atomic files: they replace the earlier archive even if the new one failed
    output = nullcontext(sys.stdout.buffer) if to_output else replacing(Path(target))
    with progress("Writing database and files"), output as stream:
        done = write_archive(config, stream, datetime.now(UTC))
    if as_json and not to_output:
        print_json({"output": target, **vars(done)})
    else:
        summary = f"archived the database and {done.files:,} files of {done.jobs:,} jobs: {done.bytes / 2**20:.1f} MB"
        click.echo(summary, err=to_output)


@click.command()
@click.argument("archive", type=click.File("rb"))
@JSON
@configured
def restore(config: Config, archive: BinaryIO, as_json: bool) -> None:
    """Replace the service's data by those of ARCHIVE, which `splatgate backup --archive` wrote.

    Stop the service first. - reads standard input. What was there before is moved to a folder replaced-TIME in
    serve.data; delete it when you no longer need it.
    """
    from app.jobs.archive import restore_archive

    with progress("Reading the archive"):
        replaced = restore_archive(config, archive, datetime.now(UTC))
    if as_json:
        print_json({"data": config.serve.data, "replaced": str(replaced) if replaced else None})
    else:
        kept = f"; what was there before is in {replaced}" if replaced else ""
        click.echo(f"restored {config.serve.data}{kept}. Start the service now.")

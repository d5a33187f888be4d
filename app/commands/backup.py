"""`splatgate backup`: copies the database of the running service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from app.cli import FILE, JSON, configured, print_json, progress
from app.config import Config


@click.command()
@click.option("-o", "--output", type=FILE, help="Folder for the copies. Default: backups in serve.data.")
@click.option(
    "--keep",
    type=click.IntRange(1, 1_000),
    default=14,
    show_default=True,
    help="Number of copies to keep; older ones are deleted.",
)
@JSON
@configured
def backup(config: Config, output: Path | None, keep: int, as_json: bool) -> None:
    """Copy the SQLite database (jobs, verdicts, feedback) while the service runs.

    Splats and pictures are not included. They are files in the data folder, or objects in the store at assets.url; copy
    them with the usual tools. To restore: stop the service, replace splatgate.db by the copy, remove splatgate.db-wal
    and splatgate.db-shm, and start the service.
    """
    from app.jobs.assets import shown
    from app.jobs.backup import back_up

    with progress("Copying the database"):
        written = back_up(config, output or Path(config.serve.data) / "backups", keep, datetime.now(UTC))
    size = written.stat().st_size
    elsewhere = shown(config.assets.url) or str(Path(config.serve.data) / "assets")
    if as_json:
        print_json({"output": str(written), "bytes": size, "assets_not_included": elsewhere})
    else:
        click.echo(
            f"wrote {written}: {size / 2**20:.1f} MB; splats and pictures are not included: they are in {elsewhere}"
        )

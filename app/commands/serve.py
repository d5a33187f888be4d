"""`splatgate serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from app.bounds import PORT
from app.cli import PROFILE, Within, configured
from app.config import Config, ServeConfig


@click.command()
@PROFILE
@click.option("--host", help="Address to listen at. Default: config (this machine only).")
@click.option("--port", type=Within(PORT), help="Default: config (10010).")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for database, assets, locks. Default: config.")
@configured
def serve(config: Config, host: str | None, port: int | None, data: Path | None) -> None:
    """Serve prompts over HTTP: a web process, an engine for each GPU, and durable jobs between them.

    With serve.web = false the engines alone, for the jobs of another host on the same database (docs/cluster.md).

    SIGTERM lets the running stage finish (serve.grace_seconds) and exits 0. Exit code 1: a process kept dying.
    """
    from app.serve import environment, run

    given = {"host": host, "port": port, "data": str(data) if data else None}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = config.model_copy(update={"serve": ServeConfig(**config.serve.model_dump() | chosen)})
    environ = environment(config, os.environ)
    if chosen_file := click.get_current_context().obj[0]:
        environ["SPLATGATE_CONFIG"] = str(Path(chosen_file).absolute())
    sys.exit(run(config, environ))

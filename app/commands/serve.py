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
@click.option("--host", help="Address to listen on. Default: config (this machine only).")
@click.option("--port", type=Within(PORT), help="Port to listen on. Default: serve.port.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for database, assets and locks. Default: config.")
@configured
def serve(config: Config, host: str | None, port: int | None, data: Path | None) -> None:
    """Serve HTTP with a web process and an engine per GPU.

    With serve.web = false only engines run, for the jobs of a host that shares the database (docs/cluster.md).

    SIGTERM lets the running stage finish (serve.grace_seconds). Exit code: 0, or 1 if a process kept crashing.
    """
    from app.serve import environment, run

    given = {"host": host, "port": port, "data": str(data) if data else None}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = config.model_copy(update={"serve": ServeConfig(**config.serve.model_dump() | chosen)})
    environ = environment(config, os.environ)
    if chosen_file := click.get_current_context().obj[0]:
        environ["SPLATGATE_CONFIG"] = str(Path(chosen_file).absolute())
    sys.exit(run(config, environ))

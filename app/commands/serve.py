"""`splatgate serve` and `splatgate health`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from app.address import own_address
from app.cli import JSON, PROFILE, configured, print_json
from app.config import Config, ServeConfig

HEALTH_SECONDS = 5.0
MOST_BYTES = 1_000_000


@click.command()
@PROFILE
@click.option("--host", help="Address to listen at. Default: config (this machine only).")
@click.option("--port", type=click.IntRange(1, 65_535), help="Default: config (10010).")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for database, assets, locks. Default: config.")
@configured
def serve(config: Config, host: str | None, port: int | None, data: Path | None) -> None:
    """Serve prompts over HTTP: a web process, an engine for each GPU, and durable jobs between them.

    SIGTERM lets the running stage finish (serve.grace_seconds) and exits 0. Exit code 1: a process kept dying.
    """
    from app import serve as supervisor

    given = {"host": host, "port": port, "data": str(data) if data else None}
    chosen = {key: value for key, value in given.items() if value is not None}
    config = config.model_copy(update={"serve": ServeConfig(**config.serve.model_dump() | chosen)})
    supervisor.check_data(Path(config.serve.data))
    environ = supervisor.environment(config, os.environ)
    if chosen_file := click.get_current_context().obj[0]:
        environ["SPLATGATE_CONFIG"] = str(Path(chosen_file).absolute())
    sys.exit(supervisor.Supervisor(config, supervisor.plan(config, environ)).run())


@click.command()
@click.option("--live", is_flag=True, help="Ask only whether the web process answers, not whether an engine is ready.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Where it was told to listen. Default: config (10010).")
@JSON
@configured
def health(config: Config, live: bool, port: int | None, as_json: bool) -> None:
    """Ask the service on this machine how it is: exit 0 ready, 1 not. For HEALTHCHECK and load balancers."""
    url = f"http://{own_address(config, port)}/{'livez' if live else 'readyz'}"
    ready, answer = _ask(url)
    if as_json:
        print_json({"url": url, "ready": ready, "answer": answer})
    else:
        click.echo(f"{'ok' if ready else 'not ready'}: {url}: {json.dumps(answer)}")
    sys.exit(0 if ready else 1)


def _ask(url: str) -> tuple[bool, object]:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}))  # a proxy is for elsewhere, not for this machine
    try:
        with opener.open(url, timeout=HEALTH_SECONDS) as response:
            return True, _parsed(response.read(MOST_BYTES))
    except HTTPError as error:
        return False, _parsed(error.read(MOST_BYTES))
    except HTTPException as error:
        return False, f"what listens there speaks no HTTP ({type(error).__name__}): is the port another program's?"
    except (URLError, OSError) as error:
        return False, f"no answer: {getattr(error, 'reason', error)}; is splatgate serve running?"


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")

"""`splatgate health`: whether the service on this machine is ready, over HTTP or from the database."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import click

from app.address import own_address
from app.bounds import PORT
from app.cli import JSON, Within, configured, print_json
from app.commands.client import Client
from app.config import Config
from app.errors import SplatgateError, Unavailable


@click.command()
@click.option("--live", is_flag=True, help="Check only whether the service is running, not whether an engine is ready.")
@click.option("--port", type=Within(PORT), help="Port of the service. Default: serve.port.")
@JSON
@configured
def health(config: Config, live: bool, port: int | None, as_json: bool) -> None:
    """Show whether the service on this machine is ready.

    Exit code: 0 ready, 1 not. For Docker's HEALTHCHECK and load balancers. With serve.web = false the state of this
    host's engines is read from the database.
    """
    if config.serve.web:
        host, path = f"http://{own_address(config, port)}", "/livez" if live else "/readyz"
        url, (ready, answer) = host + path, _ask(host, path)
    else:
        url, ready, answer = _read_database(config, live)
    if as_json:
        print_json({"url": url, "ready": ready, "answer": answer})
    else:
        click.echo(f"{'ok' if ready else 'not ready'}: {url}: {json.dumps(answer)}")
    sys.exit(0 if ready else 1)


def _ask(url: str, path: str) -> tuple[bool, object]:
    try:
        answer = Client(url).request(path)
    except Unavailable as error:
        return False, str(error)
    return answer.ok, answer.body


def _read_database(config: Config, live: bool) -> tuple[str, bool, object]:
    """The URL of the database without its password, whether an engine of this host is ready, and the state of each
    engine with restart_helps, as in /readyz.

    live: an engine that is not dead is enough, whatever its state.
    """
    from app.identity import known_node
    from app.jobs.clock import DatabaseClock
    from app.jobs.database import database_url
    from app.jobs.heartbeats import DEAD, list_engines
    from app.jobs.records import SERVING
    from app.jobs.store import Store

    url = database_url(config).render_as_string()
    try:
        with closing(Store(config, prepare=False)) as store:
            node = known_node(Path(config.serve.data))
            engines = list_engines(store, DatabaseClock(store)(), config.jobs.lost_after_seconds)
    except SplatgateError as error:
        return url, False, {"restart_helps": False, "why": str(error)}
    own = [engine for engine in engines if node and engine.name.startswith(f"{node}-")]
    ready = any(engine.state in SERVING or (live and engine.state not in DEAD) for engine in own)
    if not own:
        return url, False, "no engine of this host has reported yet; is splatgate serve running?"
    states = {engine.name: f"{engine.state} {engine.why}".strip() for engine in own}
    return url, ready, {"restart_helps": all(engine.state in DEAD for engine in own), "engines": states}

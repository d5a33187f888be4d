"""The web process: gunicorn with one gevent worker, `python -m app.web.server`. It never imports torch.

The configuration comes from SPLATGATE_CONFIG and SPLATGATE__SECTION__KEY, as everywhere.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import gevent.socket
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker
from loguru import logger

from app.address import host_and_port, is_loopback, listening_host
from app.child import SOCKETS_VARIABLE, die_with_parent, earlier_ends, report_ready, start_heartbeats
from app.config import Config, load_config
from app.errors import SplatgateError
from app.jobs.assets import check_url
from app.jobs.client import Jobs
from app.log import ToLoguru, start_logging
from app.web import create_app
from app.web.context import drain_of
from app.web.dispatch import STALL_SECONDS, Dispatcher
from app.web.tokens import read_tokens
from app.web.webhook_delivery import WebhookDelivery
from app.webhooks import read_key

HEADER_SECONDS = 5
"""Time for a client to send the headers of a request, and to be idle between two requests. The worker has one setting
for both, and waits for idle connections when it stops."""

MAX_CONNECTIONS, SPARE_FILES = 4_000, 400
STUCK_SECONDS = 60
"""A worker whose event loop is blocked for this long is replaced."""

MEMORY_FOLDER = Path("/dev/shm")  # the worker's heartbeat file must not wait for a disk


def main() -> None:
    """Serves until SIGTERM. Exits with code 1 and one line if the configuration cannot be used."""
    try:
        config = load_config()
        start_logging(config.log.level, validation=config.validation.enabled, as_json=config.log.as_json)
        read_tokens(config.auth)
        read_key(config.webhooks)
        check_url(config)
    except SplatgateError as error:
        sys.exit(f"error: {error}")
    Server(config).run()


def listen_address(config: Config) -> str:
    """Host and port to bind to. Logs a warning if no tokens are required, and who can then connect."""
    host = listening_host(config)
    if not config.auth.tokens_file and not is_loopback(config.serve.published_on):
        unused = "" if host == config.serve.host else f" (serve.host = {config.serve.host!r} is not used)"
        logger.warning(f"no tokens (auth.tokens_file is empty): only this machine is served, at {host}{unused}")
    elif not config.auth.tokens_file:
        where = config.serve.published_on or host
        logger.warning(f"no tokens (auth.tokens_file is empty): everyone who can reach the port at {where} is served")
    return host_and_port(host, config.serve.port)


class Log(Logger):
    """Forwards gunicorn's log to ours. app.web.access logs requests."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = [ToLoguru()]
        self.access_log.handlers = []

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exception(), TimeoutError):  # of the socket
            self.error_log.info("a client read nothing of its response for %g s and was dropped", STALL_SECONDS)
        else:
            super().exception(msg, *args, **kwargs)


class Worker(GeventWorker):
    """gunicorn's gevent worker without monkey patching: greenlets hold the connections, threads run the views
    (app.web.dispatch). With monkey patching, s3fs finds no event loop, and a locked SQLite file blocks everything."""

    sockets: list[Any]

    def patch(self) -> None:
        self.sockets = [
            gevent.socket.socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach()) for each in self.sockets
        ]


class Server(BaseApplication):
    """gunicorn, configured here only: it reads no file and no command line."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__()

    def load_config(self) -> None:
        for name, value in _settings(self.config).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Runs in the worker, so that no database connection or thread exists before the fork."""
        jobs = Jobs(self.config, restarted=earlier_ends())
        WebhookDelivery(jobs).start()
        return Dispatcher(create_app(self.config, jobs), self.config.limits)


def _settings(config: Config) -> dict[str, Any]:
    return {
        "bind": _bind(config),
        "workers": 1,
        "worker_class": Worker,
        "worker_connections": _max_connections(),
        "keepalive": HEADER_SECONDS,
        "timeout": STUCK_SECONDS,
        "graceful_timeout": round(config.serve.grace_seconds),
        "worker_tmp_dir": str(MEMORY_FOLDER) if os.access(MEMORY_FOLDER, os.W_OK) else None,
        "control_socket_disable": True,
        "when_ready": lambda _server: start_heartbeats(config.jobs.heartbeat_seconds),  # from the master
        "post_fork": lambda _server, _worker: die_with_parent(),  # otherwise it would keep the port
        "post_worker_init": _on_ready,
        "worker_exit": _exit_worker,
        "logger_class": Log,
        "proc_name": "splatgate-web",
    }


def _bind(config: Config) -> list[str]:
    """What gunicorn listens on: the supervisor's sockets if there are any, else the configured address."""
    address = listen_address(config)
    inherited = os.environ.get(SOCKETS_VARIABLE, "")
    return [f"fd://{number}" for number in inherited.split(",")] if inherited else [address]


def _on_ready(worker: Worker) -> None:
    drain_of(worker.wsgi.app).begin_when(lambda: not worker.alive)
    report_ready()


def _exit_worker(_server: object, worker: Worker) -> None:
    """Ends a worker at once: threads that still wait for the database would delay it."""
    if worker.booted:
        os._exit(0)


def _max_connections() -> int:
    """MAX_CONNECTIONS, or what the limit of open files allows, after raising it to its maximum."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return max(100, min(MAX_CONNECTIONS, most - SPARE_FILES))


if __name__ == "__main__":
    main()

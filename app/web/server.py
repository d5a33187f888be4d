"""The web process: gunicorn with one worker of many threads, `python -m app.web.server`. It never imports torch.

The configuration comes from SPLATGATE_CONFIG and SPLATGATE__SECTION__KEY, as everywhere.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers import gthread
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker
from loguru import logger

from app.address import host_and_port, is_loopback, listening_host
from app.child import die_with_parent, say_ready
from app.config import Config, load_config
from app.errors import SplatgateError
from app.jobs.assets import check_url
from app.jobs.client import Jobs
from app.log import ToLoguru, start_logging
from app.web import create_app
from app.web.auth import read_hashes
from app.web.context import KEY
from app.web.limits import SPARE, Hurry

HEADER_SECONDS = 5.0
"""A client has this long to send the headers of a request."""

STALL_SECONDS = 60
"""A client that takes no byte of its answer for this long is dropped."""

KEEPALIVE_SECONDS = 5
STUCK_SECONDS = 60
"""A worker whose main thread says nothing for this long is replaced."""

MEMORY_FOLDER = Path("/dev/shm")  # the worker's heartbeat file must not wait for a disk

gthread.STOP_KEEPALIVE_LINGER = 0.5
"""Seconds that idle connections outlive SIGTERM by, for a request that may be on its way. gunicorn has no setting for
it, and its two seconds were half of what such an end took."""


def main() -> None:
    """Serves until SIGTERM. Exits with 1 and one line where the configuration cannot be used."""
    try:
        config = load_config()
        start_logging(config.log.level, validation=config.validation.enabled, as_json=config.log.as_json)
        read_hashes(config.auth)
        check_url(config)
    except SplatgateError as error:
        sys.exit(f"error: {error}")
    Server(config).run()


def listen_address(config: Config) -> str:
    """Host and port to bind to; says in the log where no tokens are asked for, and whom that keeps out."""
    host = listening_host(config)
    if not config.auth.tokens_file and not is_loopback(config.serve.published_on):
        unused = "" if host == config.serve.host else f" (serve.host = {config.serve.host!r} is not used)"
        logger.warning(f"no tokens (auth.tokens_file is empty): only this machine is served, at {host}{unused}")
    elif not config.auth.tokens_file:
        where = config.serve.published_on or host
        logger.warning(f"no tokens (auth.tokens_file is empty): whoever reaches the port at {where} is served")
    return host_and_port(host, config.serve.port)


class Log(Logger):
    """gunicorn's own lines, in our log. Requests are logged by app.web.access."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = [ToLoguru()]
        self.access_log.handlers = []

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exception(), BlockingIOError):  # SO_SNDTIMEO
            self.error_log.info("a client took nothing of its answer for %s s and was dropped", STALL_SECONDS)
        else:
            super().exception(msg, *args, **kwargs)


class Worker(ThreadWorker):
    """Threads that a slow client cannot hold, and an end that the waiting views hear of."""

    def enqueue_req(self, conn: TConn) -> None:
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", STALL_SECONDS, 0))
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> Any:
        if not (conn.initialized or conn.data_ready or conn.wait_for_data(0)):
            return _DEFER  # the main thread's poller waits for the first byte, and takes no thread for it
        with Hurry(conn.sock, HEADER_SECONDS) as conn.hurry:
            return super().handle(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        conn.hurry.end()
        return super().handle_request(req, conn)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if application := getattr(self, "wsgi", None):  # not yet there while the worker starts
            application.extensions[KEY][2].begin()
        super().handle_exit(sig, frame)


class Server(BaseApplication):
    """gunicorn, told everything here: it reads no file and no command line."""

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__()

    def load_config(self) -> None:
        for name, value in _settings(self.config).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """In the worker: a database connection must not be shared across the fork."""
        return create_app(self.config, Jobs(self.config))


def _settings(config: Config) -> dict[str, Any]:
    threads = config.limits.max_requests + SPARE
    return {
        "bind": listen_address(config),
        "workers": 1,
        "worker_class": Worker,
        "threads": threads,
        "worker_connections": 2 * threads,
        "keepalive": KEEPALIVE_SECONDS,
        "timeout": STUCK_SECONDS,
        "graceful_timeout": round(config.serve.grace_seconds),
        "worker_tmp_dir": str(MEMORY_FOLDER) if os.access(MEMORY_FOLDER, os.W_OK) else None,
        "control_socket_disable": True,
        "post_fork": lambda _server, _worker: die_with_parent(),  # it would keep the port from the next one
        "post_worker_init": lambda _worker: say_ready(),
        "logger_class": Log,
        "proc_name": "splatgate-web",
    }


if __name__ == "__main__":
    main()

"""`splatgate serve`: the processes of this host, their environment, and the sockets they listen on."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL
from pathlib import Path

from loguru import logger

from app.address import LOOPBACK, listening_host
from app.child import SOCKETS_VARIABLE
from app.child_process import ChildProcess
from app.config import Config
from app.errors import ConfigError, StorageDown, Unavailable
from app.generators import without_gpu
from app.hardware import gpus
from app.jobs.storage_check import probe_folder
from app.liveness_probe import LivenessProbe
from app.supervisor import Supervisor

BACKLOG = 2_048
"""Connections that the kernel queues while the web process restarts."""

SILENCE = 2.0
"""A child may be silent for this many times jobs.lost_after_seconds; by then other engines have taken its jobs."""


def run(config: Config, environ: Mapping[str, str]) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code.

    Raises Unavailable if the port is taken, the data folder cannot be written, or the profile has no GPU; ConfigError
    if engines without a web process could get no jobs.
    """
    check_data(Path(config.serve.data))
    sockets = listen(config) if config.serve.web else []
    supervisor = Supervisor(
        plan(config, environ, sockets),
        silence=SILENCE * config.jobs.lost_after_seconds,
        grace=config.serve.grace_seconds,
        listening=sockets,
        probe=LivenessProbe(sockets[1].getsockname()) if sockets else None,
    )
    return supervisor.run()


def listen(config: Config) -> list[socket.socket]:
    """The public listening socket, and one on a free loopback port for the supervisor's probe, so that /livez answers
    even if the public socket is crowded. Raises Unavailable."""
    host, port = listening_host(config), config.serve.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    remedies = {
        EADDRINUSE: "another program uses the port: stop it, or choose another port with --port or serve.port",
        EADDRNOTAVAIL: "this machine has no such address: check --host or serve.host",
        EACCES: "this user may not use the port: choose one above 1023 with --port or serve.port",
    }
    try:
        public = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        remedy = remedies.get(error.errno or 0, "check serve.host and serve.port")
        raise Unavailable(f"cannot listen at {host} port {port}: {os.strerror(error.errno or 0)}; {remedy}") from None
    return [public, socket.create_server((LOOPBACK, 0), backlog=BACKLOG)]


def plan(config: Config, environ: Mapping[str, str], sockets: Sequence[socket.socket] = ()) -> list[ChildProcess]:
    """The web process, unless serve.web is off, and the engines of this host.

    sockets: those that the web process listens on; without any it opens its own. Raises Unavailable if the profile
    has no GPU, ConfigError if engines without a web process could get no jobs.
    """
    _check_shared(config)
    web = [_web(environ, sockets)] if config.serve.web else []
    cards = gpus() if config.profile.generator.needs_gpu else ()
    if cards:
        return [*web, *(_engine(environ, f"gpu{index}", card.uuid) for index, card in enumerate(cards))]
    if config.profile.generator.needs_gpu:
        raise Unavailable(
            f"profile {config.profile.name!r} needs an NVIDIA GPU, and the driver shows none here: run nvidia-smi, "
            f"give the container its GPUs (--gpus all), or use profile {without_gpu()}, which needs none"
        )
    return [*web, _engine(environ, "cpu", "")]


def _check_shared(config: Config) -> None:
    missing = [key for key in ("database", "assets") if not getattr(config, key).url]
    if missing and not config.serve.web:
        keys = " and ".join(f"{key}.url" for key in missing)
        raise ConfigError(
            f"serve.web = false, and {keys} not set: engines without a web process work for another host, and share "
            "its PostgreSQL and its object store; set both URLs as they are there (docs/cluster.md)"
        )


def environment(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the children, in which options of the command line override file and variables."""
    options = {
        "SPLATGATE__PROFILE__NAME": config.profile.name,
        "SPLATGATE__SERVE__HOST": config.serve.host,
        "SPLATGATE__SERVE__PORT": str(config.serve.port),
        "SPLATGATE__SERVE__DATA": str(Path(config.serve.data).absolute()),
        "SPLATGATE__LOG__LEVEL": config.log.level,
    }
    return {**environ, **options}


def check_data(folder: Path) -> None:
    """Raises Unavailable if the data folder cannot be written. A full disk is only logged: the children wait for space,
    and /readyz says so."""
    try:
        probe_folder(folder)
    except StorageDown as error:
        logger.warning(str(error))


def _web(environ: Mapping[str, str], sockets: Sequence[socket.socket]) -> ChildProcess:
    descriptors = tuple(each.fileno() for each in sockets)
    variables = {**environ, SOCKETS_VARIABLE: ",".join(map(str, descriptors))}
    return ChildProcess("web", [sys.executable, "-m", "app.web.server"], variables, "web", descriptors)


def _engine(environ: Mapping[str, str], device: str, uuid: str) -> ChildProcess:
    command = [sys.executable, "-m", "app.engine", "--device", device, "--gpu", uuid]
    return ChildProcess(f"engine {device}", command, {**environ, "CUDA_VISIBLE_DEVICES": uuid})

"""The checks of `splatgate doctor` for the host, the installation, the folders and the service."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from app import __version__
from app.address import listening_host, own_address
from app.cli import nearest
from app.commands.client import Client
from app.commands.fact import Fact
from app.config import Config
from app.errors import SplatgateError, Unavailable

PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "open_clip_torch", "av")
OPTIONAL = ("triton", "gsplat", "torchao")


def settings_facts(config: Config) -> Iterator[Fact]:
    yield Fact("settings", "profile", config.profile.name)
    off = "" if config.validation.enabled else "nothing is scored or refused; set validate.enabled = true"
    yield Fact("settings", "validation", "ON" if config.validation.enabled else "OFF", off)
    if config.profile.generator.needs_gpu:
        yield Fact("settings", "GPU memory", f"{config.gpu.memory}, quantize {config.gpu.quantize}")
    yield Fact("settings", "models", "offline" if config.models.offline else config.models.endpoint or "from the hub")
    yield Fact("settings", "digest", config.digest()[:12])


def host_facts() -> Iterator[Fact]:
    yield Fact("host", "system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    cores = len(os.sched_getaffinity(0))
    free, total = (f"{memory(key) / 1e9:.1f} GB" for key in ("MemAvailable", "MemTotal"))
    yield Fact("host", "memory", f"{free} free of {total}, {cores} cores")


def memory(key: str) -> int:
    """The bytes of an entry of /proc/meminfo."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def version_facts(config: Config) -> Iterator[Fact]:
    yield Fact("versions", "splatgate", __version__)
    for name in PACKAGES:
        found = version(name)
        problem = "" if found else "the installation is incomplete: reinstall splatgate"
        yield Fact("versions", name, found or "not installed", problem, not found)
    for name in OPTIONAL:
        if found := version(name):
            yield Fact("versions", name, found)
        elif name == "torchao" and config.gpu.quantize != "none":
            problem = "gpu.quantize needs it: pip install 'splatgate[gpu]'"
            yield Fact("versions", name, "not installed", problem, config.profile.generator.needs_gpu)
    yield Fact("versions", "H.264", *_h264())


def _h264() -> tuple[str, str]:
    """The H.264 encoder, and the problem if there is none."""
    import av

    try:
        return f"{av.Codec('libx264', 'w').long_name}", ""
    except ValueError as error:  # av raises it for a codec that it does not have
        return (
            str(error),
            "no turntable videos: install PyAV (package av) from its wheels on PyPI, which include libx264",
        )


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def disk_facts(config: Config) -> Iterator[Fact]:
    from app.weights import store
    from app.weights.manifest import gigabytes, needed

    missing = [model for model in needed(config) if store.state_of(model, config).condition == "missing"]
    to_fetch = sum(model.about_bytes for model in missing)
    folder = Path(config.models.folder)
    free = shutil.disk_usage(nearest(folder)).free
    problem = _unwritable(folder, bool(missing))
    if free < to_fetch:
        problem = f"{gigabytes(to_fetch)} are still to be fetched: free space, or set models.folder"
    yield Fact("disk", "models folder", f"{folder}: {gigabytes(free)} free", problem)
    folder, least = Path(config.serve.data), config.limits.min_free_mb * 2**20
    free = shutil.disk_usage(nearest(folder)).free
    problem = f"no job is accepted with less than {gigabytes(least)} free (limits.min_free_mb): free space"
    problem = problem if free < least else _unwritable(folder, True)
    yield Fact("disk", "data folder", f"{folder}: {gigabytes(free)} free", problem, bool(problem))


def _unwritable(folder: Path, needed: bool) -> str:
    there = nearest(folder)
    if needed and not os.access(there, os.W_OK):
        return f"{there} cannot be written by this user: change its owner, or set another folder"
    return ""


def service_facts(config: Config) -> Iterator[Fact]:
    """The port and the tokens of `splatgate serve`."""
    if config.serve.web:
        yield _port_fact(config)
        yield _tokens_fact(config)


def _port_fact(config: Config) -> Fact:
    import socket

    host, port = listening_host(config), config.serve.port
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        try:
            running = Client(f"http://{own_address(config)}").request("/livez").ok
        except Unavailable:
            running = False
        if running:
            return Fact("service", "port", f"{host}:{port}: the service is running")
        problem = f"{error.strerror}: stop the other program, or set serve.port"
        return Fact("service", "port", f"{host}:{port}: not available", problem)
    return Fact("service", "port", f"{host}:{port}: free")


def _tokens_fact(config: Config) -> Fact:
    from app.web.tokens import read_tokens

    if not config.auth.tokens_file:
        return Fact("service", "tokens", "none: only this machine is served")
    try:
        count = len(read_tokens(config.auth))
    except SplatgateError as error:
        return Fact("service", "tokens", config.auth.tokens_file, str(error), blocking=True)
    return Fact("service", "tokens", f"{count:,} in {config.auth.tokens_file}")


def shared_facts(config: Config) -> Iterator[Fact]:
    """Whether this host can reach and write what several hosts share."""
    if config.database.url:
        yield _check_access("database", _check_database, config)
    if config.assets.url:
        yield _check_access("assets", _check_assets, config)
    elif config.database.url.startswith("postgres"):
        alone = "no other host can read or write them: for several hosts set assets.url to an object store"
        yield Fact("shared", "assets", "in the data folder of this host", alone)


def _check_access(what: str, attempt: Callable[[Config], str], config: Config) -> Fact:
    try:
        return Fact("shared", what, attempt(config))
    except SplatgateError as error:
        return Fact("shared", what, "cannot be used", str(error), blocking=True)


def _check_database(config: Config) -> str:
    from app.jobs.database import database_url
    from app.jobs.store import Store

    store = Store(config, prepare=False)
    try:
        with store.reading() as connection:
            connection.exec_driver_sql("SELECT 1")
    finally:
        store.close()
    return f"{database_url(config).render_as_string()} answers"


def _check_assets(config: Config) -> str:
    from app.jobs.assets import Assets

    assets = Assets(config)
    assets.probe(f"probe-{secrets.token_hex(4)}")
    return f"{assets.url} can be written and read"


def model_facts(config: Config) -> Iterator[Fact]:
    from app.weights import store
    from app.weights.manifest import gigabytes, needed, own_paths

    gated = False
    for path in own_paths(config):
        there = Path(path).exists()
        lost = "" if there else "nothing exists at this path: correct it in the configuration"
        yield Fact("models", path, "your own" if there else "missing", lost, not there)
    for model in needed(config):
        state = store.state_of(model, config)
        size = gigabytes(state.locked.bytes if state.locked else model.about_bytes)
        problem = state.problem if state.condition == "broken" else ""
        if state.condition == "missing":
            gated |= model.gated
            problem = f"{store.fetch_command([model])}   (about {size}, licence {model.licence})"
        yield Fact("models", model.name, f"{state.condition}, {size}", problem, bool(problem))
    if gated:
        yield _hub_token_fact()


def _hub_token_fact() -> Fact:
    """Whether there is a token for the hub; the token itself is never shown."""
    from huggingface_hub import get_token

    if get_token():
        return Fact("models", "hub token", "set")
    problem = "a missing model is gated: accept its conditions on the hub, then set HF_TOKEN or run `hf auth login`"
    return Fact("models", "hub token", "none", problem)

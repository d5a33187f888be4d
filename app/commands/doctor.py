"""`splatgate doctor`: what this host has, what the configured profile needs, and what to do about the difference."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import __version__
from app.cli import JSON, PROFILE, configured, nearest, print_json, progress
from app.config import Config
from app.errors import SplatgateError

PACKAGES = ("torch", "triton", "gsplat", "diffusers", "transformers", "onnxruntime", "open_clip_torch", "av")

LOOK_AT_TORCH = """
import json, torch
from app.splat.raster_gsplat import missing_requirement
found = {"cuda": torch.version.cuda or "", "visible": torch.cuda.is_available()}
try:
    found["gsplat"] = missing_requirement() or "ready"
except Exception as error:
    found["gsplat"] = str(error) or type(error).__name__
print(json.dumps(found))
"""
"""In a process of its own: CUDA is not to be started in this one, and what crashes there is found out here."""


@dataclass(frozen=True)
class Fact:
    """One thing looked at. problem: what will not work because of it, and the remedy; empty where it is as it should.

    blocking: the configured profile cannot run with this problem.
    """

    area: str
    what: str
    found: str
    problem: str = ""
    blocking: bool = False


@click.command()
@PROFILE
@JSON
@configured
def doctor(config: Config, as_json: bool) -> None:
    """Check whether this host can run the profile.

    Checks GPU, driver, versions, disk, memory, models, database and assets. Exit code: 0 it can, 1 it cannot.
    """
    with progress("Looking around"):
        facts = tuple(examine(config))
    blocked = any(fact.blocking for fact in facts)
    if as_json:
        print_json({"profile": config.profile.name, "works": not blocked, "facts": [asdict(fact) for fact in facts]})
    else:
        _print(facts, config, blocked)
    sys.exit(1 if blocked else 0)


def examine(config: Config) -> Iterator[Fact]:
    """Every fact, in the order in which a person wants to read them."""
    yield from _settings(config)
    yield from _host()
    gpus = tuple(_gpus(config))
    yield from gpus
    yield from _versions()
    yield from _torch(config)
    yield from _disk(config)
    yield from shared(config)
    yield from _models(config)


def _settings(config: Config) -> Iterator[Fact]:
    yield Fact("settings", "profile", config.profile.name)
    off = "" if config.validation.enabled else "nothing is scored or refused; set validate.enabled = true"
    yield Fact("settings", "validation", "ON" if config.validation.enabled else "OFF", off)
    if config.profile.generator.needs_gpu:
        yield Fact("settings", "GPU memory", f"{config.gpu.memory}, quantize {config.gpu.quantize}")
    yield Fact("settings", "models", "offline" if config.models.offline else config.models.endpoint or "from the hub")
    yield Fact("settings", "digest", config.digest()[:12])


def _host() -> Iterator[Fact]:
    yield Fact("host", "system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    cores = len(os.sched_getaffinity(0))
    yield Fact("host", "memory", f"{_memory('MemAvailable')} free of {_memory('MemTotal')}, {cores} cores")


def _memory(key: str) -> str:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    return f"{kilobytes * 1024 / 1e9:.1f} GB"


def _gpus(config: Config) -> Iterator[Fact]:
    """By the driver's own library; torch is asked later."""
    import pynvml

    needed = config.profile.generator.needs_gpu or "cuda" in (config.render.device, config.score.device)
    remedy = "install the NVIDIA driver; in a container, start it with --gpus all"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        why = f"profile {config.profile.name} needs an NVIDIA GPU: {remedy}" if needed else ""
        yield Fact("gpu", "driver", f"none ({error})", why, needed)
        return
    try:
        yield Fact("gpu", "driver", pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        if not count:
            yield Fact("gpu", "devices", "none", "the driver shows no GPU to this process" if needed else "", needed)
        for index in range(count):
            yield _gpu(pynvml.nvmlDeviceGetHandleByIndex(index), index)
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object, index: int) -> Fact:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    free, total = memory.free / 1e9, memory.total / 1e9
    name = pynvml.nvmlDeviceGetName(handle)
    return Fact("gpu", f"device {index}", f"{name}, {free:.1f} GB free of {total:.1f} GB, compute {major}.{minor}")


def _versions() -> Iterator[Fact]:
    yield Fact("versions", "splatgate", __version__)
    for name in PACKAGES:
        yield Fact("versions", name, version(name) or "not installed")
    yield Fact("versions", "H.264", *_h264())


def _h264() -> tuple[str, str]:
    """Whether turntables can be encoded, and what to do where not."""
    import av

    try:
        return f"{av.Codec('libx264', 'w').long_name}", ""
    except ValueError as error:  # av's way to say that it has no such codec
        return str(error), "turntables cannot be written: install av from its own wheels, which bring libx264"


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _torch(config: Config) -> Iterator[Fact]:
    """What torch and gsplat make of the GPU."""
    needed = config.profile.generator.needs_gpu
    try:
        ran = subprocess.run(
            [sys.executable, "-c", LOOK_AT_TORCH], capture_output=True, text=True, timeout=300, check=False
        )
        found = json.loads(ran.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        why = str(error) if isinstance(error, subprocess.TimeoutExpired) else ran.stderr.strip().rpartition("\n")[2]
        yield Fact("cuda", "torch", why, "torch cannot be imported: install splatgate again", blocking=True)
        return
    seen = f"CUDA {found['cuda'] or 'none'}, {'a GPU is visible' if found['visible'] else 'no GPU is visible'}"
    blind = (
        "torch sees no GPU: see the driver above, and CUDA_VISIBLE_DEVICES" if needed and not found["visible"] else ""
    )
    yield Fact("cuda", "torch", seen, blind, bool(blind))
    wanted = config.render.device == "cuda" or (needed and found["visible"])
    lacking = found["gsplat"] != "ready" and wanted
    slow = "views are drawn by the slower CPU kernel: install splatgate[gpu]" if lacking else ""
    yield Fact("cuda", "gsplat", found["gsplat"], slow, lacking and config.render.device == "cuda")


def _disk(config: Config) -> Iterator[Fact]:
    from app.weights import store
    from app.weights.manifest import gigabytes, needed

    missing = [model for model in needed(config) if store.state_of(model, config).condition == "missing"]
    to_come = sum(model.about_bytes for model in missing)
    for what, folder, room in (
        ("models folder", Path(config.models.folder), to_come),
        ("data folder", Path(config.serve.data), 0),
    ):
        there = nearest(folder)
        free = shutil.disk_usage(there).free
        problem = f"{gigabytes(room)} are still to be fetched: make room, or set models.folder" if free < room else ""
        if not os.access(there, os.W_OK) and (what == "data folder" or room):
            problem = f"{there} cannot be written by this user: change its owner, or set another folder"
        yield Fact("disk", what, f"{folder}: {gigabytes(free)} free", problem, what == "data folder" and bool(problem))


def shared(config: Config) -> Iterator[Fact]:
    """What hosts have in common: whether it can be reached from here, and written."""
    if config.database.url:
        yield _tried("database", _database_answers, config)
    if config.assets.url:
        yield _tried("assets", _assets_are_kept, config)
    elif config.database.url.startswith("postgres"):
        alone = "no other host can read or write them: for several hosts set assets.url to an object store"
        yield Fact("shared", "assets", "in the data folder of this host", alone)


def _tried(what: str, attempt: Callable[[Config], str], config: Config) -> Fact:
    try:
        return Fact("shared", what, attempt(config))
    except SplatgateError as error:
        return Fact("shared", what, "cannot be used", str(error), blocking=True)


def _database_answers(config: Config) -> str:
    from app.jobs.database import database_url
    from app.jobs.store import Store

    store = Store(config, prepare=False)
    try:
        with store.reading() as connection:
            connection.exec_driver_sql("SELECT 1")
    finally:
        store.close()
    return f"{database_url(config).render_as_string()} answers"


def _assets_are_kept(config: Config) -> str:
    from app.jobs.assets import Assets

    assets = Assets(config)
    assets.probe(f"probe-{secrets.token_hex(4)}")
    return f"{assets.url} keeps what it is given"


def _models(config: Config) -> Iterator[Fact]:
    from app.weights import store
    from app.weights.manifest import gigabytes, needed, own_paths

    for path in own_paths(config):
        there = Path(path).exists()
        lost = "" if there else "there is nothing at this path: correct it in the configuration"
        yield Fact("models", path, "your own" if there else "missing", lost, not there)
    for model in needed(config):
        state = store.state_of(model, config)
        size = gigabytes(state.locked.bytes if state.locked else model.about_bytes)
        problem = state.problem if state.condition == "broken" else ""
        if state.condition == "missing":
            problem = f"splatgate models fetch {model.name}   (about {size}, licence {model.licence})"
        yield Fact("models", model.name, f"{state.condition}, {size}", problem, bool(problem))


def _print(facts: Iterable[Fact], config: Config, blocked: bool) -> None:
    facts = tuple(facts)
    table = Table(box=None, pad_edge=False, show_header=False)
    area = ""
    for fact in facts:
        mark = Text("✗", "red") if fact.blocking else Text("!", "yellow") if fact.problem else Text("✓", "green")
        table.add_row(mark, Text(fact.area if fact.area != area else "", "dim"), Text(fact.what), Text(fact.found))
        area = fact.area
    console = Console()
    console.print(table)
    for fact in facts:
        if fact.problem:
            click.secho(f"{fact.what}: {fact.problem}", fg="red" if fact.blocking else "yellow")
    name = config.profile.name
    words = f"profile {name} cannot run here" if blocked else f"profile {name} can run here"
    click.secho(words, fg="red" if blocked else "green", bold=True)

"""The checks of `splatgate doctor` for GPUs: driver, devices, torch, gsplat, and whether the weights fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.commands.fact import Fact
from app.config import Config

OLDEST_DRIVERS = {"12": 525, "13": 580}
"""The oldest driver for each major version of CUDA that torch may be built for."""

OLDEST_FOR_TORCH, OLDEST_IN_IMAGE = (7, 5), (8, 0)
"""Oldest compute capabilities of torch for CUDA 13, and of the kernels in the container image (Dockerfile)."""

WEIGHT_SHARE = {"none": 1.0, "fp8": 0.61, "nf4": 0.27}
"""Size of a text-to-image model in memory relative to its size on disk, as measured (docs/full-profile.md)."""


@dataclass(frozen=True)
class Card:
    """A GPU. free, total: bytes of memory."""

    name: str
    free: int
    total: int
    capability: tuple[int, int]


def gpu_facts(config: Config, host_memory: int) -> Iterator[Fact]:
    """host_memory: bytes installed."""
    torch = _query_torch()
    driver, cards, why = _query_driver()
    needed = config.profile.generator.needs_gpu or "cuda" in (config.render.device, config.score.device)
    if not cards:
        remedy = "install the NVIDIA driver; in a container, start it with --gpus all"
        problem = f"profile {config.profile.name} needs an NVIDIA GPU: {remedy}" if needed else ""
        yield Fact("gpu", "driver", f"{driver}, no GPU is visible" if driver else f"none ({why})", problem, needed)
    else:
        problem = driver_problem(driver, str(torch.get("cuda", "")))
        yield Fact("gpu", "driver", driver, problem, bool(problem) and needed)
    for index, card in enumerate(cards):
        yield _card_fact(index, card, needed)
    yield from _torch_facts(torch, config)
    if config.profile.generator.needs_gpu and cards and "reserve" in torch:
        yield from memory_facts(config, max(card.free for card in cards), host_memory, torch["reserve"])


def _query_driver() -> tuple[str, tuple[Card, ...], str]:
    """The driver's version, the GPUs, and why there are none, from NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return "", (), str(error)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return str(pynvml.nvmlSystemGetDriverVersion()), tuple(map(_card, handles)), ""
    except pynvml.NVMLError as error:
        return "", (), str(error)
    finally:
        pynvml.nvmlShutdown()


def _card(handle: object) -> Card:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Card(pynvml.nvmlDeviceGetName(handle), memory.free, memory.total, (capability[0], capability[1]))


def driver_problem(driver: str, cuda: str) -> str:
    """Why the driver is too old for CUDA, or empty. Both are versions, such as "580.82.07" and "13.0"."""
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0], 0)
    major = driver.partition(".")[0]
    if major.isdecimal() and int(major) < oldest:
        return f"torch is built for CUDA {cuda}, which needs driver {oldest} or newer: update the NVIDIA driver"
    return ""


def _card_fact(index: int, card: Card, needed: bool) -> Fact:
    version = "{}.{}".format(*card.capability)
    found = f"{card.name}, {_gb(card.free)} free of {_gb(card.total)}, compute capability {version}"
    if card.capability < OLDEST_FOR_TORCH:
        problem = f"torch has no code for compute capability {version}, only for 7.5 and newer: use another GPU"
        return Fact("gpu", f"device {index}", found, problem, needed)
    problem = (
        f"the container image has no gsplat kernels for compute capability {version}, so views are rendered on "
        f'the CPU: build it with --build-arg CUDA_ARCHITECTURES="{version}"'
    )
    return Fact("gpu", f"device {index}", found, problem if card.capability < OLDEST_IN_IMAGE else "")


def _query_torch() -> Mapping[str, Any]:
    """The report of app.stages.cuda_report; only the key `error` if it fails."""
    command = [sys.executable, "-m", "app.stages.cuda_report"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        return {"error": str(error)}
    except (ValueError, IndexError):
        return {"error": ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"}
    return found


def _torch_facts(torch: Mapping[str, Any], config: Config) -> Iterator[Fact]:
    if "error" in torch:
        yield Fact("cuda", "torch", torch["error"], "torch cannot be imported: install splatgate again", blocking=True)
        return
    needed = config.profile.generator.needs_gpu
    seen = f"CUDA {torch['cuda'] or 'none'}, {'a GPU is visible' if torch['visible'] else 'no GPU is visible'}"
    problem = "torch sees no GPU: check the driver and CUDA_VISIBLE_DEVICES" if needed and not torch["visible"] else ""
    yield Fact("cuda", "torch", seen, problem, bool(problem))
    missing = torch["gsplat"] if config.render.device == "cuda" or (needed and config.render.device == "auto") else ""
    problem = f"views are rendered by the slower CPU rasteriser: {missing}" if missing else ""
    yield Fact("cuda", "gsplat", torch["gsplat"] or "ready", problem, bool(missing) and config.render.device == "cuda")


def memory_facts(config: Config, gpu_free: int, host_memory: int, reserve: int) -> Iterator[Fact]:
    """Whether the weights fit. gpu_free, host_memory: bytes; reserve: bytes of GPU memory for computing."""
    from app.weights.lock import read_lock
    from app.weights.manifest import needed
    from app.weights.store import root

    locked = read_lock(root(config)).models
    weights = 0
    for model in needed(config):
        size = locked[model.name].bytes if model.name in locked else model.about_bytes
        share = WEIGHT_SHARE[config.gpu.quantize] if model.role == "text_to_image" else 1.0
        weights += int(size * share) if model.role != "cutout" else 0  # the cutout runs on the CPU
    room = min(gpu_free, int(config.gpu.limit_gb * 1e9)) if config.gpu.limit_gb else gpu_free
    fits = weights + reserve <= room
    mode = config.gpu.memory if config.gpu.memory != "auto" else "resident" if fits else "offload"
    found = f"about {_gb(weights)} of weights and {_gb(reserve)} for computing, {_gb(room)} usable: {mode}"
    problem = "may not fit: set gpu.memory to auto, or gpu.quantize to fp8 or nf4"
    yield Fact("memory", "GPU", found, problem if mode == "resident" and not fits else "")
    if mode == "offload":
        problem = "too little host memory for the offloaded weights: set gpu.quantize to fp8 or nf4"
        found = f"about {_gb(weights)} of weights are kept in host memory, {_gb(host_memory)} installed"
        yield Fact("memory", "host", found, problem if weights > host_memory else "", weights > host_memory)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"

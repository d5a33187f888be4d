"""`scripts/bench_serve --profile full`: what a caller of profile full gets over HTTP, at real sizes."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import pynvml
import requests
from _full_random import VOXELS
from _full_service import NAME, copy_of_app, write_models
from _serving import service

from app.config import load_config
from app.jobs.client import Jobs
from app.samplers import Preset
from app.stage import Stage

PROMPT = "a blue rocket number "
SAMPLE_SECONDS = 0.05


def run(
    voxels: Path, size: Literal["tiny", "full"], turns: int, callers: int, jobs: int, presets: list[Preset]
) -> None:
    """voxels: a .npy file of (N, 3) integers. turns: requests to an idle service. jobs: requests of all callers."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        settings = write_models(folder / "models", size)
        print(f"models written in {time.perf_counter() - began:.0f} s", flush=True)
        os.environ[VOXELS] = str(voxels.absolute())
        root = copy_of_app(folder / "tree", size)
        (folder / "service").mkdir()
        own = {name.removeprefix("SPLATGATE__"): value for name, value in settings.items() if "PROFILE" not in name}
        own |= {"GPU__COMPILE": str(size == "full").lower(), "LOG__LEVEL": "WARNING"}
        for preset in presets:
            chosen = own | {"TRELLIS__PRESET": preset}
            began = time.perf_counter()
            with service(folder / "service", NAME, root, **chosen) as url:
                print(f"\npreset {preset}: ready after {time.perf_counter() - began:.1f} s", flush=True)
                _measure(url, folder / "service" / "data", turns, callers, jobs)
                if preset == presets[-1]:
                    print(f"engine killed: ready again after {_restart(url):.1f} s", flush=True)


def _measure(url: str, data: Path, turns: int, callers: int, jobs: int) -> None:
    for seed in range(3):  # warm-up: kernels are compiled and graphs captured
        _generate(url, seed)
    whole, ids = zip(*(_generate(url, 100 + turn) for turn in range(turns)), strict=True)
    stages = _stages(Jobs(load_config(environ={"SPLATGATE__SERVE__DATA": str(data)})), set(ids))
    print(f"idle service, {turns} requests, medians: last byte after {1e3 * median(whole):.0f} ms "
          f"({1e3 * min(whole):.0f} to {1e3 * max(whole):.0f})")  # fmt: skip
    for stage, seconds in stages.items():
        print(f"  {stage:9} {1e3 * median(seconds):7.1f} ms")
    rest = median(whole) - sum(median(seconds) for seconds in stages.values())
    print(f"  {'the rest':9} {1e3 * rest:7.1f} ms: HTTP, queue, database, delivery", flush=True)
    began = time.perf_counter()
    with _gpu_use() as used, ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda seed: _generate(url, seed), range(1_000, 1_000 + jobs)))
    took = time.perf_counter() - began
    busy = ", ".join(f"{mean(each):.0f} %" for each in used.values()) or "no GPU"
    print(f"{callers} callers, {jobs} jobs: {jobs / took:.3f} jobs/s; GPU busy (NVML): {busy}", flush=True)


def _generate(url: str, seed: int) -> tuple[float, str]:
    """Seconds until the last byte, and the id of the job."""
    began = time.perf_counter()
    answer = requests.post(f"{url}/generate/", data={"prompt": f"{PROMPT}{seed}", "seed": seed}, timeout=600)
    took = time.perf_counter() - began
    assert answer.ok, answer.text
    return took, answer.headers["X-Job-Id"]


def _stages(jobs: Jobs, ids: set[str]) -> dict[str, list[float]]:
    """Seconds by stage, in the order of the stages."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in jobs.statistics.stage_times(0, 100_000):
        if each.job in ids:
            found[each.stage].append(each.seconds)
    jobs.close()
    return {stage: found[stage] for stage in Stage if stage in found}


def _restart(url: str) -> float:
    """Seconds from kill -9 of an engine until another one is ready."""
    before = {each["pid"] for each in _engines(url)}
    began = time.perf_counter()
    os.kill(min(before), signal.SIGKILL)
    while not any(each["state"] == "READY" and each["pid"] not in before for each in _engines(url)):
        time.sleep(0.1)
    return time.perf_counter() - began


def _engines(url: str) -> list[dict[str, Any]]:
    return list(requests.get(f"{url}/readyz", timeout=20).json()["engines"])


@contextmanager
def _gpu_use() -> Iterator[dict[int, list[int]]]:
    """Samples of each GPU's utilization in per cent, taken while the block runs; empty without a GPU."""
    used: dict[int, list[int]] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield used
        return
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            for index, handle in enumerate(handles):
                used.setdefault(index, []).append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        done.set()
        thread.join()

"""Trains a stage until its minutes are over: learning-rate schedule, averaged weights, checkpoints, progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
Figures = dict[str, Any]
SAVE_EVERY = 60.0
PRINT_EVERY = 20.0
WARM_UP = 200


@dataclass(frozen=True)
class Options:
    """Of a stage. folder: its checkpoints. data: the chunks. steps: 0 means as many as fit into the minutes.

    rate: factor of the learning rate. compiled: whether the picture model may be compiled.
    """

    folder: Path
    data: Path
    device: torch.device
    minutes: float
    steps: int = 0
    seed: int = 0
    resume: bool = False
    rate: float = 1.0
    compiled: bool = False


def checkpoint(folder: Path, stage: str, part: str) -> Path:
    return folder / f"{stage}.{part}.safetensors"


class Averaged:
    """The modules of a stage and the exponential moving average of their weights, which is what is saved and used."""

    def __init__(self, modules: dict[str, Any], device: torch.device, decay: float = 0.999) -> None:
        self.modules = nn.ModuleDict(modules).to(device)
        self.decay, self.updates = decay, 0
        self.average = self._copy()

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        now = self.modules.state_dict()
        floats = [key for key, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[key] for key in floats], [now[key] for key in floats], 1 - decay)

    @contextmanager
    def in_use(self) -> Iterator[Any]:
        """Yields the modules with their averaged weights, in eval mode; afterwards they are as before."""
        before = self._copy()
        self.modules.load_state_dict(self.average)
        self.modules.eval()
        try:
            yield self.modules
        finally:
            self.modules.load_state_dict(before)
            self.modules.train()

    def save(self, folder: Path, stage: str, figures: Figures) -> None:
        """A file for each module, float16, with the figures as metadata."""
        for part in self.modules:
            halves = {key: half(value) for key, value in select(self.average, part).items()}
            path = checkpoint(folder, stage, part)
            unfinished = path.with_suffix(".part")
            save_file(halves, unfinished, {"figures": json.dumps(figures)})
            unfinished.replace(path)

    def load(self, folder: Path, stage: str) -> Figures:
        figures: Figures = {}
        for part, module in self.modules.items():
            state, figures = read(checkpoint(folder, stage, part))
            module.load_state_dict(state)
        self.average = self._copy()
        return figures

    def _copy(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.modules.state_dict().items()}


def select(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}


def half(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() else value).cpu().contiguous()


def read(path: Path) -> tuple[dict[str, Tensor], Figures]:
    """The tensors of a checkpoint, float32, and its figures."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        figures = json.loads((file.metadata() or {}).get("figures", "{}"))
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, figures


def load_part(module: M, folder: Path, stage: str, part: str, device: torch.device) -> M:
    """One module of a checkpoint, for inference."""
    module.load_state_dict(read(checkpoint(folder, stage, part))[0])
    return module.to(device).eval().requires_grad_(False)


def train(
    stage: str,
    options: Options,
    averaged: Averaged,
    losses_of_a_batch: Callable[[], dict[str, Tensor]],
    *,
    rate: float,
    before_step: Callable[[], object] = lambda: None,
) -> Figures:
    """Minimises the sum of the losses until the minutes or the steps are over. Saves checkpoints; returns the figures.

    rate: peak of the learning rate, which rises over WARM_UP steps and falls by a cosine to 2 % at the end.
    """
    figures = averaged.load(options.folder, stage) if options.resume else {}
    optimiser = _optimiser(averaged.modules, options.device)
    progress = Progress(stage, figures)
    started = saved = time.monotonic()
    step = 0
    while (share := _share_done(options, time.monotonic() - started, step)) < 1:
        before_step()
        warm = min(1, (step + 1) / WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = rate * options.rate * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share)))
        with torch.autocast(options.device.type, torch.bfloat16, enabled=options.device.type == "cuda"):
            losses = losses_of_a_batch()
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(averaged.modules.parameters(), 1.0)
        optimiser.step()
        averaged.update()
        step += 1
        progress.add(losses)
        if time.monotonic() - saved > SAVE_EVERY:
            averaged.save(options.folder, stage, progress.figures)
            saved = time.monotonic()
    progress.print()
    averaged.save(options.folder, stage, progress.figures)
    return progress.figures


class Progress:
    """Mean losses since the last line, printed every PRINT_EVERY seconds; figures count earlier runs too."""

    def __init__(self, stage: str, figures: Figures) -> None:
        self.stage, self.figures = stage, figures
        self.count, self.sums = 0, {}
        self.printed = time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        self.count += 1
        self.sums = {name: self.sums.get(name, 0) + value.detach() for name, value in losses.items()}
        if time.monotonic() - self.printed > PRINT_EVERY:
            self.print()

    def print(self) -> None:
        now = time.monotonic()
        self.figures["steps"] = self.figures.get("steps", 0) + self.count
        self.figures["seconds"] = round(self.figures.get("seconds", 0.0) + now - self.printed, 1)
        self.figures |= {name: round(float(value) / self.count, 5) for name, value in self.sums.items()}
        print(f"{self.stage}: {', '.join(f'{name} {value}' for name, value in self.figures.items())}", flush=True)
        self.count, self.sums, self.printed = 0, {}, now


def _share_done(options: Options, seconds: float, step: int) -> float:
    return max(seconds / (60 * options.minutes), step / options.steps if options.steps else 0.0)


def _optimiser(modules: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Weight decay for matrices alone."""
    trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": 0.01},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=device.type == "cuda")


def flow_times(count: int, device: torch.device, mean: float = 0.6) -> Tensor:
    """(count,) times in (0, 1) to learn a flow at: logit-normal, which prefers noise, and a tenth of them uniform."""
    t = torch.sigmoid(torch.randn(count, device=device) + mean)
    return torch.where(torch.rand(count, device=device) < 0.1, torch.rand(count, device=device), t)

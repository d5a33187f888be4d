"""The objects on the training device. Chunks are read as they appear, so that training starts before all are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Pool:
    """Fields of all objects of one kind ("learn" or "held") that are in the folder; `refresh` looks for new chunks.

    derive: makes the fields that are kept of those that were read, once a chunk.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        fields: Sequence[str],
        device: torch.device,
        derive: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        self.folder, self.kind, self.names, self.device, self.derive = folder, kind, fields, device, derive
        self.seen: set[str] = set()
        self.prompts: list[str] = []
        self.tensors: dict[str, Tensor] = {}
        self.looked = 0.0

    def __len__(self) -> int:
        return len(self.prompts)

    def wait(self, objects: int, patience: float = 300.0) -> None:
        """Until so many objects are there. Raises TimeoutError."""
        started = time.monotonic()
        while self.refresh(0) < objects:
            if time.monotonic() - started > patience:
                raise TimeoutError(f"{self.folder}: {len(self)} objects of kind {self.kind!r}, {objects} are needed")
            time.sleep(0.5)

    def refresh(self, every: float = 10.0, most: int = 64) -> int:
        """Reads up to `most` new chunks, at most once in `every` seconds; returns how many objects there are."""
        if time.monotonic() - self.looked < every:
            return len(self)
        new = [path for path in sorted(self.folder.glob(f"{self.kind}-?????.npz")) if path.name not in self.seen]
        parts = [self._read(path) for path in new[:most]]
        if parts:
            known = [self.tensors] if self.tensors else []
            self.tensors = {name: torch.cat([part[name] for part in [*known, *parts]]) for name in parts[0]}
        self.looked = time.monotonic()
        return len(self)

    def batch(self, count: int, random: torch.Generator) -> dict[str, Tensor]:
        """Fields of `count` objects drawn at random, and "index"."""
        index = torch.randint(len(self), (count,), generator=random)
        return self.rows(index)

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        index = index.to(self.device)
        return {name: tensor[index] for name, tensor in self.tensors.items()} | {"index": index}

    def _read(self, path: Path) -> dict[str, Tensor]:
        with np.load(path) as file:
            part = {name: torch.from_numpy(file[name]).to(self.device) for name in self.names}
            self.prompts += [str(prompt) for prompt in file["prompt"]]
        self.seen.add(path.name)
        if self.derive:
            part = self.derive(part)
        return part

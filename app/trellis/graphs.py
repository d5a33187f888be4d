"""CUDA graphs: a function of tensors is recorded once for each set of shapes, then replayed without the host's help.

A step of a flow is some four hundred short kernels, and issuing them takes the host longer than running them takes the
GPU. Nothing here knows what is computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEPT = 32
"""Recordings kept, the least recently used ones are dropped: each is some megabytes; activations share one pool."""


@dataclass
class Recording:
    graph: torch.cuda.CUDAGraph
    fresh: Any
    held: Any
    result: Tensor
    holds: Any = None


class Recorder:
    """Calls `function(*fresh, *held)`, always the same function, with tensors, None and (named) tuples of these.

    `fresh` is copied into the recording's own buffers at every call; `held` only where it is another object than at the
    last call, for inputs that stay the same over a run. The result is overwritten by the next call.
    """

    def __init__(self) -> None:
        self.recordings: OrderedDict[object, Recording] = OrderedDict()

    def __call__(self, function: Callable[..., Tensor], fresh: tuple[Any, ...], held: tuple[Any, ...]) -> Tensor:
        key = shapes((fresh, held))
        recording = self.recordings.pop(key, None) or self._record(function, fresh, held)
        self.recordings[key] = recording
        while len(self.recordings) > KEPT:
            self.recordings.popitem(last=False)
        copy(fresh, recording.fresh)
        if recording.holds is not held:
            copy(held, recording.held)
            recording.holds = held
        recording.graph.replay()
        return recording.result

    def _record(self, function: Callable[..., Tensor], fresh: tuple[Any, ...], held: tuple[Any, ...]) -> Recording:
        fresh, held = each(torch.clone, fresh), each(torch.clone, held)
        warm_up(function, fresh, held)
        shared = next((recording.graph.pool() for recording in self.recordings.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=shared):
            result = function(*fresh, *held)
        return Recording(graph, fresh, held, result)


def warm_up(function: Callable[..., Tensor], fresh: tuple[Any, ...], held: tuple[Any, ...]) -> None:
    """Kernels are compiled and libraries initialised by a first call, which must not be part of the graph."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        function(*fresh, *held)
    torch.cuda.current_stream().wait_stream(aside)


def each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same nest of tuples with `function` of every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if value is None:
        return None
    parts = [each(function, part) for part in value]
    return value._make(parts) if hasattr(value, "_make") else tuple(parts)


def shapes(value: Any) -> object:
    return each(lambda tensor: (tensor.shape, tensor.dtype), value)


def copy(source: Any, target: Any) -> None:
    """Every tensor of one nest into its counterpart in the other."""
    if isinstance(source, Tensor):
        target.copy_(source)
    elif source is not None:
        for part, counterpart in zip(source, target, strict=True):
            copy(part, counterpart)

"""CUDA graphs: a function of tensors is recorded once for each set of shapes, then replayed without the host's help.

A step of a flow is some four hundred short kernels, and issuing them takes the host longer than running them takes the
GPU. Nothing here knows what is computed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

import torch
from torch import Tensor

KEPT = 32
"""Recordings kept, the least recently used ones are dropped: each is some megabytes; activations share one pool."""


@dataclass(eq=False)
class Buffer:
    """Where recordings read an input that stays the same over a run, and which tensor was last copied there."""

    tensor: Tensor
    source: ReferenceType[Tensor] | None = None


@dataclass(frozen=True)
class Recording:
    graph: torch.cuda.CUDAGraph
    fresh: Any
    buffers: list[Buffer]
    result: Tensor


class Recorder:
    """Calls `function(*fresh, *held)` with tensors, None and (named) tuples of these.

    `fresh` is copied into the recording's own buffers at every call. `held` is for inputs that stay the same over a
    run: a tensor there is copied only where it is another object than the last one in its place, and recordings share
    the buffer. The result is overwritten by the next call.
    """

    def __init__(self) -> None:
        self.recordings: OrderedDict[object, Recording] = OrderedDict()
        self.buffers: WeakValueDictionary[object, Buffer] = WeakValueDictionary()

    @torch.inference_mode()
    def __call__(self, function: Callable[..., Tensor], fresh: tuple[Any, ...], held: tuple[Any, ...]) -> Tensor:
        key = function.__qualname__, shapes((fresh, held))
        inputs, buffers = self._hold(held)
        recording = self.recordings.pop(key, None) or self._record(function, fresh, inputs, buffers)
        self.recordings[key] = recording
        while len(self.recordings) > KEPT:
            self.recordings.popitem(last=False)
        copy(fresh, recording.fresh)
        recording.graph.replay()
        return recording.result

    def _hold(self, held: tuple[Any, ...]) -> tuple[Any, list[Buffer]]:
        used = []

        def buffered(tensor: Tensor, place: object) -> Tensor:
            key = place, tensor.shape, tensor.dtype
            buffer = self.buffers.get(key) or Buffer(torch.empty_like(tensor))
            self.buffers[key] = buffer
            if buffer.source is None or buffer.source() is not tensor:
                buffer.tensor.copy_(tensor)
                buffer.source = ref(tensor)
            used.append(buffer)
            return buffer.tensor

        return each(buffered, held), used

    def _record(
        self, function: Callable[..., Tensor], fresh: tuple[Any, ...], held: tuple[Any, ...], buffers: list[Buffer]
    ) -> Recording:
        fresh = each(lambda tensor, _: tensor.clone(), fresh)
        function(*fresh, *held)  # kernels are compiled and libraries initialised outside the graph
        shared = next((recording.graph.pool() for recording in self.recordings.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=shared):
            result = function(*fresh, *held)
        return Recording(graph, fresh, buffers, result)


def each(function: Callable[[Tensor, object], Any], value: Any, place: tuple[int, ...] = ()) -> Any:
    """The same nest of tuples with `function(tensor, its place)` of every tensor."""
    if isinstance(value, Tensor):
        return function(value, place)
    if value is None:
        return None
    parts = [each(function, part, (*place, index)) for index, part in enumerate(value)]
    return value._make(parts) if hasattr(value, "_make") else tuple(parts)


def shapes(value: Any) -> object:
    return each(lambda tensor, _: (tensor.shape, tensor.dtype), value)


def copy(source: Any, target: Any) -> None:
    """Every tensor of one nest into its counterpart in the other."""
    if isinstance(source, Tensor):
        target.copy_(source)
    elif source is not None:
        for part, counterpart in zip(source, target, strict=True):
            copy(part, counterpart)

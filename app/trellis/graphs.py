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
    """Where recordings read an input that stays the same over a run, and which tensor is there: copied, or in place."""

    tensor: Tensor
    source: ReferenceType[Tensor]

    def give_to(self, tensor: Tensor) -> None:
        """Puts other values there; the tensor that lives in this memory, if any does, moves out first."""
        last = self.source()
        if last is not None and last.data_ptr() == self.tensor.data_ptr():
            last.data = last.clone()
        self.tensor.copy_(tensor)
        self.source = ref(tensor)


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
    the buffer. The first tensor in a place is the buffer itself, and a later one may be made in it (`room`), for they
    can be large; so whoever made a held tensor must not write to it. The result is overwritten by the next call.
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

    def room(self, place: tuple[int, ...], shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory to make a held tensor in, of `like`'s type: that of its place, unless a living one is there."""
        buffer = self.buffers.get((place, torch.Size(shape), like.dtype))
        if buffer is None or buffer.source() is not None:
            return like.new_empty(shape)
        room = buffer.tensor.view(shape)
        buffer.source = ref(room)
        return room

    def _hold(self, held: tuple[Any, ...]) -> tuple[Any, list[Buffer]]:
        used = []

        def buffered(tensor: Tensor, place: object) -> Tensor:
            key = place, tensor.shape, tensor.dtype
            buffer = self.buffers.get(key) or Buffer(tensor.view_as(tensor), ref(tensor))
            self.buffers[key] = buffer
            if buffer.source() is not tensor:
                buffer.give_to(tensor)
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

"""CUDA graphs: a function of tensors is captured once for each set of shapes and replayed from then on.

One step of a flow is about four hundred short kernels, and launching them takes the CPU longer than running them takes
the GPU. This file does not know what the kernels compute.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

import torch
from torch import Tensor

MAX_GRAPHS = 32
"""The least recently used graph is dropped beyond this. Each takes some megabytes; activations share one pool."""


@dataclass(eq=False)
class Buffer:
    """Memory that captured graphs read a static input from. source: the tensor whose values it holds."""

    tensor: Tensor
    source: ReferenceType[Tensor]

    def assign(self, tensor: Tensor) -> None:
        """Copies the values of another tensor here. A live source that shares this memory is moved out first."""
        last = self.source()
        if last is not None and last.data_ptr() == self.tensor.data_ptr():
            last.data = last.clone()
        self.tensor.copy_(tensor)
        self.source = ref(tensor)


@dataclass(frozen=True)
class CapturedGraph:
    graph: torch.cuda.CUDAGraph
    inputs: Any
    buffers: list[Buffer]
    result: Tensor


class GraphCache:
    """Calls `function(*inputs, *static)` by replaying a CUDA graph. Arguments: tensors, None, and (named) tuples.

    inputs: change with every call, and are copied into the graph's own memory.
    static: stay the same over a run. A static tensor is copied only when it is another object than at the last call;
    all graphs share its buffer. The first tensor at a position becomes the buffer itself, and `allocate` gives out that
    memory for its successors, because keys and values are large. Do not write to a static tensor after the call.

    The result is overwritten by the next call.
    """

    def __init__(self) -> None:
        self.captured: OrderedDict[object, CapturedGraph] = OrderedDict()
        self.buffers: WeakValueDictionary[object, Buffer] = WeakValueDictionary()

    @torch.inference_mode()
    def __call__(self, function: Callable[..., Tensor], inputs: tuple[Any, ...], static: tuple[Any, ...]) -> Tensor:
        key = function.__qualname__, signature((inputs, static))
        arguments, buffers = self._buffered(static)
        captured = self.captured.pop(key, None) or self._capture(function, inputs, arguments, buffers)
        self.captured[key] = captured
        while len(self.captured) > MAX_GRAPHS:
            self.captured.popitem(last=False)
        copy_tensors(inputs, captured.inputs)
        captured.graph.replay()
        return captured.result

    def allocate(self, path: tuple[int, ...], shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory for the static tensor at `path`, in `like`'s dtype: its buffer, unless a live tensor occupies it."""
        buffer = self.buffers.get((path, torch.Size(shape), like.dtype))
        if buffer is None or buffer.source() is not None:
            return like.new_empty(shape)
        memory = buffer.tensor.view(shape)
        buffer.source = ref(memory)
        return memory

    def _buffered(self, static: tuple[Any, ...]) -> tuple[Any, list[Buffer]]:
        used = []

        def buffered(tensor: Tensor, path: object) -> Tensor:
            key = path, tensor.shape, tensor.dtype
            buffer = self.buffers.get(key) or Buffer(tensor.view_as(tensor), ref(tensor))
            self.buffers[key] = buffer
            if buffer.source() is not tensor:
                buffer.assign(tensor)
            used.append(buffer)
            return buffer.tensor

        return map_tensors(buffered, static), used

    def _capture(
        self, function: Callable[..., Tensor], inputs: tuple[Any, ...], static: tuple[Any, ...], buffers: list[Buffer]
    ) -> CapturedGraph:
        inputs = map_tensors(lambda tensor, _: tensor.clone(), inputs)
        function(*inputs, *static)  # compiles kernels and initialises libraries, which cannot happen during capture
        pool = next((captured.graph.pool() for captured in self.captured.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = function(*inputs, *static)
        return CapturedGraph(graph, inputs, buffers, result)


def map_tensors(function: Callable[[Tensor, object], Any], value: Any, path: tuple[int, ...] = ()) -> Any:
    """The same nested tuples with `function(tensor, path)` in place of each tensor."""
    if isinstance(value, Tensor):
        return function(value, path)
    if value is None:
        return None
    parts = [map_tensors(function, part, (*path, index)) for index, part in enumerate(value)]
    return value._make(parts) if hasattr(value, "_make") else tuple(parts)


def signature(value: Any) -> object:
    """Shapes and dtypes, nested like the value."""
    return map_tensors(lambda tensor, _: (tensor.shape, tensor.dtype), value)


def copy_tensors(source: Any, target: Any) -> None:
    """Copies every tensor of one value into its counterpart in another of the same structure."""
    if isinstance(source, Tensor):
        target.copy_(source)
    elif source is not None:
        for part, counterpart in zip(source, target, strict=True):
            copy_tensors(part, counterpart)

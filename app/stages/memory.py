"""Placement of weights: all on the GPU, or as many blocks as fit while the others are offloaded.

A block is a layer of a transformer. The weights of an offloaded block are kept in pinned CPU memory, in one piece, and
copied to one of two buffers on the GPU while the block before it computes. Buffers and order are fixed, so nothing is
allocated in between, compiled code keeps its addresses, and the CPU can run ahead of the GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from loguru import logger
from torch import Tensor, nn

from app.config import GpuConfig
from app.errors import Unavailable

RESERVE_BYTES = 3_000_000_000
"""Reserved for everything but weights: activations, CUDA graphs, CUDA libraries (docs/full-profile.md)."""
SMALL_BYTES = 500_000_000
"""Parts up to this size are never offloaded: the autoencoder, the small text encoder."""
BUFFERS = 2
ALIGNMENT = 256

Mode = Literal["resident", "offload"]


@dataclass(frozen=True)
class Part:
    """A loaded network. calls: forward passes per job; a network with more of them gains more by staying on the GPU."""

    name: str
    module: nn.Module
    calls: int = 1

    @property
    def bytes(self) -> int:
        return bytes_of(self.module)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks that may be offloaded: none in a small part."""
        return blocks(self.module) if self.bytes > SMALL_BYTES else []


def place_weights(parts: Sequence[Part], config: GpuConfig, device: torch.device) -> Mode:
    """Moves every part to where it will be used. Returns the mode, and logs why.

    Raises Unavailable if not even the parts that must stay on the GPU fit.
    """
    room = available_bytes(parts, config, device)
    mode = choose_mode(config, sum(part.bytes for part in parts), room)
    if mode == "resident":
        for part in parts:
            move(part.module, device)
    else:
        offload_blocks(parts, room, device)
    torch.cuda.empty_cache()
    _enforce(config, device)
    return mode


def offload_blocks(parts: Sequence[Part], room: int, device: torch.device) -> None:
    """Keeps small parts, and as many blocks as fit of parts that run more than once per job; offloads the others.

    A part that runs once per job is offloaded entirely: copying it takes 0.1 s and frees memory for computing.
    """
    fixed = sum(_fixed_bytes(part) for part in parts)
    left = room - RESERVE_BYTES - fixed
    if left < 0:
        raise Unavailable(
            f"gpu.memory = 'offload' needs {gigabytes(fixed + RESERVE_BYTES)} of GPU memory, {gigabytes(room)} may be "
            "used: raise gpu.limit_gb, free the card, or set gpu.quantize"
        )
    for part in sorted(parts, key=lambda part: -part.calls):
        everything = part.blocks
        sizes = {block: bytes_of(block) for block in everything}
        if offloaded := blocks_to_offload(sizes, left if part.calls > 1 else 0):
            BlockOffloader(offloaded, device)
        move(part.module, device)
        left -= sum(size for block, size in sizes.items() if block not in offloaded)
        staying = len(everything) - len(offloaded)
        logger.info(f"GPU memory: {part.name}: {staying} of {len(everything)} blocks stay, the others are offloaded")


def choose_mode(config: GpuConfig, weights: int, room: int) -> Mode:
    """weights: bytes of all parts. room: bytes of GPU memory available for weights and activations."""
    enough = weights + RESERVE_BYTES <= room
    mode: Mode = config.memory if config.memory != "auto" else "resident" if enough else "offload"
    logger.info(
        f"GPU memory: {mode} (gpu.memory = {config.memory!r}): weights {gigabytes(weights)}, "
        f"{gigabytes(RESERVE_BYTES)} for computing, {gigabytes(room)} may be used"
    )
    if mode == "resident" and not enough:
        logger.warning("GPU memory: gpu.memory = 'resident' may not fit; 'auto' would offload")
    return mode


def available_bytes(parts: Sequence[Part], config: GpuConfig, device: torch.device) -> int:
    """Bytes available for these parts and their activations: free memory, or what gpu.limit_gb leaves of it."""
    free, _ = torch.cuda.mem_get_info(device)
    if config.limit_gb:
        free = min(free, int(config.limit_gb * 1e9) - torch.cuda.memory_allocated(device))
    return free + sum(leaf.value.nbytes for part in parts for leaf in leaves(part.module) if leaf.value.is_cuda)


def _enforce(config: GpuConfig, device: torch.device) -> None:
    """Makes the allocator raise an out-of-memory error beyond gpu.limit_gb."""
    if config.limit_gb:
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, config.limit_gb * 1e9 / total), device)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


# ---- blocks, and where their tensors hang ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A plain tensor of a module: a parameter, a buffer, or a component of a quantized parameter."""

    owner: Any
    name: str

    @property
    def value(self) -> Tensor:
        found: Tensor = getattr(self.owner, self.name)
        return found

    def point_at(self, tensor: Tensor) -> None:
        setattr(self.owner, self.name, tensor)


def leaves(module: nn.Module) -> Iterator[Leaf]:
    """Every plain tensor of a module and its submodules. Shared tensors come once."""
    seen = set()
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield from _pieces(parameter)
        for name, _ in child.named_buffers(recurse=False):
            yield Leaf(child, name)


def _pieces(parameter: Tensor) -> Iterator[Leaf]:
    if not hasattr(parameter, "__tensor_flatten__"):
        yield Leaf(parameter, "data")
        return
    names, _ = parameter.__tensor_flatten__()
    for name in names:
        yield Leaf(parameter, name)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost ModuleLists in their order: the layers of a transformer."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [block for child in module.children() for block in blocks(child)]


def bytes_of(module: nn.Module) -> int:
    return sum(leaf.value.nbytes for leaf in leaves(module))


def move(module: nn.Module, device: torch.device) -> None:
    """Like `module.to(device)`, also for quantized parameters. Tensors of offloaded blocks are on the GPU already."""
    for leaf in leaves(module):
        leaf.point_at(leaf.value.to(device))


def _fixed_bytes(part: Part) -> int:
    """Bytes needed on the GPU in any case: everything outside the blocks, and the buffers for offloaded blocks."""
    sizes = [bytes_of(block) for block in part.blocks]
    return part.bytes - sum(sizes) + BUFFERS * max(sizes, default=0)


def blocks_to_offload(sizes: dict[nn.Module, int], room: int) -> list[nn.Module]:
    """The fewest blocks, evenly spread, without which the others fit into `room` bytes. sizes: bytes of each block."""
    everything = list(sizes)
    for count in range(len(everything)):
        chosen = evenly_spread(everything, count)
        if sum(size for block, size in sizes.items() if block not in chosen) <= room:
            return chosen
    return everything


def evenly_spread(items: list[nn.Module], count: int) -> list[nn.Module]:
    """`count` of the items, evenly spread, so that copies overlap with the computation of the blocks between."""
    return [items[index * len(items) // count] for index in range(count)]


class BlockOffloader:
    """Copies blocks to the GPU only for their own forward pass, in the order of the list.

    Their tensors always point into the buffers, whose contents change.
    """

    def __init__(self, offloaded: Sequence[nn.Module], device: torch.device) -> None:
        sizes = [_spans(block)[1] for block in offloaded]
        starts = list(accumulate(sizes, initial=0))
        host_memory = pinned(self, starts[-1])
        self.host_copies = [host_memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self.buffers = [torch.empty(max(sizes), dtype=torch.uint8, device=device) for _ in offloaded[:BUFFERS]]
        self.loaded: list[int | None] = [None for _ in self.buffers]
        self.copied, self.released = (_events(len(self.buffers)) for _ in range(2))
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for index, (block, packed) in enumerate(zip(offloaded, self.host_copies, strict=True)):
            pack(block, packed)
            unpack(block, self.buffers[index % len(self.buffers)])
            block.register_forward_pre_hook(lambda _block, _args, index=index: self.enter(index))
            block.register_forward_hook(lambda _block, _args, _result, index=index: self.leave(index))

    def enter(self, index: int) -> None:
        """Before the forward pass of a block: the GPU waits until the weights have been copied."""
        self._fetch(index)
        torch.cuda.current_stream().wait_event(self.copied[index % len(self.buffers)])

    def leave(self, index: int) -> None:
        """After the forward pass of a block: starts to copy the next block of this buffer, or of the next pass."""
        self.released[index % len(self.buffers)].record(torch.cuda.current_stream())
        following = index + len(self.buffers)
        self._fetch(following if following < len(self.host_copies) else index % len(self.buffers))

    def _fetch(self, index: int) -> None:
        buffer = index % len(self.buffers)
        if self.loaded[buffer] == index:
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.released[buffer])  # the GPU may be far behind and still use the previous block
            self.buffers[buffer][: len(self.host_copies[index])].copy_(self.host_copies[index], non_blocking=True)
            self.copied[buffer].record(self.stream)
        self.loaded[buffer] = index


def pinned(owner: object, size: int) -> Tensor:
    """`size` bytes of pinned CPU memory, as long as the owner lives.

    torch's own pinned allocator would round up to a power of two.
    """
    memory = torch.empty(size, dtype=torch.uint8)
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(int(runtime.cudaHostRegister(memory.data_ptr(), size, 0)))
    release = weakref.finalize(owner, lambda held: runtime.cudaHostUnregister(held.data_ptr()), memory)
    release.atexit = False  # the end of the process releases it anyway
    return memory


def pack(block: nn.Module, host_memory: Tensor) -> None:
    """Copies all tensors of a block to one piece of CPU memory, each aligned to ALIGNMENT bytes."""
    for leaf, start in _spans(block)[0]:
        value = leaf.value.contiguous()
        host_memory[start : start + value.nbytes] = value.view(-1).view(torch.uint8).cpu()


def unpack(block: nn.Module, buffer: Tensor) -> None:
    """Points the tensors of a block into a buffer for the bytes that `pack` wrote."""
    for leaf, start in _spans(block)[0]:
        value = leaf.value
        leaf.point_at(buffer[start : start + value.nbytes].view(value.dtype).view(value.shape))


def _spans(block: nn.Module) -> tuple[list[tuple[Leaf, int]], int]:
    """The offset of each tensor in bytes, and the total size."""
    spans, end = [], 0
    for leaf in leaves(block):
        spans.append((leaf, end))
        end += -(-leaf.value.nbytes // ALIGNMENT) * ALIGNMENT
    return spans, end


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(count)]  # type: ignore[no-untyped-call]

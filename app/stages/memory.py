"""Where weights live: all on the GPU, or as many as there is room for, while the others visit it in turn.

A visit is of one block (a layer of a transformer): its weights wait in pinned CPU memory as one piece, and are copied
into one of two places on the GPU while the block before it computes. Places and order are fixed, so that nothing is
allocated on the way, recorded and compiled code keeps its addresses, and the host may run ahead of the GPU.
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

RESERVE = 3_000_000_000
"""Bytes for all that is no weight: activations, recordings, the CUDA libraries' own (docs/full-profile.md)."""
SMALL = 500_000_000
"""Bytes up to which a part stays whole: the autoencoder, the small text encoder."""
PLACES = 2
ALIGNED = 256

Mode = Literal["resident", "offload"]


@dataclass(frozen=True)
class Part:
    """A loaded network. calls: how often a job runs through it; what runs most often gains most by staying."""

    name: str
    module: nn.Module
    calls: int = 1

    @property
    def bytes(self) -> int:
        return bytes_of(self.module)

    @property
    def blocks(self) -> list[nn.Module]:
        """What may visit: none of a part so small that it is not worth it."""
        return blocks(self.module) if self.bytes > SMALL else []


def place_weights(parts: Sequence[Part], config: GpuConfig, device: torch.device) -> Mode:
    """Puts every part where it will work, from wherever it is; returns how, and logs why.

    Raises Unavailable where not even what must stay fits.
    """
    room = room_for(parts, config, device)
    mode = choose(config, sum(part.bytes for part in parts), room)
    if mode == "resident":
        for part in parts:
            move(part.module, device)
    else:
        share_out(parts, room, device)
    torch.cuda.empty_cache()
    _enforce(config, device)
    return mode


def share_out(parts: Sequence[Part], room: int, device: torch.device) -> None:
    """Lets small parts stay, and of those that run more than once a job as many blocks as fit beside RESERVE.

    What runs once visits whole: its copy costs a tenth of a second, and its room is then free for computing.
    """
    fixed = sum(_fixed_bytes(part) for part in parts)
    left = room - RESERVE - fixed
    if left < 0:
        raise Unavailable(
            f"gpu.memory = 'offload' needs {gigabytes(fixed + RESERVE)} of GPU memory, {gigabytes(room)} may be used: "
            "raise gpu.limit_gb, free the card, or set gpu.quantize"
        )
    for part in sorted(parts, key=lambda part: -part.calls):
        everything = part.blocks
        sizes = {block: bytes_of(block) for block in everything}
        if visiting := blocks_to_offload(sizes, left if part.calls > 1 else 0):
            BlockOffloader(visiting, device)
        move(part.module, device)
        left -= sum(size for block, size in sizes.items() if block not in visiting)
        staying = len(everything) - len(visiting)
        logger.info(f"GPU memory: {part.name}: {staying} of {len(everything)} blocks stay, the others visit")


def choose(config: GpuConfig, weights: int, room: int) -> Mode:
    """weights: bytes of all parts. room: bytes of GPU memory for them and for what they compute."""
    enough = weights + RESERVE <= room
    mode: Mode = config.memory if config.memory != "auto" else "resident" if enough else "offload"
    logger.info(
        f"GPU memory: {mode} (gpu.memory = {config.memory!r}): weights {gigabytes(weights)}, "
        f"{gigabytes(RESERVE)} for computing, {gigabytes(room)} may be used"
    )
    if mode == "resident" and not enough:
        logger.warning("GPU memory: 'resident' was asked for, and may not fit; gpu.memory = 'auto' would offload")
    return mode


def room_for(parts: Sequence[Part], config: GpuConfig, device: torch.device) -> int:
    """Bytes that these parts and their computing may take: what is free, or what gpu.limit_gb leaves."""
    free, _ = torch.cuda.mem_get_info(device)
    if config.limit_gb:
        free = min(free, int(config.limit_gb * 1e9) - torch.cuda.memory_allocated(device))
    return free + sum(leaf.value.nbytes for part in parts for leaf in leaves(part.module) if leaf.value.is_cuda)


def _enforce(config: GpuConfig, device: torch.device) -> None:
    """Beyond gpu.limit_gb an allocation is out of memory, however much the card has."""
    if config.limit_gb:
        _, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(min(1.0, config.limit_gb * 1e9 / total), device)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


# ---- blocks, and where their tensors hang ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A plain tensor of a module: a parameter, a buffer, or a piece of a quantised parameter."""

    owner: Any
    name: str

    @property
    def value(self) -> Tensor:
        found: Tensor = getattr(self.owner, self.name)
        return found

    def point_at(self, tensor: Tensor) -> None:
        setattr(self.owner, self.name, tensor)


def leaves(module: nn.Module) -> Iterator[Leaf]:
    """Every plain tensor below a module; one that hangs in two places comes once."""
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
    """The elements of the outermost ModuleLists: the layers of a transformer, in their order."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [block for child in module.children() for block in blocks(child)]


def bytes_of(module: nn.Module) -> int:
    return sum(leaf.value.nbytes for leaf in leaves(module))


def move(module: nn.Module, device: torch.device) -> None:
    """`module.to(device)`, also for what is quantised; a visitor's tensors are on the GPU already."""
    for leaf in leaves(module):
        leaf.point_at(leaf.value.to(device))


def _fixed_bytes(part: Part) -> int:
    """What must be there whatever the room: all outside the blocks, and two places for visitors."""
    sizes = [bytes_of(block) for block in part.blocks]
    return part.bytes - sum(sizes) + PLACES * max(sizes, default=0)


def blocks_to_offload(sizes: dict[nn.Module, int], room: int) -> list[nn.Module]:
    """The fewest blocks, evenly spread, whose leaving lets the others stay in `room` bytes. sizes: bytes of each."""
    everything = list(sizes)
    for count in range(len(everything)):
        chosen = spread(everything, count)
        if sum(size for block, size in sizes.items() if block not in chosen) <= room:
            return chosen
    return everything


def spread(items: list[nn.Module], count: int) -> list[nn.Module]:
    """`count` of them, evenly spread, so that each copy has others' computing to hide behind."""
    return [items[index * len(items) // count] for index in range(count)]


class BlockOffloader:
    """Blocks that are on the GPU only around their own forward, in the order of the list.

    Their tensors point at the places for good; what the places hold changes under them.
    """

    def __init__(self, visiting: Sequence[nn.Module], device: torch.device) -> None:
        sizes = [_spans(block)[1] for block in visiting]
        starts = list(accumulate(sizes, initial=0))
        home = pinned(self, starts[-1])
        self.homes = [home[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self.places = [torch.empty(max(sizes), dtype=torch.uint8, device=device) for _ in visiting[:PLACES]]
        self.inside: list[int | None] = [None for _ in self.places]
        self.arrived, self.left = (_events(len(self.places)) for _ in range(2))
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for index, (block, packed) in enumerate(zip(visiting, self.homes, strict=True)):
            pack(block, packed)
            unpack(block, self.places[index % len(self.places)])
            block.register_forward_pre_hook(lambda _block, _args, index=index: self.enter(index))
            block.register_forward_hook(lambda _block, _args, _result, index=index: self.leave(index))

    def enter(self, index: int) -> None:
        """The block's weights are there when the GPU comes to it."""
        self._fetch(index)
        torch.cuda.current_stream().wait_event(self.arrived[index % len(self.places)])

    def leave(self, index: int) -> None:
        """Whoever comes to this place next sets out; after the last ones, the first of the next pass."""
        self.left[index % len(self.places)].record(torch.cuda.current_stream())
        following = index + len(self.places)
        self._fetch(following if following < len(self.homes) else index % len(self.places))

    def _fetch(self, index: int) -> None:
        place = index % len(self.places)
        if self.inside[place] == index:
            return
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.left[place])  # the GPU may be far behind us, and still at the one before
            self.places[place][: len(self.homes[index])].copy_(self.homes[index], non_blocking=True)
            self.arrived[place].record(self.stream)
        self.inside[place] = index


def pinned(owner: object, size: int) -> Tensor:
    """`size` bytes of CPU memory that the GPU copies from by itself, for as long as the owner lives.

    Exactly so many: torch's own pinned allocator rounds up to a power of two.
    """
    memory = torch.empty(size, dtype=torch.uint8)
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(int(runtime.cudaHostRegister(memory.data_ptr(), size, 0)))
    release = weakref.finalize(owner, lambda held: runtime.cudaHostUnregister(held.data_ptr()), memory)
    release.atexit = False  # the process's end releases it too
    return memory


def pack(block: nn.Module, home: Tensor) -> None:
    """Copies all tensors of a block into bytes of CPU memory, each at a multiple of ALIGNED."""
    for leaf, start in _spans(block)[0]:
        value = leaf.value.contiguous()
        home[start : start + value.nbytes] = value.view(-1).view(torch.uint8).cpu()


def unpack(block: nn.Module, place: Tensor) -> None:
    """Points the tensors of a block into a place that holds, or will hold, what `pack` made of it."""
    for leaf, start in _spans(block)[0]:
        value = leaf.value
        leaf.point_at(place[start : start + value.nbytes].view(value.dtype).view(value.shape))


def _spans(block: nn.Module) -> tuple[list[tuple[Leaf, int]], int]:
    """Where each tensor begins, in bytes, and how many there are in all."""
    spans, end = [], 0
    for leaf in leaves(block):
        spans.append((leaf, end))
        end += -(-leaf.value.nbytes // ALIGNED) * ALIGNED
    return spans, end


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(count)]  # type: ignore[no-untyped-call]

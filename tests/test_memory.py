"""Placement of weights: what is chosen, what stays on the GPU, and that offloaded weights do not change."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from app.config import GpuConfig
from app.errors import Unavailable
from app.stages import memory
from app.stages.memory import (
    RESERVE_BYTES,
    BlockOffloader,
    Part,
    _spans,
    blocks,
    blocks_to_offload,
    choose_mode,
    evenly_spread,
    offload_blocks,
    pack,
    place_weights,
    unpack,
)


class Tower(nn.Module):
    """A transformer in miniature: something before the blocks, blocks of two kinds, something after."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.wide = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 3 * width), nn.Linear(3 * width, width)) for _ in "123"
        )
        self.narrow = nn.ModuleList(nn.Linear(width, width) for _ in "12345")
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        x = self.first(x)
        for block in (*self.wide, *self.narrow):
            x = torch.tanh(block(x)) + x
        return x + self.shift.sum()


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return Tower().requires_grad_(False)


@pytest.mark.parametrize(
    ("asked", "room", "chosen"),
    [
        ("auto", RESERVE_BYTES + 100, "resident"),
        ("auto", RESERVE_BYTES + 99, "offload"),
        ("resident", 0, "resident"),
        ("offload", RESERVE_BYTES + 100, "offload"),
    ],
)
def test_auto_chooses_by_what_fits_and_explicit_settings_are_obeyed(asked, room, chosen):
    assert choose_mode(GpuConfig(memory=asked), 100, room) == chosen


def test_blocks_are_the_layers_in_order():
    tower = Tower()
    assert blocks(tower) == [*tower.wide, *tower.narrow]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(0, 6_000))
def test_as_few_visit_as_the_room_allows(sizes, room):
    blocks = {nn.Identity(): size for size in sizes}
    chosen = blocks_to_offload(blocks, room)
    assert sum(size for block, size in blocks.items() if block not in chosen) <= room
    fewer = evenly_spread(list(blocks), max(0, len(chosen) - 1))
    assert not chosen or sum(size for block, size in blocks.items() if block not in fewer) > room


@pytest.mark.parametrize(("room", "staying"), [(0, 0), (40_000, 4), (96_384, 8)])
def test_what_runs_often_stays_as_room_allows_and_what_runs_once_visits(tower, monkeypatch, room, staying):
    monkeypatch.setattr(memory, "RESERVE_BYTES", 0)
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    sent: list[int] = []
    monkeypatch.setattr(memory, "BlockOffloader", lambda offloaded, _device: sent.append(len(offloaded)))
    once = Tower()
    parts = [Part("once", once), Part("often", tower, calls=4)]
    fixed = sum(memory._fixed_bytes(part) for part in parts)
    offload_blocks(parts, fixed + room, torch.device("cpu"))
    assert sent == ([8 - staying] if staying < 8 else []) + [8]
    with pytest.raises(Unavailable, match=r"raise gpu.limit_gb"):
        offload_blocks(parts, fixed - 1, torch.device("cpu"))


@given(st.integers(1, 60), st.data())
def test_offloaded_blocks_are_evenly_spread(count, data):
    chosen = evenly_spread(list(range(count)), data.draw(st.integers(0, count)))
    gaps = {b - a for a, b in pairwise(chosen)}
    assert len(set(chosen)) == len(chosen)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_block_packed_and_unpacked_is_the_same_block():
    block = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3, dtype=torch.bfloat16))
    before = {key: value.clone() for key, value in block.state_dict().items()}
    buffer = torch.empty(_spans(block)[1], dtype=torch.uint8)
    pack(block, buffer)
    unpack(block, buffer)
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
    buffer.zero_()
    assert all(not value.any() for value in block.state_dict().values())


# ---- on a GPU --------------------------------------------------------------------------------------------------------

CUDA = torch.device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("staying", [0, 1, 5, 6, 7, 8])
def test_the_same_numbers_whatever_stays(tower, staying):
    x = torch.randn(4, 32, device=CUDA)
    with torch.inference_mode():
        expected = tower.to(CUDA)(x)
        tower.to("cpu")
        if offloaded := evenly_spread(blocks(tower), 8 - staying):
            BlockOffloader(offloaded, CUDA)
        tower.to(CUDA)
        for _ in range(50):  # far ahead of the GPU
            found = tower(x)
    assert torch.equal(found, expected)


@pytest.mark.gpu
def test_blocks_may_run_out_of_order(tower):
    x = torch.randn(4, 32, device=CUDA)
    order = [7, 0, 3, 3, 6, 1, 7]
    with torch.inference_mode():
        everything = blocks(tower.to(CUDA))
        expected = [everything[index](x) for index in order]
        BlockOffloader(everything, CUDA)
        assert all(torch.equal(everything[index](x), want) for index, want in zip(order, expected, strict=True))


@pytest.mark.gpu
def test_offloading_obeys_the_limit_and_says_when_nothing_fits(tower, monkeypatch):
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    monkeypatch.setattr(memory, "RESERVE_BYTES", 0)
    assert place_weights([Part("tower", tower)], GpuConfig(memory="offload"), CUDA) == "offload"
    assert all(value.is_cuda for value in tower.state_dict().values())
    monkeypatch.setattr(memory, "RESERVE_BYTES", 1 << 50)
    with pytest.raises(Unavailable, match=r"needs .* GB of GPU memory"):
        place_weights([Part("tower", Tower())], GpuConfig(memory="offload"), CUDA)

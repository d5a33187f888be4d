"""Mutated splats to /v1/validate and /v1/repair of the running service: no crash, no hang, memory flat."""

from __future__ import annotations

import gzip
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from healthy import ball
from service import Service

from app.splat.ply import encode_ply
from app.splat.spz import encode_spz

pytestmark = pytest.mark.e2e

PLY = encode_ply(ball(40)), encode_ply(ball(30, degree=1))
SPZ = encode_spz(ball(40)), encode_spz(ball(30, degree=2))
SEEDS = (*PLY, *SPZ, *map(gzip.decompress, SPZ))
"""The last two are mutated inside their compression, which would refuse nearly all of them otherwise."""

WORDS = (b"element vertex", b"property float", b"end_header", b"binary_little_endian", b"0", b"4294967296", b"-1")
GROWTH = 48 * 2**20
"""Bytes that a process may grow by between the first quarter and the end; a leak of one body a request is more."""


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_splats_are_answered_and_leave_nothing(service: Service, count: int) -> None:
    engine = _engine(service)
    with ThreadPoolExecutor(4) as pool:
        answers = Counter(pool.map(lambda index: _send(service, index), range(count // 4)))
        before = {pid: _memory(pid) for pid in (_web(service), engine)}
        answers += Counter(pool.map(lambda index: _send(service, index), range(count // 4, count)))
    print(f"{count:,} mutated splats: {dict(answers)}")
    assert set(answers) == {200, 422}, answers
    assert _engine(service) == engine
    for pid, memory in before.items():
        print(f"process {pid}: {memory / 2**20:.0f} MiB, at the end {_memory(pid) / 2**20:.0f} MiB")
        assert _memory(pid) - memory < GROWTH
    assert requests.get(f"{service.url}/readyz", timeout=20).ok


def _send(service: Service, index: int) -> int:
    """The status of the answer."""
    body = _mutated(index)
    files = {"splat": ("asset", body)}
    if index % 2:
        return requests.post(f"{service.url}/v1/repair", files=files, timeout=120).status_code
    form = {"prompt": "a blue rocket"}
    return requests.post(f"{service.url}/v1/validate", files=files, data=form, timeout=120).status_code


def _mutated(index: int) -> bytes:
    """Follows from its number."""
    random = np.random.default_rng([7, index])
    which = index // 2 % len(SEEDS)
    data = bytearray(SEEDS[which])
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(len(data) or 1))
        length = int(random.integers(1, 33))
        kind = random.integers(6)
        if kind == 0:
            data[at : at + length] = random.bytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = random.bytes(length)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            word = WORDS[int(random.integers(len(WORDS)))]
            data = data.replace(word, WORDS[int(random.integers(len(WORDS)))], 1)
        elif data:
            data[at % len(data)] ^= 1 << int(random.integers(8))
    return gzip.compress(bytes(data), 1) if which >= len(PLY + SPZ) else bytes(data)


def _engine(service: Service) -> int:
    (engine,) = requests.get(f"{service.url}/readyz", timeout=20).json()["engines"]
    return int(engine["pid"])


def _web(service: Service) -> int:
    """The one worker of the web process."""
    pid = service.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

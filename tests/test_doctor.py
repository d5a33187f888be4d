"""What `splatgate doctor` concludes from GPUs, drivers and memory that this machine does not have."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.commands.fact import Fact
from app.commands.facts import disk_facts, service_facts, version_facts
from app.commands.gpu_facts import Card, _card_fact, _query_torch, _torch_facts, driver_problem, memory_facts
from app.config import Config, load_config

RESERVE = 3_000_000_000


def config(profile: str = "full", **sections: dict[str, Any]) -> Config:
    return Config.model_validate({"profile": {"name": profile}} | sections)


def named(facts: Iterator[Fact]) -> dict[str, Fact]:
    return {fact.what: fact for fact in facts}


@pytest.mark.parametrize(
    ("driver", "cuda", "fits"),
    [
        ("580.82.07", "13.0", True),
        ("590.1", "13.0", True),
        ("575.64.03", "13.0", False),
        ("550.54", "12.8", True),
        ("", "13.0", True),
    ],
)
def test_a_driver_older_than_cuda_needs_is_named(driver: str, cuda: str, fits: bool) -> None:
    problem = driver_problem(driver, cuda)
    assert bool(problem) != fits
    assert fits or "driver 580 or newer" in problem


@pytest.mark.parametrize(
    ("capability", "words", "blocking"),
    [
        ((9, 0), "", False),
        ((8, 0), "", False),
        ((7, 5), 'CUDA_ARCHITECTURES="7.5"', False),
        ((7, 0), "torch has no code", True),
    ],
)
def test_a_card_without_code_for_it_is_named(capability: tuple[int, int], words: str, blocking: bool) -> None:
    fact = _card_fact(0, Card("Tesla", 15 * 10**9, 16 * 10**9, capability), True)
    assert (words in fact.problem, bool(fact.problem), fact.blocking) == (True, bool(words), blocking)


def test_gsplat_that_is_missing_is_a_problem_of_a_profile_that_needs_a_gpu() -> None:
    torch = {"cuda": "13.0", "visible": True, "gsplat": "gsplat is not installed: pip install 'splatgate[gpu]'"}
    fact = named(_torch_facts(torch, config()))["gsplat"]
    assert "rendered by the slower CPU rasteriser" in fact.problem
    assert "splatgate[gpu]" in fact.problem
    assert not fact.blocking
    assert named(_torch_facts(torch, config(render={"device": "cuda"})))["gsplat"].blocking
    assert not named(_torch_facts(torch, config("shapes")))["gsplat"].problem
    assert not named(_torch_facts(torch | {"gsplat": ""}, config()))["gsplat"].problem


@pytest.mark.parametrize(
    ("gpu", "free", "host", "mode", "problems"),
    [
        ({}, 80e9, 64e9, "resident", []),
        ({}, 24e9, 64e9, "offload", []),
        ({}, 24e9, 16e9, "offload", ["host"]),
        ({"quantize": "nf4"}, 24e9, 16e9, "resident", []),
        ({"memory": "resident"}, 24e9, 64e9, "resident", ["GPU"]),
        ({"limit_gb": 20.0}, 80e9, 64e9, "offload", []),
    ],
)
def test_gpu_and_host_memory_are_compared_with_the_weights(
    gpu: dict[str, Any], free: float, host: float, mode: str, problems: list[str], tmp_path: Path
) -> None:
    settings = config(gpu=gpu, models={"folder": str(tmp_path)})
    facts = named(memory_facts(settings, int(free), int(host), RESERVE))
    assert facts["GPU"].found.endswith(mode)
    assert [what for what, fact in facts.items() if fact.problem] == problems


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    found = _query_torch()
    assert set(found) == {"cuda", "visible", "gsplat", "reserve"}, found


def test_what_quantizing_needs_is_asked_for() -> None:
    facts = named(version_facts(config(gpu={"quantize": "fp8"})))
    assert "torchao" in facts
    assert facts["torch"].found != "not installed"


def test_a_disk_with_less_than_the_least_is_named(tmp_path: Path) -> None:
    settings = config("shapes", serve={"data": str(tmp_path)}, limits={"min_free_mb": 10**9})
    fact = named(disk_facts(settings))["data folder"]
    assert fact.blocking
    assert "limits.min_free_mb" in fact.problem


@pytest.fixture
def other_program() -> Iterator[int]:
    """A server without /livez."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_port_of_another_program_is_named(other_program: int, tmp_path: Path) -> None:
    settings = config("shapes", serve={"port": other_program, "data": str(tmp_path)})
    assert "set serve.port" in named(service_facts(settings))["port"].problem
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = config("shapes", serve={"port": port, "data": str(tmp_path)})
    assert not named(service_facts(settings))["port"].problem


def test_a_tokens_file_without_tokens_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[auth]\ntokens_file = "tokens"\n[serve]\nport = 1\n')
    settings = load_config(tmp_path / "config.toml", {})
    assert named(service_facts(settings))["tokens"].blocking
    (tmp_path / "tokens").write_text("a" * 64 + "\n")
    assert named(service_facts(settings))["tokens"].found.startswith("1 in ")

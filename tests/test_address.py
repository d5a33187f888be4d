"""The web process listens where `splatgate health` connects to."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from service import clean_environ, web

from app.address import listening_host, own_address
from app.config import Config


@pytest.mark.parametrize(
    ("serve", "tokens", "asked"),
    [
        ({}, "", "127.0.0.1:10010"),
        ({"host": "0.0.0.0"}, "", "127.0.0.1:10010"),
        ({"host": "gpu7.example"}, "", "127.0.0.1:10010"),
        ({"host": "gpu7.example"}, "tokens", "gpu7.example:10010"),
        ({"host": "192.0.2.7", "port": 80}, "tokens", "192.0.2.7:80"),
        ({"host": "2001:db8::7"}, "tokens", "[2001:db8::7]:10010"),
        ({"host": "::"}, "tokens", "[::1]:10010"),
        ({"host": "0.0.0.0", "published_on": "127.0.0.1"}, "", "127.0.0.1:10010"),
        ({"host": "127.0.0.2"}, "", "127.0.0.2:10010"),
    ],
)
def test_requests_go_to_where_the_service_listens(serve: dict[str, Any], tokens: str, asked: str) -> None:
    assert own_address(Config.model_validate({"serve": serve, "auth": {"tokens_file": tokens}})) == asked


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "localhost", "127.0.0.1"])
def test_a_request_reaches_a_socket_that_listens_there(host: str) -> None:
    config = Config.model_validate({"serve": {"host": host}, "auth": {"tokens_file": "tokens"}})
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((listening_host(config), 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        asked = own_address(config, server.getsockname()[1])
        name, _, port = asked.rpartition(":")
        socket.create_connection((name.strip("[]"), int(port)), timeout=60).close()


@pytest.mark.e2e
def test_health_finds_a_service_whose_host_setting_is_not_where_it_listens(tmp_path: Path) -> None:
    """Without tokens it listens on loopback; serve.host may then be the name of a proxy in front."""
    with web(tmp_path, SERVE__HOST="gpu7.example") as service:
        environ = clean_environ()
        environ |= {"SPLATGATE__SERVE__HOST": "gpu7.example", "SPLATGATE__SERVE__PORT": str(service.port)}
        command = [sys.executable, "-m", "app", "health", "--live", "--json"]
        asked = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert json.loads(asked.stdout)["answer"] == {"alive": True}

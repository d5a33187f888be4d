"""Where the web process listens, and the address at which this machine reaches it."""

from __future__ import annotations

from ipaddress import ip_address

from app.config import Config

LOOPBACK = "127.0.0.1"
WILDCARD_HOSTS = {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}
"""Hosts that mean every address of this machine, and the address at which this machine reaches each."""


def is_loopback(host: str) -> bool:
    """Whether this host name or address is a loopback one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening_host(config: Config) -> str:
    """The host to bind to. Without tokens it is a loopback address, whatever serve.host says.

    If serve.published_on is a loopback address, the container engine lets only this machine reach serve.host.
    """
    host = config.serve.host
    if config.auth.tokens_file or is_loopback(config.serve.published_on):
        return host
    return host if is_loopback(host) else LOOPBACK


def own_address(config: Config, port: int | None = None) -> str:
    """host:port at which a program on this machine reaches the web process. port: overrides serve.port."""
    host = listening_host(config)
    return host_and_port(WILDCARD_HOSTS.get(host, host), port or config.serve.port)


def host_and_port(host: str, port: int) -> str:
    """host:port for a URL, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

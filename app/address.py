"""Where the web process listens, and by which address this machine reaches it there."""

from __future__ import annotations

from ipaddress import ip_address

from app.config import Config

LOOPBACK = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": LOOPBACK, "": LOOPBACK, "::": "::1"}
"""Hosts that stand for every address of this machine, and what reaches them from here."""


def is_loopback(host: str) -> bool:
    """Whether this host name or address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening_host(config: Config) -> str:
    """The host to bind to: without tokens this machine's own address, whatever serve.host says.

    serve.published_on on loopback says that a container engine lets this machine only reach serve.host.
    """
    host = config.serve.host
    if config.auth.tokens_file or is_loopback(config.serve.published_on):
        return host
    return host if is_loopback(host) else LOOPBACK


def own_address(config: Config, port: int | None = None) -> str:
    """host:port at which a program on this machine reaches the web process. port: another than serve.port."""
    host = listening_host(config)
    return host_and_port(EVERYWHERE.get(host, host), port or config.serve.port)


def host_and_port(host: str, port: int) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

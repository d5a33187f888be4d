"""The address that a request comes from, behind the reverse proxies named in serve.trusted_proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import request

Network = IPv4Network | IPv6Network

PROXY_HEADERS = (
    "Forwarded",
    "Via",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Host",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Fly-Client-IP",
)
PROXY_PREFIX = "x-forwarded"
"""Headers that reverse proxies add, by name or prefix. A client on this machine sends none of them."""


class ClientAddress:
    """Finds client addresses. trusted: the networks of the proxies whose X-Forwarded-For is trusted."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def of_request(self) -> str:
        """The address of the client of the current request; empty if it is unknown.

        It is the rightmost address in X-Forwarded-For that is not a trusted proxy: the client may have written what is
        to the left of it.
        """
        hops = [request.remote_addr or ""]
        if self._is_trusted(hops[0]):
            forwarded = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
            hops = [*(hop.strip() for hop in forwarded if hop.strip()), *hops]
        address = next((hop for hop in reversed(hops) if not self._is_trusted(hop)), hops[0])
        return address if _parsed(address) else ""

    def untrusted_proxy(self) -> str:
        """What shows that the current request came through an untrusted proxy; empty if nothing does."""
        if self._is_trusted(request.remote_addr or ""):
            return ""
        if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            return "HTTP/1.0"  # nginx's proxy_pass adds no header, but uses 1.0 by default
        if request.script_root:
            return "SCRIPT_NAME"
        names = {name.lower(): name for name, _ in request.headers}
        known = {name.lower() for name in PROXY_HEADERS}
        return next((shown for name, shown in names.items() if name in known or name.startswith(PROXY_PREFIX)), "")

    def _is_trusted(self, text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(address in network for network in self._trusted)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None

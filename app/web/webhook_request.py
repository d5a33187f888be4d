"""One signed POST to a webhook. Only allowed addresses are connected to, whatever the host name resolves to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from urllib.parse import SplitResult

from app import __version__
from app.webhooks import PORTS, is_public, split

DEADLINE_SECONDS = 8.0
"""From the connection to the answer; less than the shortest pause between two attempts."""


class NotDelivered(Exception):
    """The message says why, in a few words."""


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The headers of Standard Webhooks (standardwebhooks.com). timestamp: seconds since 1970."""
    signed = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def send(url: str, body: bytes, headers: Mapping[str, str], *, private: bool) -> None:
    """POSTs JSON. Redirects are not followed and no proxy is used. private: whether private addresses are allowed.

    Raises NotDelivered for every answer but 2xx, and if there is no answer in time.
    """
    parts = split(url)
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    common = {"Content-Type": "application/json", "User-Agent": f"Splatgate/{__version__}", "Connection": "close"}
    try:
        with _connected(parts, _resolve(host, port, private=private)) as connection:
            connection.request(
                "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, {**common, **headers}
            )
            status = connection.getresponse().status
    except (OSError, HTTPException, UnicodeError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from None
    if not 200 <= status < 300:
        raise NotDelivered(f"HTTP {status}" + (": redirects are not followed" if 300 <= status < 400 else ""))


def _resolve(host: str, port: int, *, private: bool) -> list[tuple[str, int]]:
    """The addresses of a host. The connection uses these: a second look-up might give others."""
    found = [(str(each[4][0]), port) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not private and (wrong := [address for address, _ in found if not is_public(address)]):
        raise NotDelivered(f"{host} is {wrong[0]}, a private address (webhooks.private)")
    return found


@contextmanager
def _connected(parts: SplitResult, addresses: list[tuple[str, int]]) -> Iterator[HTTPConnection]:
    """A connection that is cut off after DEADLINE_SECONDS, however slowly the other side sends."""
    connection = HTTPConnection(str(parts.hostname), parts.port or PORTS[parts.scheme])
    connection.sock = stream = _connect(addresses)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection.sock = stream = context.wrap_socket(
            stream, server_hostname=parts.hostname, do_handshake_on_connect=False
        )
    timer = threading.Timer(DEADLINE_SECONDS, _cut, (stream,))
    timer.start()
    try:
        if isinstance(stream, ssl.SSLSocket):
            stream.do_handshake()
        yield connection
    finally:
        timer.cancel()
        connection.close()


def _connect(addresses: list[tuple[str, int]]) -> socket.socket:
    """Raises the OSError of the last address if none can be reached."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection(address, DEADLINE_SECONDS / len(addresses))
    return socket.create_connection(addresses[-1], DEADLINE_SECONDS / len(addresses))


def _cut(stream: socket.socket) -> None:
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)

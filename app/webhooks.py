"""[webhooks]: where webhooks may be sent, and the key that signs them."""

from __future__ import annotations

import base64
import binascii
import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, model_validator

from app.errors import BadInput, ConfigError
from app.section import Section

PORTS = {"http": 80, "https": 443}
MAX_URL = 2_000
"""Characters."""

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""As in Standard Webhooks."""

EMBEDDING = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")))
"""IPv6 addresses that embed an IPv4 address (NAT64, Teredo, 6to4), which may be private."""


def split(url: str) -> SplitResult:
    """The parts of a webhook's URL. Raises ValueError, naming what is wrong."""
    if len(url) > MAX_URL or not re.fullmatch(r"[!-\[\]-~]+", url):
        raise ValueError(f"a URL has at most {MAX_URL:,} characters, all of them printable ASCII, and no backslash")
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or "%" in parts.hostname:
        raise ValueError("it does not start with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a user, a password or a fragment is not sent: leave it out")
    if parts.port == 0:  # reading an invalid port raises ValueError
        raise ValueError("port 0 cannot be connected to")
    return parts


def origin(parts: SplitResult) -> str:
    """Scheme, host and port; the port only if it is not the default."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet: not private, loopback, link-local, multicast or reserved."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in EMBEDDING):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _origin(text: str) -> str:
    parts = split(text)
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("give scheme, host and port only, such as https://hooks.example.com")
    return origin(parts)


class WebhooksConfig(Section):
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    private: bool = False
    secret_file: str = ""

    @model_validator(mode="after")
    def _can_be_sent(self) -> WebhooksConfig:
        if self.origins and not self.secret_file:
            raise ValueError("webhooks.origins needs webhooks.secret_file, the key that signs webhooks")
        for each in self.origins:
            if not self.private and _is_private(urlsplit(each).hostname or ""):
                raise ValueError(f"{each} is a private address: set webhooks.private = true to allow those")
        return self

    def check(self, url: str) -> None:
        """Raises BadInput for a URL to which no webhook may be sent."""
        if not self.origins:
            raise BadInput("webhook_url: webhooks are off here; an operator allows hosts in webhooks.origins")
        try:
            allowed = origin(split(url)) in self.origins
        except ValueError as error:
            raise BadInput(f"webhook_url = {url[:200]!r}: {error}") from None
        if not allowed:
            raise BadInput(f"webhook_url = {url[:200]!r}: use one of {', '.join(self.origins)} (webhooks.origins)")


def read_key(config: WebhooksConfig) -> bytes:
    """The key in webhooks.secret_file; empty if webhooks are off. Raises ConfigError."""
    if not config.origins:
        return b""
    place = f"webhooks.secret_file {config.secret_file}"
    try:
        text = Path(config.secret_file).read_text(encoding="ascii").strip()
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, binascii.Error):
        key = b""
    if len(key) not in SECRET_BYTES:
        raise ConfigError(
            f'{place}: must hold {SECRET_PREFIX} and 24 to 64 bytes in base64: echo "{SECRET_PREFIX}$(openssl rand '
            '-base64 32)" makes one'
        )
    return key


def _is_private(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return False  # a name: it is resolved when a webhook is sent

"""Access: bearer tokens, stored as sha256 hashes. Without tokens only this machine is served.

A browser prompts for HTTP Basic and sends the token as the password, so the page needs no login form, and pictures and
event streams are protected too. Browsers also send these credentials with requests that another site makes, so requests
that change something are refused if their Origin is another site.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, current_app, request

from app.address import is_loopback
from app.config import AuthConfig, Config
from app.errors import ConfigError, Forbidden, Unauthorized
from app.web.client_address import ClientAddress
from app.web.failures import Failures

PREFIX = "sg_"
OPEN = ("/livez", "/readyz")
WORKER = ("/generate/", "/generate", "/generate_video/", "/generate_video")
ANY_HOST = (*OPEN, "/metrics")
"""Served under any host name: a scraper uses the name of the container."""

CHECK, DENIED = "splatgate.check", "splatgate.denied"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def new_token() -> str:
    """256 random bits as text, with a prefix that secret scanners can match."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """sha256 (hex): the line for auth.tokens_file. A token is random, so it needs no slow password hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_hashes(config: AuthConfig) -> tuple[str, ...]:
    """The hashes in auth.tokens_file; () if none is configured. Text after a hash on its line is a comment.

    Raises ConfigError, naming the line.
    """
    if not config.tokens_file:
        return ()
    try:
        lines = Path(config.tokens_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: cannot be read: {error}") from None
    hashes = tuple(_hash_in(line, number, config) for number, line in enumerate(lines, 1) if _is_entry(line))
    if not hashes:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: no token in it: `splatgate token new` creates one")
    return hashes


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _hash_in(line: str, number: int, config: AuthConfig) -> str:
    word = line.split()[0].lower()
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise ConfigError(
            f"auth.tokens_file {config.tokens_file}: line {number} does not start with a sha256 (64 hexadecimal "
            "digits): `splatgate token new` prints one; do not put the token itself into the file"
        )
    return word


def guard(app: Flask, config: Config) -> None:
    """Checks every request before its view runs. Raises ConfigError if the tokens cannot be read."""
    hashes = read_hashes(config.auth)
    client = ClientAddress(config.serve.trusted_proxies)
    app.extensions[CHECK] = _token_checker(hashes, config.auth, client) if hashes else _local_checker(config, client)
    app.before_request(check)


def check() -> None:
    """Raises Forbidden or Unauthorized if the current request must not be answered. Who was denied once in a request
    stays denied."""
    if denied := request.environ.get(DENIED):
        raise denied
    _check_site()
    current_app.extensions[CHECK]()


def _check_site() -> None:
    """Raises Forbidden if a page of another site sent the request or embeds the response."""
    origin, fetch = request.headers.get("Origin"), request.headers
    if request.method not in SAFE_METHODS and origin and _host_in(origin) != request.host:
        raise Forbidden(f"this request comes from a page of {origin[:200]}: only pages of this service may send it")
    followed_link = fetch.get("Sec-Fetch-Mode") == "navigate" and fetch.get("Sec-Fetch-Dest") == "document"
    if fetch.get("Sec-Fetch-Site") == "cross-site" and not (request.method in SAFE_METHODS and followed_link):
        raise Forbidden("this request comes from a page of another site (Sec-Fetch-Site: cross-site): open it directly")


def _host_in(origin: str) -> str:
    """Empty if it is not a URL, such as `null`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def is_open(path: str, config: AuthConfig) -> bool:
    """Whether this path needs no token even if tokens are configured."""
    return path in OPEN or (config.open_worker and path in WORKER)


def _token_checker(hashes: tuple[str, ...], config: AuthConfig, client: ClientAddress) -> Callable[[], None]:
    failures = Failures(time.monotonic)

    def check() -> None:
        if is_open(request.path, config):
            return
        token = _token()
        given = token_hash(token)
        # compare with every hash, each in constant time: the timing does not reveal which one is close
        if not sum([hmac.compare_digest(given, known) for known in hashes]):
            if token:
                failures.count(client.of_request())
            raise Unauthorized("send a token: Authorization: Bearer TOKEN (`splatgate token new` creates one)")

    return check


def _token() -> str:
    given = request.authorization
    if given is None:
        return ""
    if given.type == "bearer":
        return given.token or ""
    # werkzeug parses password=... for any scheme
    return given.password or "" if given.type == "basic" else ""


def _local_checker(config: Config, client: ClientAddress) -> Callable[[], None]:
    """Refuses other machines, proxies, and host names that another site's DNS may point here (DNS rebinding).

    In a container whose port is published on the loopback of the host, callers come from the bridge network: the
    publishing keeps other machines out. Other containers on that bridge may use any host name for /metrics only.
    """
    published_locally = is_loopback(config.serve.published_on)

    def check() -> None:
        if request.path in OPEN:
            return
        if proxy := client.untrusted_proxy():
            raise Forbidden(
                f"this request came through a proxy ({proxy}), which would let everybody in: create a token with "
                "`splatgate token new` and set auth.tokens_file, or name the proxy in serve.trusted_proxies"
            )
        address = client.of_request()
        if not ((published_locally and address == request.remote_addr) or _is_local(address)):
            raise Forbidden("without auth.tokens_file only this machine is served; `splatgate token new` creates one")
        if "Host" not in request.headers:
            raise Forbidden("the request has no Host header: send one, for example localhost")
        name = urlsplit(f"//{request.host}").hostname
        if name not in LOCAL_NAMES and request.path not in ANY_HOST:
            raise Forbidden(f"without auth.tokens_file the host name must be {' or '.join(LOCAL_NAMES)}, not {name!r}")

    return check


def _is_local(address: str | None) -> bool:
    return bool(address) and ip_address(address or "").is_loopback

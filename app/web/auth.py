"""Access: bearer tokens, stored as sha256 hashes. Without tokens only this machine is served.

A browser prompts for HTTP Basic and sends the token as the password, so the page needs no login form, and pictures and
event streams are protected too. Browsers also send these credentials with requests that another site makes, so requests
that change something are refused if their Origin is another site.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, current_app, request

from app.address import is_loopback
from app.config import AuthConfig, Config
from app.errors import Forbidden, Unauthorized
from app.web.client_address import ClientAddress
from app.web.failures import Failures
from app.web.tokens import ANONYMOUS, LOCAL, Caller, TokenFile

OPEN = ("/livez", "/readyz")
WORKER = ("/generate/", "/generate", "/generate_video/", "/generate_video")
ANY_HOST = (*OPEN, "/metrics")
"""Served under any host name: a scraper uses the name of the container."""

CHECK, DENIED, CALLER, ADDRESS = "splatgate.check", "splatgate.denied", "splatgate.caller", "splatgate.address"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def guard(app: Flask, config: Config) -> None:
    """Checks every request before its view runs. Raises ConfigError if the tokens cannot be read."""
    client = ClientAddress(config.serve.trusted_proxies)
    with_tokens = bool(config.auth.tokens_file)
    app.extensions[CHECK] = _token_checker(config.auth, client) if with_tokens else _local_checker(config, client)
    app.extensions[ADDRESS] = client
    app.before_request(check)


def check() -> None:
    """Raises Forbidden or Unauthorized if the current request must not be answered. A denial holds for the whole
    request."""
    if denied := request.environ.get(DENIED):
        raise denied
    _check_site()
    request.environ[CALLER] = current_app.extensions[CHECK]()


def current_caller() -> Caller:
    """The caller of the current request, once it has been checked."""
    caller: Caller = request.environ[CALLER]
    return caller


def describe_caller() -> str:
    """Address and name of the caller of the current request, for the log."""
    caller: Caller | None = request.environ.get(CALLER)
    return f"{client_address() or 'unknown address'} {caller.name if caller else ''}".rstrip()


def client_address() -> str:
    """The address of the client of the current request; empty if it is unknown."""
    client: ClientAddress = current_app.extensions[ADDRESS]
    return client.of_request()


def _check_site() -> None:
    """Raises Forbidden if a page of another site sent the request or embeds the response."""
    origin, fetch = request.headers.get("Origin"), request.headers
    if request.method not in SAFE_METHODS and origin and _host_in(origin) != request.host:
        raise Forbidden(f"this request comes from a page of {origin[:200]}: only pages of this service may send it")
    followed_link = fetch.get("Sec-Fetch-Mode") == "navigate" and fetch.get("Sec-Fetch-Dest") == "document"
    if fetch.get("Sec-Fetch-Site") == "cross-site" and not (request.method in SAFE_METHODS and followed_link):
        raise Forbidden("this request comes from a page of another site (Sec-Fetch-Site: cross-site): open it directly")


def _host_in(origin: str) -> str:
    """The host of an origin; empty if it is not a URL, such as `null`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def is_open(path: str, config: AuthConfig) -> bool:
    """Whether this path needs no token even if tokens are configured."""
    return path in OPEN or (config.open_worker and path in WORKER)


def _token_checker(config: AuthConfig, client: ClientAddress) -> Callable[[], Caller]:
    tokens, failures = TokenFile(config), Failures(time.monotonic)

    def check() -> Caller:
        token = _token()
        caller = tokens.find(token, datetime.now(UTC)) if token else None
        if not caller and is_open(request.path, config):
            return ANONYMOUS
        if not caller:
            if token:
                failures.count(client.of_request())
            raise Unauthorized("send a token: Authorization: Bearer TOKEN (`splatgate token new` creates one)")
        return caller

    return check


def _token() -> str:
    given = request.authorization
    if given is None:
        return ""
    if given.type == "bearer":
        return given.token or ""
    # werkzeug parses password=... for any scheme
    return given.password or "" if given.type == "basic" else ""


def _local_checker(config: Config, client: ClientAddress) -> Callable[[], Caller]:
    """Rejects other machines, proxies, and host names that another site's DNS may point here (DNS rebinding).

    In a container whose port is published on the loopback of the host, callers come from the bridge network, and the
    publishing keeps other machines out. Other containers on that bridge may use any host name for /metrics only.
    """
    published_locally = is_loopback(config.serve.published_on)

    def check() -> Caller:
        if request.path in OPEN:
            return ANONYMOUS
        if proxy := client.untrusted_proxy():
            raise Forbidden(
                f"this request came through a proxy ({proxy}), which would give everybody access: create a token with "
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
        return LOCAL

    return check


def _is_local(address: str | None) -> bool:
    return bool(address) and ip_address(address or "").is_loopback

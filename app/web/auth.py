"""Who may ask: bearer tokens, held as sha256 hashes; without any, this machine only.

A browser sends a token as the password of HTTP Basic, which it asks for by itself: so the page needs no login of its
own, and pictures and event streams are protected like everything else. Since browsers also send it when another site
tells them to, what changes something is refused when its Origin is not us.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, request

from app.address import is_loopback
from app.config import AuthConfig, Config
from app.errors import ConfigError, Forbidden, Unauthorized

PREFIX = "sg_"
OPEN = ("/livez", "/readyz")
WORKER = ("/generate/", "/generate", "/generate_video/", "/generate_video")
NAMELESS = (*OPEN, "/metrics")
"""Numbers only; a scraper calls us by the name of our container."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def new_token() -> str:
    """256 random bits as text, with a prefix that secret scanners can be taught."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """sha256 (hex): the line for auth.tokens_file. A token is random, so that nothing slower than sha256 is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_hashes(config: AuthConfig) -> tuple[str, ...]:
    """The hashes in auth.tokens_file, () where none is configured. What follows a hash on its line is a comment.

    Raises ConfigError, naming the line.
    """
    if not config.tokens_file:
        return ()
    try:
        lines = Path(config.tokens_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: cannot be read: {error}") from None
    hashes = tuple(_hash_in(line, number, config) for number, line in enumerate(lines, 1) if _says_something(line))
    if not hashes:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: holds no token: `splatgate token new` makes one")
    return hashes


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _hash_in(line: str, number: int, config: AuthConfig) -> str:
    word = line.split()[0].lower()
    if len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise ConfigError(
            f"auth.tokens_file {config.tokens_file}: line {number} does not begin with a sha256 (64 hexadecimal "
            "digits): `splatgate token new` prints one; the token itself must not stand in the file"
        )
    return word


def guard(app: Flask, config: Config) -> None:
    """Checks every request before its view. Raises ConfigError where the tokens cannot be read."""
    hashes = read_hashes(config.auth)
    app.before_request(_same_site)
    app.before_request(_token_checker(hashes, config.auth) if hashes else _local_checker(config))


def _same_site() -> None:
    """Raises Forbidden where a page of another site sends the request."""
    origin = request.headers.get("Origin")
    if request.method not in ("GET", "HEAD", "OPTIONS") and origin and _host_in(origin) != request.host:
        raise Forbidden(f"a page of {origin[:200]} sent this; only pages of this service may")


def _host_in(origin: str) -> str:
    """Empty where it is no address, as in `null`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def is_open(path: str, config: AuthConfig) -> bool:
    """Whether this path needs no token even where there are some."""
    return path in OPEN or (config.open_worker and path in WORKER)


def _token_checker(hashes: tuple[str, ...], config: AuthConfig) -> Callable[[], None]:
    def check() -> None:
        if is_open(request.path, config):
            return
        given = token_hash(_token())
        # all are compared, each in constant time: how long it takes tells nothing about which came near
        if not sum([hmac.compare_digest(given, known) for known in hashes]):
            raise Unauthorized("send a token: Authorization: Bearer TOKEN (`splatgate token new` makes one)")

    return check


def _token() -> str:
    given = request.authorization
    if given is None:
        return ""
    return str((given.token if given.type == "bearer" else given.password) or "")


def _local_checker(config: Config) -> Callable[[], None]:
    """Refuses another machine, and a name that another site's DNS may have pointed at us.

    In a container whose port is published on the host's loopback the callers come from the engine's bridge: there the
    publishing keeps other machines out, and other containers on that bridge may call by any name for /metrics only.
    """
    anyone = is_loopback(config.serve.published_on)

    def check() -> None:
        if not (anyone or _is_local(request.remote_addr)):
            raise Forbidden("without auth.tokens_file only this machine is served: `splatgate token new` makes a token")
        name = urlsplit(f"//{request.host}").hostname
        if name not in LOCAL_NAMES and request.path not in NAMELESS:
            raise Forbidden(f"without auth.tokens_file the host is called {' or '.join(LOCAL_NAMES)}, not {name!r}")

    return check


def _is_local(address: str | None) -> bool:
    return bool(address) and ip_address(address or "").is_loopback

"""The tokens file: who may call, what each caller may do, and how much.

A line is the sha256 of a token, then settings as key=value, then a comment:

    <sha256> name=alice scope=own expires=2027-06-30 max_waiting=20 max_per_hour=100 max_gb=5 best_priority=10

Tokens with the same name are the same caller, so that a token can be replaced without losing its jobs.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.bounds import Attempts, Priority
from app.config import AuthConfig
from app.errors import ConfigError

PREFIX = "sg_"
HASH_DIGITS = 64
Scope = Literal["own", "all", "admin"]


class Quota(BaseModel):
    """What a caller may use. None: no limit.

    max_waiting: queued jobs at a time; max_per_hour: jobs submitted within an hour; max_gb: 10^9 bytes of
    files; best_priority: the lowest priority number (1 is first) that it may request; max_attempts: per job.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_waiting: int | None = Field(default=None, ge=0)
    max_per_hour: int | None = Field(default=None, ge=0)
    max_gb: float | None = Field(default=None, ge=0)
    best_priority: Priority = 1
    max_attempts: Attempts = 100


NO_QUOTA = Quota()


OWN_DEFAULTS = {"best_priority": 10, "max_attempts": 10}
"""Of a token that may change its own jobs only, where its line says nothing else."""


class _Settings(Quota):
    name: str = Field(default="", max_length=64)
    scope: Scope | None = None
    expires: datetime | None = None


@dataclass(frozen=True)
class Caller:
    """The sender of a request. name: of its tokens; empty without a token.

    scope: "own" sees and changes its own jobs; "all" sees every job and changes its own; "admin" sees and changes every
    job.
    """

    name: str
    scope: Scope
    quota: Quota = NO_QUOTA

    @property
    def sees_all(self) -> bool:
        """Whether it may see the jobs of all callers."""
        return self.scope in ("all", "admin")


LOCAL = Caller("", "admin")
"""Every caller of a service without tokens."""

ANONYMOUS = Caller("", "own")
"""A caller without a token on a path that needs none."""


@dataclass(frozen=True)
class Token:
    hash: str
    caller: Caller
    expires: datetime | None

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def new_token() -> str:
    """256 random bits as text, with a prefix that secret scanners can match."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """sha256 (hex): the line for auth.tokens_file. A token is random, so it needs no slow password hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def read_tokens(config: AuthConfig) -> tuple[Token, ...]:
    """The tokens in auth.tokens_file; () if none is configured. Raises ConfigError, naming the line."""
    if not config.tokens_file:
        return ()
    try:
        lines = Path(config.tokens_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: cannot be read: {error}") from None
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
    if not entries:
        raise ConfigError(f"auth.tokens_file {config.tokens_file}: no token in it: `splatgate token new` creates one")
    # with a single token there is no other caller to separate
    default: Scope = "admin" if len(entries) == 1 else "own"
    return tuple(
        _token(line, f"auth.tokens_file {config.tokens_file}: line {number}", default) for number, line in entries
    )


def _token(line: str, place: str, default: Scope) -> Token:
    first, *words = line.split()
    if len(first) != HASH_DIGITS or set(first.lower()) - set("0123456789abcdef"):
        raise ConfigError(
            f"{place} does not start with a sha256 ({HASH_DIGITS} hexadecimal digits): `splatgate token new` prints "
            "one; do not put the token itself into the file"
        )
    known = _Settings.model_fields
    pairs = dict(word.split("=", 1) for word in words if word.partition("=")[0] in known and "=" in word)
    comment = " ".join(word for word in words if word.partition("=")[0] not in known or "=" not in word)
    try:
        settings = _Settings.model_validate(pairs)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ConfigError(f"{place}: {problem['loc'][0]} = {problem['input']!r}: {problem['msg']}") from None
    name = settings.name or comment.lstrip("# ")[:64] or first[:8].lower()
    scope = settings.scope or default
    limits = {field: getattr(settings, field) for field in Quota.model_fields}
    limits |= {field: value for field, value in OWN_DEFAULTS.items() if scope == "own" and field not in pairs}
    quota = Quota(**limits)
    expires = settings.expires
    if expires and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return Token(first.lower(), Caller(name, scope, quota), expires)


class TokenFile:
    """The tokens, read again when the file changes. Thread-safe.

    If a changed file is invalid, the previous tokens stay in force and an error is logged.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._stamp = self._now()
        self._tokens = read_tokens(config)

    def find(self, token: str, now: datetime) -> Caller | None:
        """The caller of a known, unexpired token, or None. Takes the same time for every token."""
        given = token_hash(token)
        known = [each for each in self._current() if hmac.compare_digest(given, each.hash)]
        return next((each.caller for each in known if not each.expired(now)), None)

    def _current(self) -> tuple[Token, ...]:
        with self._lock:
            stamp = self._now()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._tokens = read_tokens(self._config)
                    logger.info(f"auth.tokens_file: {len(self._tokens)} tokens reloaded")
                except ConfigError as error:
                    logger.error(f"{error}; the previous tokens stay in force")
            return self._tokens

    def _now(self) -> tuple[int, int, int]:
        try:
            status = Path(self._config.tokens_file).stat()
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_mtime_ns, status.st_size

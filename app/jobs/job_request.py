"""Checks of a request before it becomes a job, and the id of the job."""

from __future__ import annotations

import secrets

from app.bounds import ATTEMPTS, DEADLINE, PRIORITY, SEED, VIDEO_SIZE
from app.config import Config
from app.errors import BadInput
from app.jobs.records import JobRequest, Kind
from app.picture_format import format_of
from app.sampler_request import requested_samplers
from app.samplers import SamplerSettings

MAX_KEY_CHARACTERS = 255

PICTURES = {"PNG": "picture.png", "JPEG": "picture.jpg"}
"""File names of the accepted pictures, by format."""

BOUNDS = {
    "priority": PRIORITY,
    "seed": SEED,
    "attempts": ATTEMPTS,
    "deadline_seconds": DEADLINE,
    "size": VIDEO_SIZE,
}


NEEDS: dict[Kind, str] = {"validate": "splat", "repair": "splat", "turntable": "source", "cutout": "picture"}
"""The field that a request of this kind needs."""


def new_id(now: float) -> str:
    """A version 7 UUID as 32 hex digits: ids sort by creation time."""
    time_bits = int(now * 1_000_000)  # milliseconds in 48 bits as in the RFC, then microseconds in 12
    milliseconds, micro = divmod(time_bits, 1_000)
    tail = secrets.randbits(62) | 1 << 63
    return f"{milliseconds & (1 << 48) - 1:012x}7{micro * 4 & 0xFFF:03x}{tail:016x}"


def check(request: JobRequest, key: str | None, config: Config) -> None:
    """Raises BadInput for a request that no engine here can serve. app.prompt checks the prompt."""
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise BadInput(f"an Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} characters, this one {len(key)}")
    if request.profile not in (None, config.profile.name):
        raise BadInput(f"profile {request.profile!r} is not served here, only {config.profile.name!r}: omit profile")
    for name, bounds in BOUNDS.items():
        value = getattr(request, name)
        if value is not None and value not in bounds:
            raise BadInput(f"{name} = {value}: give {bounds}")
    if (need := NEEDS.get(request.kind)) and not getattr(request, need):
        raise BadInput(f"a {request.kind} job needs a {need}")
    if request.trellis and request.kind != "generate":
        raise BadInput(f"a {request.kind} job samples nothing: omit trellis")
    requested_samplers(SamplerSettings.model_validate(request.trellis), config)
    if request.webhook_url is not None:
        config.webhooks.check(request.webhook_url)
    if request.picture is not None:
        picture_name(request.picture)


def picture_name(data: bytes) -> str:
    """The file name for a caller's picture. Raises BadInput if it is neither PNG nor JPEG."""
    format = format_of(data)
    if format not in PICTURES:
        raise BadInput(f"the picture is {format or f'no picture: it starts with {data[:4]!r}'}: give a PNG or a JPEG")
    return PICTURES[format]

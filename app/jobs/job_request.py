"""What an order may be, before it becomes a job; and the id that it gets."""

from __future__ import annotations

import secrets

from app.bounds import ATTEMPTS, DEADLINE, FILM_SIZE, PRIORITY, SEED
from app.config import Config
from app.errors import BadInput
from app.jobs.records import JobRequest
from app.picture_format import format_of

MAX_KEY_CHARACTERS = 255

PICTURES = {"PNG": "picture.png", "JPEG": "picture.jpg"}
"""The formats of pictures that are taken, and what they are stored as."""

BOUNDS = {
    "priority": PRIORITY,
    "seed": SEED,
    "attempts": ATTEMPTS,
    "deadline_seconds": DEADLINE,
    "size": FILM_SIZE,
}


def new_id(now: float) -> str:
    """A version 7 UUID as 32 hex digits: ids sort by the time of their making."""
    time_bits = int(now * 1_000_000)  # milliseconds in 48 bits as the RFC has it, then microseconds in 12
    milliseconds, micro = divmod(time_bits, 1_000)
    tail = secrets.randbits(62) | 1 << 63
    return f"{milliseconds & (1 << 48) - 1:012x}7{micro * 4 & 0xFFF:03x}{tail:016x}"


def check(order: JobRequest, key: str | None, config: Config) -> None:
    """Raises BadInput for what no engine here could do. The prompt itself is the caller's to check (app.prompt)."""
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise BadInput(f"an Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} characters, this one {len(key)}")
    if order.profile not in (None, config.profile.name):
        raise BadInput(f"profile {order.profile!r} is not served here, {config.profile.name!r} is: leave profile out")
    for name, bounds in BOUNDS.items():
        value = getattr(order, name)
        if value is not None and value not in bounds:
            raise BadInput(f"{name} = {value}: give {bounds}")
    needs = {"validate": order.splat, "repair": order.splat, "turntable": order.source}
    if order.kind in needs and not needs[order.kind]:
        raise BadInput(f"a {order.kind} job needs a {'source' if order.kind == 'turntable' else 'splat'}")
    if order.webhook_url is not None:
        config.webhooks.check(order.webhook_url)
    if order.picture is not None:
        picture_name(order.picture)


def picture_name(data: bytes) -> str:
    """What a given picture is stored as. Raises BadInput for what is neither PNG nor JPEG."""
    format = format_of(data)
    if format not in PICTURES:
        raise BadInput(f"the picture is {format or f'no picture: it starts with {data[:4]!r}'}: give a PNG or a JPEG")
    return PICTURES[format]

"""What an order may be, before it becomes a job; and the id that it gets."""

from __future__ import annotations

import secrets

from app.config import Config
from app.errors import BadInput
from app.jobs.records import Order

MAX_KEY_CHARACTERS = 255

PICTURES = {b"\x89PNG\r\n\x1a\n": "picture.png", b"\xff\xd8\xff": "picture.jpg"}
"""First bytes of the pictures that are taken."""


def new_id(now: float) -> str:
    """A version 7 UUID as 32 hex digits: ids sort by the time of their making."""
    time_bits = int(now * 1_000_000)  # milliseconds in 48 bits as the RFC has it, then microseconds in 12
    milliseconds, micro = divmod(time_bits, 1_000)
    tail = secrets.randbits(62) | 1 << 63
    return f"{milliseconds & (1 << 48) - 1:012x}7{micro * 4 & 0xFFF:03x}{tail:016x}"


def check(order: Order, key: str | None, config: Config) -> None:
    """Raises BadInput for what no engine here could do. The prompt itself is the caller's to check (app.prompt)."""
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise BadInput(f"an Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} characters, this one {len(key)}")
    if order.profile not in (None, config.profile.name):
        raise BadInput(f"profile {order.profile!r} is not served here, {config.profile.name!r} is: leave profile out")
    if not 1 <= order.priority <= 100:
        raise BadInput(f"priority = {order.priority}: give 1 (first) to 100")
    if order.seed is not None and not 0 <= order.seed < 2**32:
        raise BadInput(f"seed = {order.seed}: give 0 to 4294967295")
    if order.attempts is not None and not 1 <= order.attempts <= 100:
        raise BadInput(f"attempts = {order.attempts}: give 1 to 100")
    if order.deadline_seconds is not None and not 0 < order.deadline_seconds <= 10 * 365 * 86_400:
        raise BadInput(f"deadline_seconds = {order.deadline_seconds}: give a number above 0, or leave it out")
    if order.size is not None and (order.size % 2 or not 64 <= order.size <= 2048):
        raise BadInput(f"size = {order.size}: give an even number of pixels from 64 to 2048")
    needs = {"validate": order.splat, "repair": order.splat, "turntable": order.source}
    if order.kind in needs and not needs[order.kind]:
        raise BadInput(f"a {order.kind} job needs a {'source' if order.kind == 'turntable' else 'splat'}")
    if order.picture is not None:
        picture_name(order.picture)


def picture_name(data: bytes) -> str:
    """What a given picture is stored as. Raises BadInput for what is neither PNG nor JPEG."""
    for start, name in PICTURES.items():
        if data.startswith(start):
            return name
    raise BadInput(f"the picture starts with {data[:4]!r}: give a PNG or a JPEG")

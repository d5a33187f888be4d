"""One observation of `splatgate doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A fact. problem: what will not work, and the remedy; may be empty. blocking: the profile cannot run with it."""

    area: str
    what: str
    found: str
    problem: str = ""
    blocking: bool = False

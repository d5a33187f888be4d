"""The claims that an engine holds: of the job that has the device, and of the one whose files are being written."""

from __future__ import annotations

import threading
from collections.abc import Callable

from app.jobs.job_store import Claim


class HeldClaims:
    """Thread-safe. busy: called with the id of the newest job after each change, or with None if there is none."""

    def __init__(self, busy: Callable[[str | None], None]) -> None:
        self._busy = busy
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}  # by job id, in the order of the claims

    def add(self, claim: Claim) -> None:
        with self._lock:
            self._claims[claim.job.id] = claim
            self._report()

    def drop(self, id: str) -> None:
        """Forgets the claim of a job, if there is one."""
        with self._lock:
            self._claims.pop(id, None)
            self._report()

    def except_for(self, id: str) -> list[Claim]:
        """All claims but that of this job."""
        with self._lock:
            return [claim for claim in self._claims.values() if claim.job.id != id]

    def _report(self) -> None:
        self._busy(next(reversed(self._claims), None))

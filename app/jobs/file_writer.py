"""Writes the files of one job while the next job has the device."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FileWriter:
    """Runs one call at a time in a thread of its own. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job = ""

    @property
    def jobs(self) -> set[str]:
        """The id of the job whose files are being written, as a set; empty if there is none."""
        with self._changed:
            return {self._job} - {""}

    def start(self, id: str, write: Callable[[], None]) -> None:
        """Runs `write`, which handles its own errors, for the job `id`. Waits for the previous call first, so that no
        more than one result waits in memory."""
        with self._changed:
            self._changed.wait_for(lambda: not self._job)
            self._job = id
        try:
            threading.Thread(target=self._run, args=(write,), name="files", daemon=True).start()
        except RuntimeError:  # no thread could be started
            self._end()
            raise

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is being written. Returns False at the timeout, in seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._job, timeout)

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._job = ""
            self._changed.notify_all()

"""Cached SHA-256 digests of files, so that weights are hashed once and not at every start.

A digest is valid as long as the path leads to a file of the same inode, size, and times of last write and change. The
kernel sets the time of change (ctime), which programs cannot set. The device number is not compared, because it can
differ after each mount, in a container at each start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from app.digest import sha256_of
from app.errors import BadFile, StorageDown
from app.writing import replacing

HASHERS = 4
"""Files hashed in parallel: one core was measured at 1.4 GB/s, and few disks read faster than four cores hash."""

OnBytes = Callable[[int], None]
"""Called with the number of bytes processed since the last call."""

Stamp = tuple[int, int, int, int]
Known = dict[str, tuple[Stamp, str]]


@dataclass(frozen=True)
class DigestCache:
    """Digests of files, cached in a JSON file. Files below its folder are named relative to it, others by full path."""

    file: Path

    def cached(self, paths: Sequence[Path]) -> dict[Path, str | None]:
        """The digests that are still valid; None for a file that has to be hashed."""
        known = self._read()
        return {path: self._valid(known, path) for path in paths}

    def digests(
        self, paths: Sequence[Path], *, rehash: bool = False, on_bytes: OnBytes = lambda _count: None
    ) -> dict[Path, str]:
        """The SHA-256 (hex) of each file. Those that are not cached are hashed in parallel.

        rehash: hash all of them. on_bytes: called by any thread. Raises BadFile if a file cannot be read.
        """
        known = {} if rehash else self._read()

        def digest(path: Path) -> tuple[Stamp, str]:
            stamp = _stamp(path)  # before reading: a write in between makes the stamp stale, not the digest wrong
            if valid := self._valid(known, path):
                on_bytes(stamp[0])
                return stamp, valid
            return stamp, sha256_of(path, on_bytes)

        with ThreadPoolExecutor(HASHERS) as pool:
            found = dict(zip(paths, pool.map(digest, paths), strict=True))
        self._write({self._name(path): value for path, value in found.items()})
        return {path: sha256 for path, (_, sha256) in found.items()}

    def _name(self, path: Path) -> str:
        folder = self.file.parent
        return (path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()).as_posix()

    def _valid(self, known: Known, path: Path) -> str | None:
        stamp, sha256 = known.get(self._name(path), (None, None))
        return sha256 if stamp == _stamp(path) else None

    def _read(self) -> Known:
        """Empty if the file cannot be read: everything is hashed again."""
        try:
            table = json.loads(self.file.read_text(encoding="utf-8"))
            return {path: ((row[0], row[1], row[2], row[3]), str(row[4])) for path, row in table.items()}
        except (OSError, ValueError, AttributeError, TypeError, LookupError):
            return {}

    def _write(self, found: Known) -> None:
        before = self._read()
        table = before | found
        if table == before:
            return
        text = json.dumps({path: [*stamp, sha256] for path, (stamp, sha256) in sorted(table.items())}, indent=1)
        try:
            with replacing(self.file) as stream:
                stream.write(text.encode())
        except StorageDown as error:
            logger.warning(f"{error}: the models will be hashed again at each start")
        except BadFile as error:
            if os.access(self.file.parent, os.W_OK):
                raise
            logger.warning(f"{error}: the models will be hashed again at each start")


def _stamp(path: Path) -> Stamp:
    """Size, inode, and the times (ns) of the last write and the last change of any kind."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns

"""Where the files of jobs lie: a folder, or any fsspec URL. What they are called and hold is in the database.

A file is written whole, under a path that no other attempt uses, before the database speaks of it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from app.config import Config
from app.digest import sha256_of
from app.errors import NotFound, Unavailable
from app.splat.files import replacing


@dataclass(frozen=True)
class Asset:
    """A file of a job, opened: a seekable binary stream, which the receiver closes. modified: seconds since 1970."""

    name: str
    stream: BinaryIO
    size: int
    sha256: str
    modified: float


@dataclass(frozen=True)
class Stored:
    """A file that was put away. path: relative to the assets' URL."""

    name: str
    path: str
    size: int
    sha256: str


class Assets:
    """The files of all jobs, by path `job/attempt/name`. Raises Unavailable where the storage fails."""

    def __init__(self, config: Config) -> None:
        url = config.assets.url or str((Path(config.serve.data) / "assets").absolute())
        self.files, self.root = fsspec.core.url_to_fs(url)
        self.local = isinstance(self.files, fsspec.implementations.local.LocalFileSystem)

    def put(self, path: str, data: bytes) -> None:
        """Stores what a caller gave."""
        with _explained(path):
            target = f"{self.root}/{path}"
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            if self.local:
                with replacing(Path(target)) as stream:
                    stream.write(data)
            else:
                self.files.pipe_file(target, data)

    @contextmanager
    def folder(self, path: str) -> Iterator[Path]:
        """A local folder; what it holds when the block ends is stored under `path`."""
        with _explained(path):
            if self.local:
                local = Path(self.root) / path
                local.mkdir(parents=True, exist_ok=True)
                yield local
                return
            with tempfile.TemporaryDirectory() as name:
                yield Path(name)
                for file in sorted(Path(name).iterdir()):
                    self.files.put_file(str(file), f"{self.root}/{path}/{file.name}")

    def read(self, path: str) -> bytes:
        with self.open(path) as stream:
            return stream.read()

    def open(self, path: str) -> BinaryIO:
        """Raises NotFound where nothing is stored there."""
        try:
            return cast(BinaryIO, self.files.open(f"{self.root}/{path}", "rb"))
        except FileNotFoundError:
            raise NotFound(f"{path}: is not stored any more") from None
        except OSError as error:
            raise Unavailable(f"assets: {path}: {error.strerror or error}; check assets.url") from None

    def remove(self, path: str) -> None:
        """Removes a job's or an attempt's folder; nothing there is as good as removed."""
        try:
            self.files.rm(f"{self.root}/{path}", recursive=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"assets: {path}: cannot be removed: {error.strerror or error}") from None

    def jobs(self) -> list[str]:
        """The ids of all jobs that have a folder."""
        if not self.files.exists(self.root):
            return []
        return [str(name).rstrip("/").rpartition("/")[2] for name in self.files.ls(self.root, detail=False)]


def stored(
    folder: Path, path: str, names: tuple[str, ...], hashes: Mapping[str, str] | None = None
) -> tuple[Stored, ...]:
    """Files of a folder as they are known once it is put away under `path`. hashes: those that are known already."""
    known = hashes or {}
    return tuple(
        Stored(name, f"{path}/{name}", (folder / name).stat().st_size, known.get(name) or sha256_of(folder / name))
        for name in names
    )


def stored_bytes(name: str, path: str, data: bytes) -> Stored:
    return Stored(name, path, len(data), hashlib.sha256(data).hexdigest())


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"assets: {path}: cannot be stored: {error.strerror or error}; check assets.url, permissions and free space"
        ) from None

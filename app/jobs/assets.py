"""The files of jobs, in a folder or at any fsspec URL. The database keeps their names, paths and hashes.

A file is complete, at a path that no other attempt uses, before the database refers to it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from app.config import Config
from app.digest import sha256_of
from app.errors import FULL, ConfigError, NotFound, NotWritable, SplatgateError, StorageDown, Unavailable
from app.writing import replacing

READ_AHEAD = 8 * 2**20
"""Bytes that are requested from an object store at a time, and buffered, for each open file."""

ASSETS_FOLDER = "assets"
"""Of the data folder; used if assets.url is empty."""

PROBE = b"splatgate"
JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Asset:
    """An open file of a job. stream: seekable; the receiver closes it. modified: seconds since 1970."""

    name: str
    stream: BinaryIO
    size: int
    sha256: str
    modified: float


@dataclass(frozen=True)
class Stored:
    """A file in the asset store. path: relative to the URL of the store."""

    name: str
    path: str
    size: int
    sha256: str


class Assets:
    """The files of all jobs, by path `job/attempt/name`.

    url: of the asset store, without secrets. Raises ConfigError for an invalid URL, StorageDown if the disk or the
    object store fails or is full.
    """

    def __init__(self, config: Config) -> None:
        check_url(config)
        url = config.assets.url or str((Path(config.serve.data) / ASSETS_FOLDER).absolute())
        # without a cache, so that changes by other hosts are visible at once
        self.files, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.local = isinstance(self.files, fsspec.implementations.local.LocalFileSystem)
        self.url = shown(url)

    def put(self, path: str, data: bytes) -> None:
        """Stores the data at this path."""
        with self._explained(path, "stored"):
            target = f"{self.root}/{path}"
            if not self.local:
                self.files.pipe_file(target, data)
                return
            self.files.makedirs(target.rpartition("/")[0], exist_ok=True)
            with replacing(Path(target)) as stream:
                stream.write(data)

    @contextmanager
    def folder(self, path: str) -> Iterator[Path]:
        """A local folder whose files are stored under `path` when the block ends."""
        if self.local:
            with self._explained(path, "stored"):
                local = Path(self.root) / path
                local.mkdir(parents=True, exist_ok=True)
                yield local
            return
        with self._explained(path, "stored"):
            temporary = tempfile.TemporaryDirectory()
        with temporary as name:
            yield Path(name)
            with self._explained(path, "stored"):
                for file in sorted(Path(name).iterdir()):
                    self.files.put_file(str(file), f"{self.root}/{path}/{file.name}")

    def read(self, path: str) -> bytes:
        """Reads a whole file. Raises NotFound."""
        with self.open(path) as stream, self._explained(path, "read"):
            return stream.read()

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """Opens a file. Raises NotFound, and Unavailable if it does not have `size` bytes."""
        with self._explained(path, "read"):
            try:
                stream = cast(BinaryIO, self.files.open(f"{self.root}/{path}", "rb", block_size=READ_AHEAD))
            except FileNotFoundError:
                other = "" if self.local else f", or was stored by a host whose assets.url is not {self.url}"
                raise NotFound(f"{path}: is no longer stored{other}") from None
            if size is not None and (found := stream.seek(0, 2)) != size:
                stream.close()
                raise Unavailable(f"{path}: has {found:,} bytes, but {size:,} were stored: the file is damaged")
            stream.seek(0)
            return stream

    def remove(self, path: str) -> None:
        """Removes the folder of a job or an attempt, if it exists."""
        with self._explained(path, "removed"), suppress(FileNotFoundError):
            self.files.rm(f"{self.root}/{path}", recursive=True)

    def move(self, path: str, target: str) -> None:
        """Moves a folder within the store."""
        with self._explained(path, "moved"):
            if self.local:
                (Path(self.root) / target).parent.mkdir(parents=True, exist_ok=True)
                (Path(self.root) / path).rename(Path(self.root) / target)
            else:
                source = f"{self.root}/{path}"
                for file in self.files.find(source):
                    self.files.cp_file(file, f"{self.root}/{target}{file.removeprefix(source)}")
                self.files.rm(source, recursive=True)

    def names(self, path: str = "") -> list[str]:
        """The names in a folder of the store; empty if there is no such folder."""
        folder = f"{self.root}/{path}" if path else self.root
        with self._explained(path, "listed"), suppress(FileNotFoundError):
            return [str(name).rstrip("/").rpartition("/")[2] for name in self.files.ls(folder, detail=False)]
        return []

    def describe(self, path: str, name: str) -> Stored:
        """Describes a file of the store; reads all of it to hash it. Raises NotFound."""
        with self.open(path) as stream, self._explained(path, "read"):
            digest = hashlib.sha256()
            while block := stream.read(READ_AHEAD):
                digest.update(block)
            return Stored(name, path, stream.tell(), digest.hexdigest())

    def jobs(self) -> list[str]:
        """The ids of all jobs that have a folder."""
        return [name for name in self.names() if JOB_ID.fullmatch(name)]

    def probe(self, name: str) -> None:
        """Stores, reads back and removes a few bytes in a folder of this name. Raises what a job would raise."""
        self.put(f"{name}/probe", PROBE)
        if self.read(f"{name}/probe") != PROBE:
            raise StorageDown(f"assets: {self.url}: returns other bytes than were stored: is it an object store?")
        self.remove(name)

    def is_down(self) -> bool:
        """Whether nothing can be stored at the moment."""
        try:
            self.probe(f"probe-{secrets.token_hex(8)}")
        except StorageDown:
            return True
        return False

    @contextmanager
    def _explained(self, path: str, done: str) -> Iterator[None]:
        """Turns errors into one line with the remedy. Object store libraries raise exceptions of every kind."""
        try:
            yield
        except NotWritable as error:
            raise StorageDown(f"assets: {error}") from None
        except SplatgateError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", "") or " ".join(str(error).split()) or type(error).__name__
            if not self.local:
                remedy = "check assets.url, that the store can be reached from here, and the credentials (AWS_*)"
                raise StorageDown(f"assets: {self.url}/{path}: cannot be {done}: {reason}; {remedy}") from None
            if isinstance(error, OSError):
                full, other = "free space on the disk", "check assets.url, the disk or its mount, and the permissions"
                remedy = full if error.errno in FULL else other
                raise StorageDown(f"assets: {self.url}/{path}: cannot be {done}: {reason}; {remedy}") from None
            raise


def check_url(config: Config) -> None:
    """Raises ConfigError if assets.url has an unknown protocol, or one whose package is not installed."""
    url = config.assets.url
    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0] or "file")
    except ValueError:
        raise ConfigError(
            f"assets.url {shown(url)}: no such kind of storage: use s3://bucket/path or a folder"
        ) from None
    except ImportError as error:
        raise ConfigError(f"assets.url {shown(url)}: {error}; for s3:// that is splatgate[s3]") from None


def shown(url: str) -> str:
    """A URL without its credentials and its query, to be shown."""
    kind, mark, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{kind}://{host.rpartition('@')[2]}{slash}{path}" if mark else url


def stored(
    folder: Path, path: str, names: tuple[str, ...], hashes: Mapping[str, str] | None = None
) -> tuple[Stored, ...]:
    """Describes files of a folder that will be stored under `path`. hashes: those already known, by name."""
    known = hashes or {}
    return tuple(
        Stored(name, f"{path}/{name}", (folder / name).stat().st_size, known.get(name) or sha256_of(folder / name))
        for name in names
    )


def stored_bytes(name: str, path: str, data: bytes) -> Stored:
    return Stored(name, path, len(data), hashlib.sha256(data).hexdigest())

"""Where the files of jobs lie: a folder, or any fsspec URL. What they are called and hold is in the database.

A file is written whole, under a path that no other attempt uses, before the database speaks of it.
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
"""Bytes that are asked of an object store at once, and held, for each file that is being read."""

PROBE = b"splatgate"
JOB_ID = re.compile(r"[0-9a-f]{32}")


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
    """The files of all jobs, by path `job/attempt/name`.

    url: where they lie, without secrets. Raises ConfigError for a URL that cannot be one, StorageDown if the disk or
    the object store fails or is full.
    """

    def __init__(self, config: Config) -> None:
        check_url(config)
        url = config.assets.url or str((Path(config.serve.data) / "assets").absolute())
        # what another host stores or removes is seen at once
        self.files, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.local = isinstance(self.files, fsspec.implementations.local.LocalFileSystem)
        self.url = shown(url)

    def put(self, path: str, data: bytes) -> None:
        """Stores what a caller gave."""
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
        """A local folder; what it holds when the block ends is stored under `path`."""
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
        """Raises NotFound where nothing is stored there."""
        with self.open(path) as stream, self._explained(path, "read"):
            return stream.read()

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """Raises NotFound where nothing is stored there, Unavailable where it is not as long as `size` says."""
        with self._explained(path, "read"):
            try:
                stream = cast(BinaryIO, self.files.open(f"{self.root}/{path}", "rb", block_size=READ_AHEAD))
            except FileNotFoundError:
                other = "" if self.local else f", or was stored by a host whose assets.url is not {self.url}"
                raise NotFound(f"{path}: is not stored any more{other}") from None
            if size is not None and (found := stream.seek(0, 2)) != size:
                stream.close()
                raise Unavailable(f"{path}: has {found:,} bytes and was stored with {size:,}: the file is damaged")
            stream.seek(0)
            return stream

    def remove(self, path: str) -> None:
        """Removes a job's or an attempt's folder; nothing there is as good as removed."""
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
        """The names in a folder of the store; none where there is no such folder."""
        folder = f"{self.root}/{path}" if path else self.root
        with self._explained(path, "listed"), suppress(FileNotFoundError):
            return [str(name).rstrip("/").rpartition("/")[2] for name in self.files.ls(folder, detail=False)]
        return []

    def describe(self, path: str, name: str) -> Stored:
        """A file of the store under this name. Reads all of it, for its hash. Raises NotFound."""
        with self.open(path) as stream, self._explained(path, "read"):
            digest = hashlib.sha256()
            while block := stream.read(READ_AHEAD):
                digest.update(block)
            return Stored(name, path, stream.tell(), digest.hexdigest())

    def jobs(self) -> list[str]:
        """The ids of all jobs that have a folder."""
        return [name for name in self.names() if JOB_ID.fullmatch(name)]

    def probe(self, name: str) -> None:
        """Stores a few bytes in a folder of this name, reads and removes them; raises what a job would have raised."""
        self.put(f"{name}/probe", PROBE)
        if self.read(f"{name}/probe") != PROBE:
            raise StorageDown(f"assets: {self.url}: gives back other bytes than were stored: is it an object store?")
        self.remove(name)

    def is_down(self) -> bool:
        """Whether nothing can be stored at present."""
        try:
            self.probe(f"probe-{secrets.token_hex(8)}")
        except StorageDown:
            return True
        return False

    @contextmanager
    def _explained(self, path: str, done: str) -> Iterator[None]:
        """One line with the remedy. The libraries of object stores raise exceptions of every kind."""
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
    """Raises ConfigError where assets.url is of a kind that is unknown, or whose package is not installed."""
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
    """A URL without what could be a password in it."""
    kind, mark, rest = url.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{kind}://{host.rpartition('@')[2]}{slash}{path}" if mark else url


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

"""The Hugging Face Hub: the files of a commit, the download of one file, and the errors on the way.

The requests are huggingface_hub's. Its whole-file download discards an unfinished file (2.4 gives each attempt a new
temporary file), which is expensive after 9 of 10 GB, so `append` resumes at the end of the partial file.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import __version__
from app.config import Config
from app.digest import sha256_of
from app.errors import FULL, FetchFailed, WrongWeights
from app.weights import store
from app.weights.digests import OnBytes
from app.weights.lock import read_lock
from app.weights.manifest import Model, check_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

NO_ROOM = (*FULL, errno.EFBIG)
TIMEOUT = 30.0
"""Seconds for the hub to list the files of a commit."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it. oid: its git blob id, or for a large file (LFS) its sha256."""

    path: str
    bytes: int
    oid: str

    @property
    def part(self) -> str:
        """The name of its partial file, from path and content: two files may have the same content."""
        return f"{self.path.replace('/', '--')}.{self.oid[:16]}"

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` has this content."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if len(self.oid) == 64:
            return sha256_of(path) == self.oid
        blob = f"blob {self.bytes}\0".encode() + path.read_bytes()
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.oid


def listing(model: Model, config: Config) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit, and the files of it that belong to the model."""
    locked = read_lock(store.root(config)).models.get(model.name)
    revision = locked.commit if locked and locked.is_of(model) else model.revision
    with explained(model.repository, config):
        try:
            found = _api(config).model_info(model.repository, revision=revision, files_metadata=True, timeout=TIMEOUT)
        except (ValueError, TypeError, LookupError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise FetchFailed(
                f"{_where(config)}: does not answer like a Hugging Face hub ({reason}); check models.endpoint"
            ) from None
    files = tuple(_remote(each, model) for each in found.siblings or () if model.wants(each.rfilename))
    if not files or not found.sha:
        raise FetchFailed(
            f"{model.repository} at {revision}: has none of {', '.join(model.files)}; is this the right repository?"
        )
    for path, sha256 in model.pinned:
        if all((file.path, file.oid) != (path, sha256) for file in files):
            raise WrongWeights(
                f"{model.repository}: {path} is not the one that this release pins (sha256 {sha256[:12]}); nothing "
                "was downloaded"
            )
    return found.sha, files


def _remote(sibling: Any, model: Model) -> RemoteFile:
    check_path(sibling.rfilename, model.name)
    if sibling.size is None:
        raise FetchFailed(
            f"{model.repository}: the hub does not say how large {sibling.rfilename} is; check models.endpoint"
        )
    return RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id)


def append(path: Path, file: RemoteFile, repository: str, commit: str, config: Config, on_bytes: OnBytes) -> None:
    """Downloads the rest of the partial file at `path`, and syncs it to the disk. The caller checks the content.

    on_bytes may raise to stop the download. Raises what `explained` translates.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented; not in __all__

    url = hf_hub_url(repository, file.path, revision=commit, endpoint=_endpoint(config))
    headers = build_hf_headers(library_name="splatgate", library_version=__version__)
    bar: Any = _Bar(on_bytes).as_tqdm
    with path.open("ab") as stream:
        if stream.tell() > file.bytes:
            stream.seek(0)
            stream.truncate()
        http_get(url, stream, resume_size=stream.tell(), headers=headers, expected_size=file.bytes, tqdm_class=bar)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True)
class _Bar:
    """Stands in for the progress bar of `http_get`; it only counts."""

    on_bytes: OnBytes

    def as_tqdm(self, **_: Any) -> _Bar:
        return self

    def update(self, count: int) -> None:
        self.on_bytes(count)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _api(config: Config) -> HfApi:
    """The hub's client. It reads the token itself, from HF_TOKEN or the store of `hf auth login`; we never see it."""
    if config.models.offline:
        raise FetchFailed("models.offline = true: nothing is fetched; set it to false, or copy the models folder here")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub learns what is fetched, not from what machine
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(config), library_name="splatgate", library_version=__version__)


def _endpoint(config: Config) -> str | None:
    return config.models.endpoint.rstrip("/") or None


def _where(config: Config) -> str:
    return _endpoint(config) or os.environ.get("HF_ENDPOINT", "https://huggingface.co")


@contextmanager
def explained(repository: str, config: Config) -> Iterator[None]:
    """Translates errors of the hub, the network and the disk to FetchFailed with one line that says what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise FetchFailed(
            f"{repository} is gated. Sign in at https://huggingface.co/{repository}, accept its conditions, then run "
            "`hf auth login` here or set HF_TOKEN to a token with read access, and try again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FetchFailed(f"{repository} is not on the hub, or it is private and HF_TOKEN cannot read it") from None
    except errors.RevisionNotFoundError:
        raise FetchFailed(
            f"{repository} no longer has the commit that this release uses; try a newer release"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise FetchFailed(
            "HF_HUB_OFFLINE is set: nothing is fetched; unset it, or copy the models folder here"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise FetchFailed(
            f"{repository}: the hub answered {status} ({error.response.reason_phrase}); try later"
        ) from None
    except httpx2.HTTPError as error:
        raise FetchFailed(
            f"{repository}: cannot reach {_where(config)}: {error or type(error).__name__}. Check the network, the "
            "proxy (HTTPS_PROXY) or models.endpoint; run the same command again to resume"
        ) from None
    except OSError as error:
        raise _disk(error, repository, config) from None


def _disk(error: OSError, repository: str, config: Config) -> FetchFailed:
    if error.errno in NO_ROOM:
        reason = os.strerror(error.errno or 0)
        return FetchFailed(
            f"{store.root(config)}: the disk is full ({reason}); make room, or set models.folder to a larger disk; "
            "run the same command again to resume"
        )
    reason = error.strerror or str(error).splitlines()[0]
    return FetchFailed(f"{repository}: {error.filename or store.root(config)}: {reason}; check it and try again")

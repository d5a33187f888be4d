"""The way from the Hugging Face Hub to the models folder: what is to be fetched, fetching it, and the lock entry of it.

The requests are huggingface_hub's own. Its whole-file download keeps nothing of a file that was not finished (2.4
gives each attempt a new temporary file), which after 9 of 10 GB is too dear; so the part that has arrived is kept here,
named by file and content, and `http_get` goes on where it ends, in this process or in the next.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from app import __version__
from app.config import Config
from app.digest import sha256_of
from app.errors import BadWeights, FetchFailed, WrongWeights
from app.weights import store
from app.weights.lock import LockedFile, LockedModel, read_lock, write_lock
from app.weights.manifest import Model, check_path, gigabytes
from app.weights.store import OnBytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PARTS = ".parts"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TIMEOUT = 30.0
"""Seconds the hub may take to answer what files there are."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it. oid: its git blob id, or for a large file (LFS) its sha256."""

    path: str
    bytes: int
    oid: str

    @property
    def part(self) -> str:
        """Under which name it arrives. Two files may have one content, and one file may have another tomorrow."""
        return f"{self.path.replace('/', '--')}.{self.oid[:16]}"

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` has this content."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        if len(self.oid) == 64:
            return sha256_of(path) == self.oid
        blob = f"blob {self.bytes}\0".encode() + path.read_bytes()
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.oid


@dataclass(frozen=True)
class Plan:
    """What fetching a model means. todo: the files that are not on this disk, or not as they should be."""

    model: Model
    commit: str
    files: tuple[RemoteFile, ...]
    todo: tuple[RemoteFile, ...]
    arrived: int

    @property
    def bytes(self) -> int:
        """Of the files to do; `arrived` of these lie in the folder of parts already."""
        return sum(file.bytes for file in self.todo)


def plan(model: Model, config: Config, on_bytes: OnBytes = lambda _count: None) -> Plan | None:
    """Looks at the disk, then at the hub; None where every file is there and whole, and the hub was not asked.

    on_bytes: told what has been hashed. Raises FetchFailed, saying what stands in the way, and WrongWeights where the
    hub offers another content than this release pins.
    """
    try:
        store.verify(model, config, anew=True, on_bytes=on_bytes)
    except BadWeights:  # not there, or not whole: that is what fetching is for
        pass
    else:
        return None
    commit, files = _listing(model, config)
    folder = store.folder_of(model, config)
    todo = tuple(file for file in files if not file.is_at(folder / file.path))
    arrived = sum(part.stat().st_size for file in todo if (part := folder / PARTS / file.part).is_file())
    return Plan(model, commit, files, todo, arrived)


def check_room(plans: list[Plan], config: Config) -> None:
    """Raises FetchFailed where the disk has less room than what is still to come."""
    wanted = sum(plan.bytes - plan.arrived for plan in plans)
    folder = store.root(config)
    with _explained("the models", config):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if wanted > free:
        raise FetchFailed(
            f"{folder}: needs {gigabytes(wanted)}, has {gigabytes(free)} free; make room, or set models.folder to a "
            "larger disk"
        )


def fetch(plan: Plan, config: Config, on_bytes: OnBytes) -> LockedModel:
    """Fetches what the plan has to do, several files at once, and writes the lock. Raises FetchFailed.

    on_bytes: told, by any thread, how many more bytes have arrived. What has arrived before an error is kept.
    """
    folder, stop = store.folder_of(plan.model, config), Event()

    def one(file: RemoteFile) -> None:
        _fetch_file(plan, file, folder, config, _Bar(on_bytes, stop))

    with _explained(plan.model.repository, config), _alone(config):
        _clear_parts(folder / PARTS, {file.part for file in plan.todo})
        with ThreadPoolExecutor(config.models.connections) as pool:
            jobs = [pool.submit(one, file) for file in plan.todo]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return _lock(plan, config)


def _clear_parts(parts: Path, wanted: set[str]) -> None:
    """Keeps what this fetch can go on with; what an earlier one wanted only takes up room."""
    parts.mkdir(parents=True, exist_ok=True)
    for part in parts.iterdir():
        if part.name not in wanted:
            part.unlink()


def _lock(plan: Plan, config: Config) -> LockedModel:
    """Writes down what is there now, and removes what an earlier commit left behind."""
    folder, lock = store.folder_of(plan.model, config), read_lock(store.root(config))
    before = lock.models.get(plan.model.name)
    for path in set(before.files if before else ()) - {file.path for file in plan.files}:
        (folder / path).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS)
    digests = store.digests(plan.model, [file.path for file in plan.files], config)
    files = {file.path: LockedFile(sha256=digests[file.path], bytes=file.bytes) for file in plan.files}
    model = plan.model
    locked = LockedModel(repository=model.repository, commit=plan.commit, licence=model.licence, files=files)
    write_lock(store.root(config), lock.with_model(model.name, locked))
    return locked


def _listing(model: Model, config: Config) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit, and those of its files that the model consists of."""
    locked = read_lock(store.root(config)).models.get(model.name)
    revision = locked.commit if locked and locked.is_of(model) else model.revision
    with _explained(model.repository, config):
        found = _api(config).model_info(model.repository, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = tuple(_remote(each, model) for each in found.siblings or () if model.wants(each.rfilename))
    if not files or not found.sha:
        raise FetchFailed(
            f"{model.repository} at {revision}: has none of {', '.join(model.files)}; is it the right one?"
        )
    for path, sha256 in model.pinned:
        if all((file.path, file.oid) != (path, sha256) for file in files):
            raise WrongWeights(
                f"{model.repository}: offers another {path} than this release pins (sha256 {sha256[:12]}); it has not "
                "been fetched"
            )
    return found.sha, files


def _remote(sibling: Any, model: Model) -> RemoteFile:
    check_path(sibling.rfilename, model.name)
    return RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id)


def _fetch_file(plan: Plan, file: RemoteFile, folder: Path, config: Config, bar: _Bar) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    part, target = folder / PARTS / file.part, folder / file.path
    progress: Any = bar.as_tqdm
    url = hf_hub_url(plan.model.repository, file.path, revision=plan.commit, endpoint=_endpoint(config))
    headers = build_hf_headers(library_name="splatgate", library_version=__version__)
    with part.open("ab") as stream:
        if stream.tell() > file.bytes:
            stream.seek(0)
            stream.truncate()
        http_get(url, stream, resume_size=stream.tell(), headers=headers, expected_size=file.bytes, tqdm_class=progress)
        stream.flush()
        os.fsync(stream.fileno())
    if not file.is_at(part):
        part.unlink()
        raise FetchFailed(f"{plan.model.repository}: {file.path} arrived broken and was thrown away; try again")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


@dataclass(frozen=True)
class _Bar:
    """What `http_get` takes for its progress bar: it counts, and it stops a download when another has failed."""

    on_bytes: OnBytes
    stop: Event

    def as_tqdm(self, **_: Any) -> _Bar:
        return self

    def update(self, count: int) -> None:
        if self.stop.is_set():
            raise FetchFailed("stopped")
        self.on_bytes(count)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _api(config: Config) -> HfApi:
    """The hub's client. It finds the token itself, in HF_TOKEN or where `hf auth login` has put it; we never see it."""
    if config.models.offline:
        raise FetchFailed("models.offline = true: nothing is fetched; set it to false, or copy the models folder here")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub is told what is fetched, not by what machine
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(config), library_name="splatgate", library_version=__version__)


def _endpoint(config: Config) -> str | None:
    return config.models.endpoint.rstrip("/") or None


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """One fetch in a models folder at a time, whatever process it runs in."""
    store.root(config).mkdir(parents=True, exist_ok=True)
    with (store.root(config) / ".fetching").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchFailed(
                f"{store.root(config)}: another fetch is at work there; wait until it has ended"
            ) from None
        yield


@contextmanager
def _explained(repository: str, config: Config) -> Iterator[None]:
    """Turns what can go wrong between the hub and the disk into one line that says what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise FetchFailed(
            f"{repository}: is gated. Sign in at https://huggingface.co/{repository}, accept its conditions, then run "
            "`hf auth login` here or set HF_TOKEN to a token with read access, and try again"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FetchFailed(f"{repository}: is not on the hub, or is private and HF_TOKEN may not read it") from None
    except errors.RevisionNotFoundError:
        raise FetchFailed(
            f"{repository}: no longer has the commit this release uses; a newer release may help"
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
        where = config.models.endpoint or os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise FetchFailed(
            f"{repository}: no way to {where}: {error or type(error).__name__}. Check the network, a proxy "
            "(HTTPS_PROXY) or models.endpoint; the same command goes on where this one has stopped"
        ) from None
    except OSError as error:
        raise _disk(error, repository, config) from None


def _disk(error: OSError, repository: str, config: Config) -> FetchFailed:
    if error.errno in NO_ROOM:
        reason = os.strerror(error.errno or 0)
        return FetchFailed(
            f"{store.root(config)}: the disk is full ({reason}); make room, or set models.folder to a larger disk; the "
            "same command goes on where this one has stopped"
        )
    reason = error.strerror or str(error).splitlines()[0]
    return FetchFailed(f"{repository}: {error.filename or store.root(config)}: {reason}; check it and try again")

"""Fetching a model: the plan, the download, and the entry in the lock.

A partial file is stored under a name made from its path and content until it is complete, so that an interrupted
download resumes where it stopped, in this process or the next.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from app.config import Config
from app.errors import BadWeights, FetchFailed, WrongWeights
from app.weights import store
from app.weights.digests import OnBytes
from app.weights.hub import RemoteFile, append, explained, listing
from app.weights.lock import LockedFile, LockedModel, read_lock, write_lock
from app.weights.manifest import Model, gigabytes

PARTS = ".parts"


@dataclass(frozen=True)
class Plan:
    """The download of a model. todo: the files that are missing or wrong on this disk; arrived: their bytes so far."""

    model: Model
    commit: str
    files: tuple[RemoteFile, ...]
    todo: tuple[RemoteFile, ...]
    arrived: int

    @property
    def bytes(self) -> int:
        """The size of the files to download; `arrived` of these are in the folder of partial files already."""
        return sum(file.bytes for file in self.todo)


def plan(model: Model, config: Config, on_bytes: OnBytes = lambda _count: None) -> Plan | None:
    """Compares the disk with the hub. None if every file is here and correct; the hub is then not asked.

    on_bytes: called with the bytes hashed. Raises FetchFailed with the cause, and WrongWeights if the hub offers
    content other than this release pins.
    """
    try:
        store.verify(model, config, rehash=True, on_bytes=on_bytes)
    except BadWeights:  # missing or wrong: fetch it
        pass
    else:
        return None
    if model.by_hand:
        raise FetchFailed(store.by_hand_message(model))
    commit, files = listing(model, config)
    folder = store.folder_of(model, config)
    todo = tuple(file for file in files if not file.is_at(folder / file.path))
    arrived = sum(part.stat().st_size for file in todo if (part := folder / PARTS / file.part).is_file())
    return Plan(model, commit, files, todo, arrived)


def check_disk_space(plans: list[Plan], config: Config) -> None:
    """Raises FetchFailed if the disk has too little free space for what is still to be downloaded."""
    wanted = sum(plan.bytes - plan.arrived for plan in plans)
    folder = store.root(config)
    with explained("the models", config):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if wanted > free:
        raise FetchFailed(
            f"{folder}: needs {gigabytes(wanted)}, has {gigabytes(free)} free; make room, or set models.folder to a "
            "larger disk"
        )


def fetch(plan: Plan, config: Config, on_bytes: OnBytes) -> LockedModel:
    """Downloads the plan's files, several at once, and writes the lock. Raises FetchFailed.

    on_bytes: called by any thread with the bytes received. What was received before an error is kept.
    """
    folder, stop = store.folder_of(plan.model, config), Event()

    def count(count: int) -> None:
        if stop.is_set():
            raise FetchFailed("stopped, because another file could not be downloaded")
        on_bytes(count)

    def one(file: RemoteFile) -> None:
        _fetch_file(plan, file, folder, config, count)

    with explained(plan.model.repository, config), _exclusive(config):
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


def _fetch_file(plan: Plan, file: RemoteFile, folder: Path, config: Config, on_bytes: OnBytes) -> None:
    part, target = folder / PARTS / file.part, folder / file.path
    append(part, file, plan.model.repository, plan.commit, config, on_bytes)
    if not file.is_at(part):
        part.unlink()
        raise FetchFailed(f"{plan.model.repository}: {file.path} was received damaged and deleted; try again")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def _clear_parts(parts: Path, wanted: set[str]) -> None:
    """Deletes the partial files of earlier downloads that this one cannot resume."""
    parts.mkdir(parents=True, exist_ok=True)
    for part in parts.iterdir():
        if part.name not in wanted:
            part.unlink()


def _lock(plan: Plan, config: Config) -> LockedModel:
    """Records what is there now in the lock, and deletes files of an earlier commit."""
    folder, lock = store.folder_of(plan.model, config), read_lock(store.root(config))
    before = lock.models.get(plan.model.name)
    for path in set(before.files if before else ()) - {file.path for file in plan.files}:
        (folder / path).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS)
    digests = store.digests(plan.model, [file.path for file in plan.files], config)
    files = {file.path: LockedFile(sha256=digests[file.path], bytes=file.bytes) for file in plan.files}
    model = plan.model
    locked = LockedModel(repository=model.repository, commit=plan.commit, licence=model.licence, files=files)
    if before and before.commit == plan.commit:
        _check_same(model, before, locked)
    write_lock(store.root(config), lock.with_model(model.name, locked))
    return store.verify(model, config)


def _check_same(model: Model, before: LockedModel, now: LockedModel) -> None:
    """Raises WrongWeights if the content of a commit differs from the one that was fetched before."""
    for path, file in now.files.items():
        if before.files.get(path) not in (None, file):
            raise WrongWeights(
                f"{model.repository}: {path} of commit {now.commit[:12]} differs from models.lock.json; check "
                "models.endpoint"
            )


@contextmanager
def _exclusive(config: Config) -> Iterator[None]:
    """One download per models folder at a time, across processes."""
    store.root(config).mkdir(parents=True, exist_ok=True)
    with (store.root(config) / ".fetching").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchFailed(
                f"{store.root(config)}: another `splatgate models fetch` is running; wait until it has finished"
            ) from None
        yield

"""The models on this host's disk, checked against models.lock.json.

Every load goes through `locate`: all files are present, there are no others, and each has the size and sha256 of the
lock. Hashing 40 GB at every start would take half a minute of a core, so digests are cached in models.verified.json.
`splatgate models verify` hashes everything again and so finds silent disk corruption.

This file does not use the network.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.config import Config
from app.errors import BadFile, BadWeights, NotFetched, WrongWeights
from app.weights.digests import DigestCache, OnBytes
from app.weights.lock import LockedFile, LockedModel, read_lock
from app.weights.manifest import Model, find, gigabytes, needed

VERIFIED = "models.verified.json"
"""The cache of digests in the models folder, and in the data folder that of models given by path."""

OnLoad = Callable[[str, int, int], None]
"""Called with the activity ("verifying u2net"), the bytes processed since the last call, and the total;
by any thread."""

Condition = Literal["missing", "present", "verified", "broken"]


@dataclass(frozen=True)
class State:
    """The state of a model on this disk, found without hashing.

    present: all files have the right size, but not every digest is known. problem: what is wrong, and the remedy.
    """

    model: Model
    condition: Condition
    locked: LockedModel | None
    problem: str = ""


def no_progress(_what: str, _more: int, _of: int) -> None:
    """Reports nothing."""


def locate(name: str, config: Config, on_load: OnLoad = no_progress) -> Path:
    """The folder of a model, after every file has been checked against the lock.

    Raises NotFetched if the model is not on this host, WrongWeights if a file is missing, truncated, changed, or not in
    the lock; both messages say what to do.
    """
    model = find(name)
    total = lock_of(model, config).bytes
    verify(model, config, on_bytes=lambda count: on_load(f"verifying {name}", count, total))
    return folder_of(model, config)


def locate_file(name: str, config: Config, on_load: OnLoad = no_progress) -> Path:
    """The file of a single-file model. Raises as `locate`, and BadWeights if it has several."""
    folder = locate(name, config, on_load)
    files = lock_of(find(name), config).files
    if len(files) != 1:
        raise BadWeights(f"{name}: has {len(files)} files, expected one")
    return folder / next(iter(files))


def require(config: Config) -> None:
    """Raises NotFetched, listing every model that the configuration needs and this host lacks, and the command to run.

    Checks names and sizes only; `locate` checks the content when a model is loaded.
    """
    if absent := missing(config):
        raise NotFetched(missing_message(absent, config))
    states = [state_of(model, config) for model in needed(config)]
    if broken := [state for state in states if state.condition == "broken"]:
        raise WrongWeights("\n".join(state.problem for state in broken))


def missing(config: Config) -> tuple[Model, ...]:
    """The models that the configuration needs and this host lacks."""
    return tuple(model for model in needed(config) if state_of(model, config).condition == "missing")


def arrived(models: Iterable[Model], config: Config) -> int:
    """The bytes in the folders of these models, including those of a download that is still running."""
    return sum(_size(path) for model in models for path in folder_of(model, config).rglob("*"))


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:  # a partial file that has just been renamed
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def missing_message(missing: Iterable[Model], config: Config) -> str:
    """What is missing, its size and licence, and the command that fetches it."""
    missing = tuple(missing)
    total = gigabytes(sum(model.about_bytes for model in missing))
    lines = [f"these models are needed and not yet in {str(root(config))!r} (about {total}):"]
    for model in missing:
        gate = "; gated: needs an account that has accepted the conditions" if model.gated else ""
        size, licence = gigabytes(model.about_bytes), model.licence
        lines.append(f"  {model.name}: {model.purpose}, {size}, licence {licence}, from {model.repository}{gate}")
    lines += [by_hand_message(model) for model in missing if model.by_hand]
    lines.append(f"to get them, run: {fetch_command(missing)}")
    return "\n".join(lines)


def fetch_command(missing: Iterable[Model]) -> str:
    """The command that brings these models here: it fetches them, and converts those that are not fetched."""
    missing = tuple(missing)
    fetched = [model.name for model in missing if not model.by_hand]
    commands = [f"splatgate models fetch {' '.join(fetched)}"] if fetched else []
    commands += [convert_command(model) for model in missing if model.by_hand]
    return " && ".join(commands)


def convert_command(model: Model) -> str:
    """The command that makes the files of a model that is not fetched. DOWNLOAD, COMMIT: as by_hand_message says."""
    return f"scripts/convert_checkpoint --model {model.name} DOWNLOAD --commit COMMIT"


def by_hand_message(model: Model) -> str:
    """Why a model is not fetched, and how it gets here."""
    return (
        f"{model.name} is not fetched: the licence of its weights is {model.licence}, and its files are pickles, which "
        f"can hold code. If you may use them, download {model.repository} at a COMMIT to a folder DOWNLOAD, then run "
        f"`{convert_command(model)}`"
    )


def root(config: Config) -> Path:
    """The folder of all models."""
    return Path(config.models.folder)


def folder_of(model: Model, config: Config) -> Path:
    return root(config) / model.name


def lock_of(model: Model, config: Config) -> LockedModel:
    """A model's entry in the lock. Raises NotFetched if there is none, WrongWeights if it is of another commit."""
    locked = read_lock(root(config)).models.get(model.name)
    if locked is None and folder_of(model, config).is_dir():
        raise NotFetched(
            f"{model.name}: {folder_of(model, config)} has files that are not in models.lock.json; run "
            f"`{fetch_command([model])}`, which keeps those that are correct"
        )
    if locked is None:
        raise NotFetched(missing_message([model], config))
    if not locked.is_of(model):
        raise WrongWeights(
            f"{model.name}: the lock has {locked.repository} at {locked.commit[:12]}, this release uses "
            f"{model.repository} at {model.revision[:12]}; run `{fetch_command([model])}`"
        )
    return locked


def state_of(model: Model, config: Config) -> State:
    """A model's state by names, sizes and cached digests. Hashes nothing, and does not raise for a bad model."""
    try:
        locked = lock_of(model, config)
        _check_sizes(model, locked, config)
        folder = folder_of(model, config)
        cached = _cache(config).cached([folder / path for path in locked.files])
        digests = dict(zip(locked.files, cached.values(), strict=True))
        for path, digest in digests.items():
            if digest is not None:
                _check_digest(model, path, locked.files[path], digest)
    except NotFetched as error:
        return State(model, "missing", None, str(error))
    except BadWeights as error:
        return State(model, "broken", None, str(error))
    return State(model, "verified" if None not in digests.values() else "present", locked)


def verify(
    model: Model, config: Config, *, rehash: bool = False, on_bytes: OnBytes = lambda _count: None
) -> LockedModel:
    """Checks every file against the lock, and hashes those that have changed since they were last hashed.

    rehash: hash all of them. on_bytes: called by several threads. Raises NotFetched or WrongWeights.
    """
    locked = lock_of(model, config)
    _check_sizes(model, locked, config)
    for path, sha256 in digests(model, list(locked.files), config, rehash=rehash, on_bytes=on_bytes).items():
        _check_digest(model, path, locked.files[path], sha256)
    return locked


def digests(
    model: Model,
    paths: list[str],
    config: Config,
    *,
    rehash: bool = False,
    on_bytes: OnBytes = lambda _count: None,
) -> dict[str, str]:
    """The sha256 (hex) of files in a model's folder, hashed in parallel and cached. Raises WrongWeights."""
    files = [folder_of(model, config) / path for path in paths]
    try:
        found = _cache(config).digests(files, rehash=rehash, on_bytes=on_bytes)
    except BadFile as error:
        raise WrongWeights(str(error)) from None
    return dict(zip(paths, found.values(), strict=True))


def digests_of_own(files: list[Path], config: Config, on_bytes: OnBytes) -> dict[Path, str]:
    """The sha256 (hex) of files of a model that is given by path, hashed and cached likewise. Raises BadFile."""
    data = Path(config.serve.data)
    with suppress(OSError):  # the cache warns where it cannot be written
        data.mkdir(parents=True, exist_ok=True)
    return DigestCache(data / VERIFIED).digests(files, on_bytes=on_bytes)


def _cache(config: Config) -> DigestCache:
    return DigestCache(root(config) / VERIFIED)


def _check_sizes(model: Model, locked: LockedModel, config: Config) -> None:
    folder = folder_of(model, config)
    for path, file in locked.files.items():
        if not (folder / path).is_file():
            raise WrongWeights(f"{folder / path} is missing; {_again(model)}")
        if (size := (folder / path).stat().st_size) != file.bytes:
            how = "is truncated" if size < file.bytes else "is too long"
            raise WrongWeights(f"{folder / path} {how}: {size:,} of {file.bytes:,} bytes; {_again(model)}")
    if extra := [path for path in files_in(folder) if path not in locked.files]:
        raise WrongWeights(
            f"{folder / extra[0]} does not belong to {model.name} according to models.lock.json; move it elsewhere"
        )


def _check_digest(model: Model, path: str, file: LockedFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise WrongWeights(
            f"{model.name}/{path} has changed: its sha256 is {sha256[:12]}, in models.lock.json {file.sha256[:12]}; "
            f"{_again(model)}"
        )


def _again(model: Model) -> str:
    if model.by_hand:
        return f"delete the folder and run `{convert_command(model)}`"
    return f"run `{fetch_command([model])}`, which downloads only what is wrong"


def files_in(folder: Path) -> list[str]:
    """Paths of all files below a folder, with "/"; without those that begin with a dot."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))

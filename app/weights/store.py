"""The models on this host's disk, held against models.lock.json.

Every load goes through `locate`: the files are there, no others are, and each has the size and the sha256 of the lock.
A sha256 of 40 GB at every start costs half a minute of a core, so a digest once computed is remembered in
models.verified.json together with the file's size, inode and times of last change: as long as none of these has moved
the file is what it was. The kernel sets the time of change (ctime) and no program can set it back, so a file that was
written, replaced or copied is hashed again. What only a full look finds, a disk that has lost bits, is found by
`splatgate models verify`, which hashes everything anew.

This file does not know the network.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loguru import logger

from app.config import Config
from app.digest import sha256_of
from app.errors import BadFile, BadWeights, NotFetched, StorageDown, WrongWeights
from app.splat.files import replacing
from app.weights.lock import LockedFile, LockedModel, read_lock
from app.weights.manifest import Model, find, gigabytes, needed

VERIFIED = "models.verified.json"
HASHERS = 4
"""Files hashed at once: one core was measured at 1.4 GB/s, and few disks give more than four of them could take."""

OnBytes = Callable[[int], None]
"""Told how many more bytes have been dealt with."""

OnLoad = Callable[[str, int, int], None]
"""Told, by any thread, what is being done ("verifying u2net"), how many more bytes of it have been, and how many there
are in all."""

Condition = Literal["missing", "present", "verified", "broken"]
Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class State:
    """How a model stands on this disk, without hashing anything.

    present: all files have their sizes, but not every digest is known. problem: what is wrong, and the remedy.
    """

    model: Model
    condition: Condition
    locked: LockedModel | None
    problem: str = ""


def no_progress(_what: str, _more: int, _of: int) -> None:
    """For whom nobody waits."""


def locate(name: str, config: Config, on_load: OnLoad = no_progress) -> Path:
    """The folder of a model whose every file is the one in the lock.

    Raises NotFetched where the model is not on this host, WrongWeights where a file is missing, cut short, changed, or
    not in the lock; both say what to do.
    """
    model = find(name)
    total = lock_of(model, config).bytes
    verify(model, config, on_bytes=lambda count: on_load(f"verifying {name}", count, total))
    return folder_of(model, config)


def locate_file(name: str, config: Config, on_load: OnLoad = no_progress) -> Path:
    """The one file of a model that has only one. Raises as `locate`, and BadWeights where it has several."""
    folder = locate(name, config, on_load)
    files = lock_of(find(name), config).files
    if len(files) != 1:
        raise BadWeights(f"{name}: has {len(files)} files, expected one")
    return folder / next(iter(files))


def require(config: Config) -> None:
    """Raises NotFetched, naming every model that the configuration needs and this host lacks, and the command for it.

    A quick look: what is there is held against the lock by `locate` when it is loaded.
    """
    if lacking := missing(config):
        raise NotFetched(missing_message(lacking, config))
    states = [look(model, config) for model in needed(config)]
    if broken := [state for state in states if state.condition == "broken"]:
        raise WrongWeights("\n".join(state.problem for state in broken))


def missing(config: Config) -> tuple[Model, ...]:
    """The models that the configuration needs and this host lacks, by a quick look."""
    return tuple(model for model in needed(config) if look(model, config).condition == "missing")


def arrived(models: Iterable[Model], config: Config) -> int:
    """How many bytes lie in the folders of these models, those of a fetch that is still at work among them."""
    return sum(_size(path) for model in models for path in folder_of(model, config).rglob("*"))


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:  # it was a part, and is the file now
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def missing_message(missing: Iterable[Model], config: Config) -> str:
    """What is missing, how large, under which licence, and the one command that fetches it."""
    missing = tuple(missing)
    total = gigabytes(sum(model.about_bytes for model in missing))
    lines = [f"needed, and not in the folder {str(root(config))!r} yet (about {total} in all):"]
    for model in missing:
        gate = "; gated: needs an account that has accepted its conditions" if model.gated else ""
        size, licence = gigabytes(model.about_bytes), model.licence
        lines.append(f"  {model.name}: {model.purpose}, {size}, licence {licence}, from {model.repository}{gate}")
    lines.append(f"fetch them with: {fetch_command(missing)}")
    return "\n".join(lines)


def fetch_command(missing: Iterable[Model]) -> str:
    """What brings these models here, on a command line."""
    return f"splatgate models fetch {' '.join(model.name for model in missing)}"


def root(config: Config) -> Path:
    """The folder of all models."""
    return Path(config.models.folder)


def folder_of(model: Model, config: Config) -> Path:
    return root(config) / model.name


def lock_of(model: Model, config: Config) -> LockedModel:
    """What the lock holds of a model. Raises NotFetched where it holds nothing, WrongWeights where it holds another."""
    locked = read_lock(root(config)).models.get(model.name)
    if locked is None and folder_of(model, config).is_dir():
        raise NotFetched(
            f"{model.name}: {folder_of(model, config)} holds files, but models.lock.json does not know them; run "
            f"`splatgate models fetch {model.name}`, which keeps what is whole"
        )
    if locked is None:
        raise NotFetched(missing_message([model], config))
    if not locked.is_of(model):
        raise WrongWeights(
            f"{model.name}: the lock has {locked.repository} at {locked.commit[:12]}, this release uses "
            f"{model.repository} at {model.revision[:12]}; run `splatgate models fetch {model.name}`"
        )
    return locked


def look(model: Model, config: Config) -> State:
    """How a model stands, by names and sizes and what was hashed before; hashes nothing, and raises nothing for it."""
    try:
        locked = lock_of(model, config)
        _check_sizes(model, locked, config)
        known = _known(config)
        digests = {path: _remembered(known, folder_of(model, config) / path, config) for path in locked.files}
        for path, digest in digests.items():
            if digest is not None:
                _check_digest(model, path, locked.files[path], digest)
    except NotFetched as error:
        return State(model, "missing", None, str(error))
    except BadWeights as error:
        return State(model, "broken", None, str(error))
    return State(model, "verified" if None not in digests.values() else "present", locked)


def verify(model: Model, config: Config, *, anew: bool = False, on_bytes: OnBytes = lambda _count: None) -> LockedModel:
    """Holds every file against the lock, hashing those that have changed since they were last hashed.

    anew: hash all of them. on_bytes: told by several threads. Raises NotFetched or WrongWeights.
    """
    locked = lock_of(model, config)
    _check_sizes(model, locked, config)
    for path, sha256 in digests(model, list(locked.files), config, anew=anew, on_bytes=on_bytes).items():
        _check_digest(model, path, locked.files[path], sha256)
    return locked


def digests(
    model: Model,
    paths: list[str],
    config: Config,
    *,
    anew: bool = False,
    on_bytes: OnBytes = lambda _count: None,
) -> dict[str, str]:
    """The sha256 (hex) of files of a model's folder, several hashed at once, and remembered. Raises WrongWeights."""
    folder, known = folder_of(model, config), {} if anew else _known(config)
    with ThreadPoolExecutor(HASHERS) as pool:
        each = pool.map(lambda path: _digest(known, folder / path, config, on_bytes), paths)
        found = dict(zip(paths, each, strict=True))
    _remember({f"{model.name}/{path}": value for path, value in found.items()}, config)
    return {path: sha256 for path, (_, sha256) in found.items()}


def _check_sizes(model: Model, locked: LockedModel, config: Config) -> None:
    folder = folder_of(model, config)
    for path, file in locked.files.items():
        if not (folder / path).is_file():
            raise WrongWeights(f"{folder / path}: is missing; {_again(model)}")
        if (size := (folder / path).stat().st_size) != file.bytes:
            how = "is cut short" if size < file.bytes else "is too long"
            raise WrongWeights(f"{folder / path}: {how}: {size:,} of {file.bytes:,} bytes; {_again(model)}")
    if strangers := [path for path in files_in(folder) if path not in locked.files]:
        raise WrongWeights(
            f"{folder / strangers[0]}: is not part of {model.name} as models.lock.json has it; move it elsewhere"
        )


def _check_digest(model: Model, path: str, file: LockedFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise WrongWeights(
            f"{model.name}/{path}: has been changed: sha256 {sha256[:12]}, models.lock.json has {file.sha256[:12]}; "
            f"{_again(model)}"
        )


def _again(model: Model) -> str:
    return f"run `splatgate models fetch {model.name}`, which fetches again only what is broken"


def files_in(folder: Path) -> list[str]:
    """Names of all files below a folder, "/" between folders; nothing that begins with a dot."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


# ---- digests that are known already ----------------------------------------------------------------------------------

Known = dict[str, tuple[Stamp, str]]


def _stamp(path: Path) -> Stamp:
    """Size, inode, and the times (ns) of the last write and the last change of any kind."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _remembered(known: Known, path: Path, config: Config) -> str | None:
    stamp, digest = known.get(path.relative_to(root(config)).as_posix(), (None, None))
    return digest if stamp == _stamp(path) else None


def _digest(known: Known, path: Path, config: Config, on_bytes: OnBytes) -> tuple[Stamp, str]:
    stamp = _stamp(path)  # before reading: what is written meanwhile makes the stamp stale, not the digest wrong
    if digest := _remembered(known, path, config):
        on_bytes(stamp[0])
        return stamp, digest
    try:
        return stamp, sha256_of(path, on_bytes)
    except BadFile as error:
        raise WrongWeights(str(error)) from None


def _known(config: Config) -> Known:
    """What was hashed before. A file that cannot be understood only costs hashing again."""
    try:
        table = json.loads((root(config) / VERIFIED).read_text(encoding="utf-8"))
        return {path: ((row[0], row[1], row[2], row[3]), str(row[4])) for path, row in table.items()}
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return {}


def _remember(found: Known, config: Config) -> None:
    before = _known(config)
    table = before | found
    if table == before:
        return
    text = json.dumps({path: [*stamp, digest] for path, (stamp, digest) in sorted(table.items())}, indent=1)
    try:
        with replacing(root(config) / VERIFIED) as stream:
            stream.write(text.encode())
    except StorageDown as error:
        logger.warning(f"{error}: the models are hashed again at each start")
    except BadFile as error:
        if os.access(root(config), os.W_OK):
            raise
        logger.warning(f"{error}: the models are hashed again at each start")

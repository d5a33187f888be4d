"""models.lock.json: for each fetched model its commit, and the sha256 and size of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import BadWeights
from app.weights.manifest import Model, check_path
from app.writing import replacing

NAME = "models.lock.json"
MAX_BYTES = 1 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedFile(Record):
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class LockedModel(Record):
    """One fetched model. files: by their names within the repository, "/" between folders."""

    repository: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    licence: str
    files: dict[str, LockedFile]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    @property
    def sha256(self) -> str:
        """One digest (hex) for the whole model: of its files' names and digests, sorted."""
        lines = "".join(f"{file.sha256}  {path}\n" for path, file in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def is_of(self, model: Model) -> bool:
        """Whether this is the manifest's repository, and its commit if it names one."""
        same = self.commit == model.revision or not is_commit(model.revision)
        return same and self.repository == model.repository


class Lock(Record):
    format: Literal["splatgate-models-lock/1"] = "splatgate-models-lock/1"
    models: dict[str, LockedModel] = {}

    def with_model(self, name: str, locked: LockedModel) -> Lock:
        return Lock(models=self.models | {name: locked})


def is_commit(revision: str) -> bool:
    """Whether it is a commit of 40 hex digits rather than a branch or tag."""
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)


def read_lock(folder: Path) -> Lock:
    """The lock of a models folder; empty if there is none yet.

    Raises BadWeights if it cannot be read, or names a file that no model may have.
    """
    path = folder / NAME
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        lock = Lock.model_validate_json(text)
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise BadWeights(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise BadWeights(f"{path}: {place}: {first['msg']}; delete it and fetch the models again") from None
    for name, locked in lock.models.items():
        for file in locked.files:
            check_path(file, f"{path}: {name}")
    return lock


def write_lock(folder: Path, lock: Lock) -> None:
    """Replaces the lock atomically. Raises BadFile if it cannot be written."""
    with replacing(folder / NAME) as stream:
        stream.write((lock.model_dump_json(indent=2) + "\n").encode())

"""Whether jobs can store their files: checked before a job starts, so that it waits instead of failing half-way."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from app.config import Config
from app.errors import FULL, StorageDown, Unavailable
from app.jobs.assets import Assets

PROBE_BYTES = 1 << 20


def check_storage(config: Config, assets: Assets) -> None:
    """Raises StorageDown if a disk that jobs need is not writable, or has less than limits.min_free_mb free.

    The disks are that of the data folder, if the database is in it, and that of the assets or, with an object store, of
    the temporary files. A folder that does not exist yet is neither full nor read-only.
    """
    store = Path(assets.root if assets.local else tempfile.gettempdir())
    for folder in (store,) if config.database.url else (Path(config.serve.data), store):
        _check_writable(folder)
        if folder.exists() and shutil.disk_usage(folder).free < config.limits.min_free_mb * 2**20:
            raise StorageDown(
                f"{folder}: its disk is full: under {config.limits.min_free_mb:,} MB (limits.min_free_mb) are free; "
                "free space on it; accepted jobs wait meanwhile"
            )


def _check_writable(folder: Path) -> None:
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:  # ESTALE, EIO: the disk or the file server is gone
        raise StorageDown(f"{folder}: cannot be read: {error.strerror}; accepted jobs wait meanwhile") from None
    if exists and not is_folder:
        raise StorageDown(f"{folder}: is not a folder; make it one; accepted jobs wait meanwhile")
    if exists and not os.access(folder, os.W_OK | os.X_OK):
        raise StorageDown(
            f"{folder}: cannot be written: check its permissions, and whether its disk turned read-only; accepted jobs "
            "wait meanwhile"
        )


def probe_folder(folder: Path) -> None:
    """Creates the folder, and writes and removes a megabyte there.

    Raises StorageDown if its disk is full or a quota is exceeded, Unavailable if it cannot be written at all.
    """
    probe = folder / f".splatgate-{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise StorageDown(f"{folder}: its disk is full: {error.strerror}; free space on it") from None
        raise Unavailable(
            f"{folder}: the data folder cannot be written: {error.strerror}; "
            "set serve.data or --data, or its permissions"
        ) from None

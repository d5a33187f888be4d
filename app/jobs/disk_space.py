"""Room on the disk: asked before a job is taken, so that a full disk makes jobs wait, and not fail half-way."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from app.config import Config
from app.errors import FULL, StorageDown, Unavailable
from app.jobs.assets import Assets

PROBE_BYTES = 1 << 20


def check_disk_space(config: Config, assets: Assets) -> None:
    """Raises StorageDown where a disk that jobs are written to has less than limits.min_free_mb free.

    The data folder's, where the database is in it, and that of the assets; where those go to an object store, that of
    the temporary files that they are until then. A folder that is not there yet is not full.
    """
    folders = [] if config.database.url else [Path(config.serve.data)]
    folders.append(Path(assets.root if assets.local else tempfile.gettempdir()))
    for folder in folders:
        if folder.exists() and shutil.disk_usage(folder).free < config.limits.min_free_mb * 2**20:
            raise StorageDown(
                f"{folder}: its disk is full: under {config.limits.min_free_mb:,} MB (limits.min_free_mb) are free; "
                "free space on it; accepted jobs wait meanwhile"
            )


def probe_folder(folder: Path) -> None:
    """Makes the folder, writes a megabyte there and removes it.

    Raises StorageDown where its disk is full, or a quota is used up, Unavailable where it cannot be written at all.
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

"""Room on the disk: asked before a job is taken, so that a full disk makes jobs wait, and not fail half-way."""

from __future__ import annotations

import shutil
from pathlib import Path

from app.config import Config
from app.errors import StorageDown
from app.jobs.assets import Assets


def check_room(config: Config, assets: Assets) -> None:
    """Raises StorageDown where a disk that jobs are written to has less than limits.min_free_mb free.

    The data folder's, where the database is in it, and that of the assets, where they are in a folder. One that is not
    there yet is not full.
    """
    folders = [] if config.database.url else [Path(config.serve.data)]
    for folder in [*folders, *([Path(assets.root)] if assets.local else [])]:
        if folder.exists() and shutil.disk_usage(folder).free < config.limits.min_free_mb * 2**20:
            raise StorageDown(
                f"{folder}: its disk is full: under {config.limits.min_free_mb:,} MB (limits.min_free_mb) are free; "
                "free space on it, or lower assets.max_gb or assets.keep_days; accepted jobs wait meanwhile"
            )

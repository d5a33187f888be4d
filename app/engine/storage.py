"""Waits for the database and for disk space: if engines ended without them, the supervisor would give up."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from loguru import logger

from app.config import Config
from app.engine.instance import Instance
from app.errors import DatabaseDown, StorageDown
from app.jobs.assets import Assets
from app.jobs.storage_check import check_storage, probe_folder
from app.jobs.store import Store

RETRY_SECONDS = 1.0


def wait_for_database(config: Config) -> None:
    """Returns once the database and the data folder are writable. Logs each reason for waiting once."""
    logged = ""
    while True:
        try:
            probe_folder(Path(config.serve.data))
            with closing(Store(config)) as store:
                store.probe()
        except (DatabaseDown, StorageDown) as error:
            if str(error) != logged:
                logger.warning(f"the engine waits: {(logged := str(error))}")
        else:
            return
        time.sleep(RETRY_SECONDS)


class Storage:
    """Whether a job could store its files. problem: why not; empty if it could."""

    def __init__(self, instance: Instance, assets: Assets) -> None:
        self._instance = instance
        self._assets = assets
        self.config = instance.config
        self.problem = ""

    def wait(self) -> None:
        """Returns once a few bytes can be stored. That is enough to start on a nearly full disk, where the engine may
        make space by removing old jobs."""
        while not self._passes(lambda: self._assets.probe(f"probe-{self._instance.name}")):
            time.sleep(RETRY_SECONDS)

    def is_up(self) -> bool:
        """Whether the files of a job can be stored."""
        return self._passes(lambda: check_storage(self.config, self._assets))

    def _passes(self, check: Callable[[], None]) -> bool:
        try:
            check()
            problem = ""
        except StorageDown as error:
            problem = str(error)
        if problem != self.problem:
            self.problem = problem
            name = self._instance.name
            logger.warning(
                f"engine {name} waits: {problem}" if problem else f"engine {name}: files can be stored again"
            )
            self._instance.report(why=problem)
        return not problem

"""What an engine does before its first job: waits for its models, loads them, and tests itself."""

from __future__ import annotations

import time
from pathlib import Path

from loguru import logger

from app.engine.instance import Instance
from app.load_progress import LoadProgress
from app.pipeline import Stages, load_stages
from app.selftest import self_test
from app.weights.manifest import Model
from app.weights.store import arrived, fetch_command, missing, missing_message

RETRY_SECONDS = 1.0


def start_up(instance: Instance) -> Stages:
    """Loaded stages that have passed the self-test. Ends the process if loading takes longer than deadlines.load."""
    config = instance.config
    progress = LoadProgress(instance.report)
    _wait_for_models(instance, progress)
    instance.trace.set_deadline(config.deadlines.load)
    stages = load_stages(config, progress)
    instance.report(state="WARMING", why="self-test", progress=None, eta=None)
    record = Path(config.serve.data) / "selftest.json"
    self_test(stages, config, instance.device, record, lambda stage: instance.report(why=stage.line()))
    instance.trace.set_deadline(None)
    return stages


def _wait_for_models(instance: Instance, progress: LoadProgress) -> None:
    """Returns once all models are on disk. An engine does not fetch them; it reports what is missing."""
    logged: tuple[Model, ...] = ()
    while absent := missing(instance.config):
        if absent != logged:
            message = missing_message(logged := absent, instance.config)
            logger.warning(f"engine {instance.name} waits for models: {message}")
        total = sum(model.about_bytes for model in absent)
        activity = f"models are missing: `{fetch_command(absent)}` fetches them"
        progress.set(activity, arrived(absent, instance.config), total)
        time.sleep(RETRY_SECONDS)

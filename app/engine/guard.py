"""Runs heavy calls: with a deadline, and again with offloaded models if GPU memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from loguru import logger

from app.engine.gpu_errors import is_sticky
from app.engine.instance import Instance
from app.jobs.steps import Steps
from app.pipeline import load_stages
from app.stage import Stage

T = TypeVar("T")


class Guard:
    """Guards the steps of one engine, whose models it may reload."""

    def __init__(self, instance: Instance, steps: Steps) -> None:
        self._instance = instance
        self._steps = steps

    def run(self, call: Callable[[], T]) -> T:
        """Runs a step. A poisoned GPU ends the process. If GPU memory runs out, it tries once more with the models
        offloaded to host memory."""
        try:
            return self._checked(call)
        except torch.OutOfMemoryError as error:
            if self._steps.config.gpu.memory == "offload":
                raise
            logger.warning(f"out of GPU memory: {error}; trying once more with gpu.memory = offload")
        self._offload()  # after the except block, because the exception keeps the failed stage's tensors alive
        return self._checked(call)

    def set_deadline(self, stage: Stage | None, job: str) -> None:
        """Starts the deadline of a job's stage. If it passes, the process writes a traceback and ends."""
        seconds = getattr(self._instance.config.deadlines, stage) if stage else None
        self._instance.trace.set_deadline(seconds, job)

    def _checked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except RuntimeError as error:
            if is_sticky(error):
                self._instance.fatal(error)
            raise

    def _offload(self) -> None:
        """Reloads the models into host memory. Ends the process if that fails, as it would have no models."""
        self._instance.trace.set_deadline(self._instance.config.deadlines.load)
        del self._steps.stages  # frees the loaded models before the others are loaded
        gc.collect()
        torch.cuda.empty_cache()
        config = self._instance.config
        offloaded = config.gpu.model_copy(update={"memory": "offload"})
        self._steps.config = config.model_copy(update={"gpu": offloaded})
        try:
            self._steps.stages = load_stages(self._steps.config)
        except Exception as error:  # noqa: BLE001  the edge: without models every later job would fail
            self._instance.fail(error)
        self._instance.trace.set_deadline(None)
        self._instance.report(why="out of GPU memory: models are offloaded until the next start, which is slower")

"""Logging: one loguru sink on standard error. Results go to standard output, never here."""

from __future__ import annotations

import sys

from loguru import logger


def start_logging(level: str) -> None:
    """Replaces every sink by standard error at `level`; colours on a terminal only."""
    logger.remove()
    logger.add(
        sys.stderr,
        level=level,
        format="<dim>{time:YYYY-MM-DD HH:mm:ss}</dim> | <level>{level: <7}</level> | {message}",
        backtrace=False,
        diagnose=False,  # variable values in tracebacks could hold a secret
    )

"""Logging: one loguru sink on standard error. Results go to standard output, never here."""

from __future__ import annotations

import sys

from loguru import logger


def start_logging(level: str, *, validation: bool = True) -> None:
    """Replaces every sink by standard error at `level`; colours on a terminal only.

    validation: whether the gate is on; where it is off every line says so.
    """
    loud = "" if validation else "<red>VALIDATION OFF</red> | "
    logger.remove()
    logger.add(
        _write,
        level=level,
        colorize=sys.stderr.isatty(),
        format="<dim>{time:YYYY-MM-DD HH:mm:ss}</dim> | <level>{level: <7}</level> | " + loud + "{message}",
        backtrace=False,
        diagnose=False,  # variable values in tracebacks could hold a secret
    )


def _write(line: str) -> None:
    sys.stderr.write(line)  # looked up at each line: a progress bar may stand in its place

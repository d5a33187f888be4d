"""Logging: one loguru sink on standard error. Results go to standard output, never here.

Values bound with `logger.contextualize(job=...)` are printed before the message, or become keys of the JSON line.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record


def start_logging(level: str, *, validation: bool = True, as_json: bool = False) -> None:
    """Replaces all sinks by standard error at `level`, with colours on a terminal only.

    validation: whether the gate is on; if it is off, every line says so.
    as_json: one JSON document per line, with the keys time, level, message, the bound values, and exception.
    """
    logger.remove()
    options: dict[str, Any] = {"level": level, "backtrace": False, "diagnose": False}  # values may contain secrets
    if as_json:
        logger.configure(extra={} if validation else {"validation": "OFF"})
        logger.add(_write_json, format="{message}", **options)
    else:
        logger.configure(extra={})
        logger.add(_write, format=_line(validation), colorize=sys.stderr.isatty(), **options)


class ToLoguru(logging.Handler):
    """Forwards the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.opt(exception=record.exc_info).log(record.levelname, "{}: {}", record.name, record.getMessage())


def _line(validation: bool) -> Any:
    warning = "" if validation else "<red>VALIDATION OFF</red> | "

    def line(record: Record) -> str:
        bound = "".join(f"<cyan>{key}={{extra[{key}]}}</cyan> " for key in record["extra"])
        start = "<dim>{time:YYYY-MM-DD HH:mm:ss}</dim> | <level>{level: <7}</level> | "
        return start + warning + bound + "{message}\n{exception}"

    return line


def _write(line: str) -> None:
    sys.stderr.write(line)  # looked up each time, because a progress bar may replace sys.stderr


def _write_json(message: Message) -> None:
    record = message.record
    line = {"time": record["time"].isoformat(), "level": record["level"].name, "message": record["message"]}
    line |= {key: value for key, value in record["extra"].items() if key not in line}
    if record["exception"]:
        line["exception"] = str(message).removeprefix(record["message"]).strip()
    sys.stderr.write(json.dumps(line, default=str) + "\n")

"""What all commands share: options, configuration, progress, JSON output, and errors as one line.

Each command lives in a module of `app.commands`; `app.commands.main` lists them.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from app.bounds import Bounds
from app.config import load_config
from app.errors import SplatgateError
from app.generators import GENERATORS
from app.log import start_logging

FILE = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
PROFILE = click.option(
    "--profile",
    type=click.Choice(list(GENERATORS)),
    help=" ".join(f"{each.name}: {each.summary}." for each in GENERATORS.values()) + " Default: config.",
)


class Within(click.ParamType[float]):
    """A click type: a number within bounds."""

    name = "number"

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        return f"{self.bounds.low:g}-{self.bounds.high:.10g}"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number: float = (int if self.bounds.whole else float)(str(value))
        except ValueError:
            number = float("nan")
        if number not in self.bounds:
            self.fail(f"{value}: give {self.bounds}", param, ctx)
        return number


class Group(click.Group):
    """Reports expected errors as one line with exit code 1, and lists the commands by section in --help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sections: dict[str, list[click.Command]] = {}

    def add_section(self, title: str, commands: Iterable[click.Command]) -> None:
        self.sections[title] = list(commands)
        for command in self.sections[title]:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(command.name or "", command.get_short_help_str(100)) for command in commands])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if _interrupted(error):
                click.echo("interrupted; no incomplete files are left", err=True)
                ctx.exit(130)
            if not (line := _one_line(error)):
                raise
            if ctx.meta["json"]:
                print_json({"error": {"kind": type(error).__name__, "message": line}})
            click.secho(f"error: {line}", fg="red", err=True)
            ctx.exit(1)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused the error: numba and some imports turn it into an exception of their own."""
    while error:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _one_line(error: BaseException) -> str:
    """The message for the user; empty if the error is a bug."""
    if isinstance(error, SplatgateError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory: use fewer or smaller views, or lower limits.max_gaussians"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which this file does not import
        return "out of GPU memory: set gpu.memory to offload or gpu.quantize to nf4, or stop other programs on the GPU"
    if isinstance(error, OSError) and error.errno != errno.EPIPE:  # EPIPE: the reader of the output is gone
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return ""


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Passes the Config to the command, with the chosen profile. It is read when the command runs, not for --help."""

    @wraps(command)
    @click.pass_obj
    def run(chosen: tuple[Path | None, str | None], /, **options: Any) -> None:
        config_path, log_level = chosen
        config = load_config(config_path)
        if log_level:
            config = config.model_copy(update={"log": config.log.model_copy(update={"level": log_level})})
        start_logging(config.log.level, validation=config.validation.enabled, as_json=config.log.as_json)
        if profile := options.pop("profile", None):
            config = config.model_copy(update={"profile": config.profile.model_copy(update={"name": profile})})
        command(config, **options)

    return run


@contextmanager
def progress(first: str) -> Iterator[Callable[[str], None]]:
    """Shows a spinner with the stage and the elapsed time on a terminal; elsewhere the log shows the progress."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _stage: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, redirect_stderr=True) as progress:
        task = progress.add_task(first)
        yield lambda stage: progress.update(task, description=stage)


def print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def nearest(folder: Path) -> Path:
    """The folder, or its closest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

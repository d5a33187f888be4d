"""The `splatgate` command: options that all commands share, and the list of commands."""

from __future__ import annotations

from pathlib import Path

import click

from app import __version__
from app.cli import FILE, Group
from app.commands.assets import assets
from app.commands.backup import backup, restore
from app.commands.doctor import doctor
from app.commands.feedback import feedback
from app.commands.files import convert, inspect, repair
from app.commands.generate import generate
from app.commands.health import health
from app.commands.jobs import jobs
from app.commands.models import models
from app.commands.render import render
from app.commands.serve import serve
from app.commands.token import token
from app.commands.turntable import turntable
from app.commands.verdicts import check, validate


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="splatgate")
@click.option(
    "--config", "config_path", type=FILE, help="config.toml to use. Default: $SPLATGATE_CONFIG, ./config.toml."
)
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), help="Default: config.")
@click.pass_context
def main(ctx: click.Context, config_path: Path | None, log_level: str | None) -> None:
    """Text to judged 3D Gaussian splats: generate, diagnose, repair, render, score, pass or refuse.

    \b
    Begin with   splatgate generate --profile shapes "a blue rocket"
    Then look    out/a-blue-rocket-0/views.png
    """
    ctx.obj = config_path, log_level


main.add_section("Splats", (generate, inspect, repair, convert, render, turntable, validate, check))
main.add_section("Service", (serve, jobs, health, backup, restore, assets, token, feedback))
main.add_section("This host", (doctor, models))

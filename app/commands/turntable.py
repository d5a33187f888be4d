"""`splatgate turntable`: a splat file as an MP4 that goes once around it."""

from __future__ import annotations

from pathlib import Path

import click

from app.bounds import FILM_FPS, FILM_SECONDS, FILM_SIZE
from app.cli import FILE, JSON, Within, configured, print_json, progress
from app.config import Config


@click.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="MP4 to write.")
@click.option("--size", type=Within(FILM_SIZE), help="Pixels a side, even. Default: config.")
@click.option("--seconds", type=Within(FILM_SECONDS), help="For one turn. Default: config.")
@click.option("--fps", type=Within(FILM_FPS), help="Frames a second. Default: config.")
@JSON
@configured
def turntable(
    config: Config,
    file: Path,
    output: Path,
    size: int | None,
    seconds: float | None,
    fps: int | None,
    as_json: bool,
) -> None:
    """Film a splat FILE once around, in the judge's placement on white, and write an MP4 (H.264)."""
    from app.splat.files import read_splat
    from app.turntable import write_turntable

    if output.suffix.lower() != ".mp4":
        raise click.UsageError(f"{output}: a turntable is written as .mp4")
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        write_turntable(
            output,
            splat,
            config,
            size=size,
            seconds=seconds,
            fps=fps,
            on_progress=lambda done: on_stage(f"Filming, {done:.0%}"),
        )
    written = output.stat().st_size
    if as_json:
        print_json({"output": str(output), "bytes": written})
    else:
        click.echo(f"wrote {output}: {written / 2**20:.1f} MB")

"""`splatgate turntable`: a video of one turn around a splat."""

from __future__ import annotations

from pathlib import Path

import click

from app.bounds import VIDEO_FPS, VIDEO_SECONDS, VIDEO_SIZE
from app.cli import FILE, JSON, Within, configured, print_json, progress
from app.config import Config


@click.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="MP4 to write.")
@click.option("--size", type=Within(VIDEO_SIZE), help="Pixels per side, even. Default: config.")
@click.option("--seconds", type=Within(VIDEO_SECONDS), help="Seconds for one turn. Default: config.")
@click.option("--fps", type=Within(VIDEO_FPS), help="Frames per second. Default: config.")
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
    """Render one turn around a splat as an MP4.

    The splat is scaled and centred as the public judge does, on white. The codec is H.264.
    """
    from app.splat.files import read_splat
    from app.turntable import write_turntable

    if output.suffix.lower() != ".mp4":
        raise click.UsageError(f"-o {output}: give a .mp4 file")
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        write_turntable(
            output,
            splat,
            config,
            size=size,
            seconds=seconds,
            fps=fps,
            on_progress=lambda done: on_stage(f"Rendering, {done:.0%}"),
        )
    written = output.stat().st_size
    if as_json:
        print_json({"output": str(output), "bytes": written})
    else:
        click.echo(f"wrote {output}: {written / 2**20:.1f} MB")

"""`splatgate render`: renders a splat from several sides as one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from app.bounds import EXTENT, FOV, RADIUS, VIEW_SIZE
from app.cli import FILE, JSON, Within, configured, print_json, progress
from app.config import Config, RenderConfig, ViewConfig


def _numbers(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: give numbers separated by commas, e.g. --{parameter.name}=-15,0"
        ) from None
    if not numbers or len(numbers) > 64 or not all(abs(number) <= 36_000 for number in numbers):
        raise click.BadParameter(f"{value!r}: give 1 to 64 finite angles in degrees")
    return numbers


@click.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="PNG to write; the views are side by side.")
@click.option("--size", type=Within(VIEW_SIZE), help="Pixels per side of a view. Default: config.")
@click.option("--azimuth", callback=_numbers, help="Degrees, separated by commas: 0 is the front, 90 the +X side.")
@click.option("--pitch", callback=_numbers, help="Degrees, separated by commas; negative is from above.")
@click.option("--radius", type=Within(RADIUS), help="Distance of the camera from the origin. Default: config.")
@click.option("--fov", type=Within(FOV), help="Vertical field of view, degrees. Default: config.")
@click.option(
    "--placement",
    type=click.Choice(["none", "judge"]),
    help="judge: scaled and centred as the public judge does. Default: config.",
)
@click.option("--extent", type=Within(EXTENT), help="Longest side after placement judge. Default: config.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="cuda: gsplat; cpu: the built-in rasteriser. Default: config.",
)
@JSON
@configured
def render(
    config: Config,
    file: Path,
    output: Path,
    azimuth: tuple[float, ...] | None,
    pitch: tuple[float, ...] | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Render a splat from several sides as one PNG.

    Without angles it is rendered from the judging views.

    \b
    splatgate render rocket.ply -o rocket.png
    splatgate render rocket.ply -o rocket.png --azimuth 0,90 --pitch=-15,-60
    """
    from app import outputs, pipeline
    from app.splat.blank import blank_views
    from app.splat.files import read_splat
    from app.splat.raster import coverage

    if output.suffix.lower() != ".png":
        raise click.UsageError(f"-o {output}: give a .png file")
    update = {key: value for key, value in settings.items() if value is not None}
    if azimuth or pitch:
        update["views"] = _views(azimuth or (0.0,), pitch or (-15.0,))
    config = _with_render(config, update)
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        on_stage("Rendering")
        views = pipeline.render_views(splat, config)
        outputs.write_picture(output, views)
    shown = {"output": str(output), "views": len(views.cameras), "backend": views.backend, "coverage": coverage(views)}
    blank = blank_views(splat, views, config.render)
    if as_json:
        print_json(shown | {"blank": str(blank) if blank else None})
    else:
        click.echo(f"wrote {output}: {shown['views']} views by {views.backend}, coverage {shown['coverage']:.3f}")
        if blank:
            click.secho(str(blank), fg="yellow")


def _with_render(config: Config, update: dict[str, Any]) -> Config:
    try:
        render = RenderConfig.model_validate(config.render.model_dump() | update)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise click.UsageError(" ".join(str(part) for part in (*first["loc"], first["msg"]))) from None
    return config.model_copy(update={"render": render})


def _views(azimuth: tuple[float, ...], pitch: tuple[float, ...]) -> tuple[Any, ...]:
    """One view per pair of angles; a single angle is combined with every angle of the other list."""
    count = max(len(azimuth), len(pitch))
    if len(azimuth) not in (1, count) or len(pitch) not in (1, count):
        raise click.UsageError(
            f"{len(azimuth)} azimuths and {len(pitch)} pitches: give as many of each, or one of either"
        )
    azimuth, pitch = (angles * count if len(angles) == 1 else angles for angles in (azimuth, pitch))
    return tuple(
        ViewConfig(name=f"view {i}", azimuth=a, pitch=p) for i, (a, p) in enumerate(zip(azimuth, pitch, strict=True))
    )

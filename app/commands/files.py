"""`splatgate inspect | repair | convert`: commands on splat files that need no model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from app.cli import FILE, JSON, configured, print_json, progress
from app.commands.output import FOUND, findings_not_logged, print_findings, print_notes, print_repairs
from app.config import Config
from app.errors import BadInput

if TYPE_CHECKING:
    from app.splat.findings import Diagnosis
    from app.splat.model import Splat


@click.command()
@click.argument("file", type=FILE)
@click.option("--strict", is_flag=True, help="Exit with 4 if there are findings.")
@JSON
@configured
def inspect(config: Config, file: Path, strict: bool, as_json: bool) -> None:
    """Show a splat's statistics and what is wrong with it."""
    from app.splat.diagnosis import diagnose
    from app.splat.files import read_splat

    splat = read_splat(file, config.limits.max_gaussians)
    with findings_not_logged():
        diagnosis = diagnose(splat, config.diagnose)
    if as_json:
        print_json({"file": str(file), "sh_degree": splat.sh_degree, "notes": splat.notes, **diagnosis.to_dict()})
    else:
        click.echo(f"{file}: {len(splat):,} gaussians, SH degree {splat.sh_degree}")
        _print_statistics(diagnosis)
        print_findings(diagnosis.to_dict())
        print_notes(splat.notes)
    sys.exit(FOUND if strict and not diagnosis.healthy else 0)


UP = click.option(
    "--up",
    type=click.Choice(["y", "-y", "z", "-z", "x", "-x"]),
    default="y",
    help="The axis that points up in IN: it is rotated to +Y. Captures trained with COLMAP usually need -y.",
)


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="File to write; its suffix is the format.")
@click.option(
    "--strategy", type=click.Choice(["restore", "noise"]), help="How uniform opacity is repaired. Default: config."
)
@UP
@click.option(
    "--extent",
    type=click.FloatRange(0, 1e6, min_open=True),
    help="Scale the splat to this longest side, in units, and centre it if it is off the origin. The judge uses 1.5.",
)
@click.option("--rgb", is_flag=True, help="Take colours for which `inspect` gives the hint rgb_unit for RGB.")
@JSON
@configured
def repair(
    config: Config,
    source: Path,
    output: Path,
    strategy: str | None,
    up: str,
    extent: float | None,
    rgb: bool,
    as_json: bool,
) -> None:
    """Repair what `inspect` finds.

    A healthy file is copied bit for bit.
    """
    from app.splat.files import copy_splat, read_splat, stored_as, write_splat
    from app.splat.formats import written_as

    if strategy:
        config = config.model_copy(update={"repair": config.repair.model_copy(update={"strategy": strategy})})
    target = written_as(output)
    with progress("Reading") as on_stage:
        splat = read_splat(source, config.limits.max_gaussians)
        from app.splat.axes import UP, turned  # after reading, so that an unreadable file is reported at once
        from app.splat.diagnosis import diagnose
        from app.splat.repair import repair as repair_splat

        on_stage("Diagnosing and repairing")
        with findings_not_logged():
            diagnosis = diagnose(splat, config.diagnose)
            if rgb:
                diagnosis = diagnosis.with_hint("rgb_unit")
            repaired, report = repair_splat(splat, diagnosis, config.repair)
        repaired = _resized(turned(repaired, UP[up]), extent)
        on_stage("Writing")
        if repaired is splat and target is stored_as(source):
            copy_splat(source, output)
        else:
            write_splat(output, repaired)
    losses = target.losses(repaired)
    summary = {"input": str(source), "output": str(output), "gaussians_in": len(splat), "gaussians_out": len(repaired)}
    if as_json:
        found = {"notes": splat.notes, "losses": losses, "diagnosis": diagnosis.to_dict(), "repairs": report.to_dict()}
        print_json(summary | found)
        return
    print_findings(diagnosis.to_dict())
    print_repairs(report.to_dict()["repairs"])
    print_notes(splat.notes)
    _print_losses(target.name, losses)
    click.echo(f"wrote {output}: {len(repaired):,} gaussians" + (" (unchanged)" if repaired is splat else ""))


def _resized(splat: Splat, extent: float | None) -> Splat:
    from app.splat.axes import resized
    from app.splat.extent import bounding_box

    if extent is None:
        return splat
    low, high = bounding_box(splat.means)
    longest = float((high - low).max())
    if not longest > 0:
        raise BadInput("--extent: all Gaussians lie on one point, there is nothing to scale; make the splat again")
    return resized(splat, longest, extent, (low + high) / 2)


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@click.option("--format", "format_name", help="ply, spz (version 3), spz2 or spz4. Default: the suffix of OUT.")
@UP
@JSON
@configured
def convert(config: Config, source: Path, target: Path, format_name: str | None, up: str, as_json: bool) -> None:
    """Convert a splat to another format.

    The suffix of OUT selects the format: .ply or .spz. Losses are reported.

    \b
    splatgate convert rocket.ply rocket.spz
    splatgate convert rocket.ply rocket.spz --format spz4
    splatgate convert capture.ply capture.ply --up -y
    """
    from app.splat.axes import UP, turned
    from app.splat.files import read_splat, write_splat
    from app.splat.formats import written_as

    chosen = written_as(target, format_name)
    with progress("Converting"):
        splat = read_splat(source, config.limits.max_gaussians)
        before = source.stat().st_size
        splat = turned(splat, UP[up])
        write_splat(target, splat, format_name)
        losses = chosen.losses(splat)
    after = target.stat().st_size
    if as_json:
        sizes = {"bytes_in": before, "bytes_out": after}
        print_json({"output": str(target), "gaussians": len(splat), **sizes, "notes": splat.notes, "losses": losses})
        return
    print_notes(splat.notes)
    _print_losses(chosen.name, losses)
    click.echo(f"wrote {target}: {len(splat):,} gaussians, {before / 2**20:.1f} MB -> {after / 2**20:.1f} MB")


def _print_losses(format_name: str, losses: tuple[str, ...]) -> None:
    for loss in losses:
        click.secho(f"lost in {format_name}: {loss}", fg="yellow")


def _print_statistics(diagnosis: Diagnosis) -> None:
    table = Table("field", "values", "mean", "std", "min", "max", "not finite")
    for name, field in diagnosis.stats.items():
        numbers = ["-" if n is None else f"{n:.4g}" for n in (field.mean, field.std, field.min, field.max)]
        table.add_row(name, f"{field.count:,}", *numbers, f"{field.nonfinite:,}")
    Console().print(table)

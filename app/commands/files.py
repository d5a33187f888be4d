"""`splatgate inspect | repair | convert`: splat files, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from app.cli import FILE, JSON, configured, print_json, progress
from app.commands.output import print_findings, print_repairs
from app.config import Config

if TYPE_CHECKING:
    from app.splat.findings import Diagnosis


@click.command()
@click.argument("file", type=FILE)
@JSON
@configured
def inspect(config: Config, file: Path, as_json: bool) -> None:
    """Show the statistics and the findings of a splat FILE (.ply or .spz)."""
    from app.splat.diagnosis import diagnose
    from app.splat.files import read_splat

    splat = read_splat(file, config.limits.max_gaussians)
    diagnosis = diagnose(splat, config.diagnose)
    if as_json:
        print_json({"file": str(file), "sh_degree": splat.sh_degree, **diagnosis.to_dict()})
        return
    click.echo(f"{file}: {len(splat):,} gaussians, SH degree {splat.sh_degree}")
    _print_statistics(diagnosis)
    print_findings(diagnosis.to_dict())


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Where the repaired splat goes (.ply or .spz).")
@click.option("--strategy", type=click.Choice(["restore", "noise"]), help="For uniform opacity. Default: config.")
@JSON
@configured
def repair(config: Config, source: Path, output: Path, strategy: str | None, as_json: bool) -> None:
    """Repair what `inspect` finds in IN and write the result; a healthy file is copied bit for bit."""
    from app import pipeline
    from app.splat.files import copy_splat, read_splat, stored_as, write_splat
    from app.splat.formats import written_as

    if strategy:
        config = config.model_copy(update={"repair": config.repair.model_copy(update={"strategy": strategy})})
    with progress("Reading") as on_stage:
        splat = read_splat(source, config.limits.max_gaussians)
        on_stage("Diagnosing and repairing")
        repaired, diagnosis, report = pipeline.diagnose_and_repair(splat, config)
        on_stage("Writing")
        if repaired is splat and written_as(output) is stored_as(source):
            copy_splat(source, output)
        else:
            write_splat(output, repaired)
    summary = {"input": str(source), "output": str(output), "gaussians_in": len(splat), "gaussians_out": len(repaired)}
    if as_json:
        print_json(summary | {"diagnosis": diagnosis.to_dict(), "repairs": report.to_dict()})
        return
    print_findings(diagnosis.to_dict())
    print_repairs(report.to_dict()["repairs"])
    click.echo(f"wrote {output}: {len(repaired):,} gaussians" + (" (unchanged)" if repaired is splat else ""))


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@JSON
@configured
def convert(config: Config, source: Path, target: Path, as_json: bool) -> None:
    """Convert between .ply and .spz; values keep their space, nothing is transformed."""
    from app.splat.files import read_splat, write_splat

    with progress("Converting"):
        splat = read_splat(source, config.limits.max_gaussians)
        write_splat(target, splat)
    before, after = source.stat().st_size, target.stat().st_size
    if as_json:
        print_json({"output": str(target), "gaussians": len(splat), "bytes_in": before, "bytes_out": after})
    else:
        click.echo(f"wrote {target}: {len(splat):,} gaussians, {before / 2**20:.1f} MB -> {after / 2**20:.1f} MB")


def _print_statistics(diagnosis: Diagnosis) -> None:
    table = Table("field", "values", "mean", "std", "min", "max", "not finite")
    for name, field in diagnosis.stats.items():
        numbers = ["-" if n is None else f"{n:.4g}" for n in (field.mean, field.std, field.min, field.max)]
        table.add_row(name, f"{field.count:,}", *numbers, f"{field.nonfinite:,}")
    Console().print(table)

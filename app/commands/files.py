"""`splatgate inspect | repair | convert`: splat files, without a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from app.cli import FILE, JSON, configured, print_json, progress
from app.commands.output import FOUND, findings_not_logged, print_findings, print_repairs
from app.config import Config

if TYPE_CHECKING:
    from app.splat.findings import Diagnosis


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
        print_json({"file": str(file), "sh_degree": splat.sh_degree, **diagnosis.to_dict()})
    else:
        click.echo(f"{file}: {len(splat):,} gaussians, SH degree {splat.sh_degree}")
        _print_statistics(diagnosis)
        print_findings(diagnosis.to_dict())
    sys.exit(FOUND if strict and not diagnosis.healthy else 0)


@click.command()
@click.argument("source", metavar="IN", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="File to write; its suffix is the format.")
@click.option(
    "--strategy", type=click.Choice(["restore", "noise"]), help="How uniform opacity is repaired. Default: config."
)
@JSON
@configured
def repair(config: Config, source: Path, output: Path, strategy: str | None, as_json: bool) -> None:
    """Repair what `inspect` finds.

    A healthy file is copied bit for bit.
    """
    from app import pipeline
    from app.splat.files import copy_splat, read_splat, stored_as, write_splat
    from app.splat.formats import written_as

    if strategy:
        config = config.model_copy(update={"repair": config.repair.model_copy(update={"strategy": strategy})})
    with progress("Reading") as on_stage:
        splat = read_splat(source, config.limits.max_gaussians)
        on_stage("Diagnosing and repairing")
        with findings_not_logged():
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
    """Convert a splat to another format.

    The suffix of OUT chooses it: .ply or .spz. Values are not transformed.
    """
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

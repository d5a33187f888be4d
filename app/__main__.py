"""The command line: `splatgate generate | inspect | repair | render | validate | check | convert`.

Results go to standard output (one JSON document with --json), the log and the progress to standard error.
Exit codes: 0 done or passed, 3 refused by the gate (or a certificate that does not match), 2 usage, 1 error.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import __version__
from app.bounds import ATTEMPTS, EXTENT, FOV, RADIUS, SEED, VIEW_SIZE
from app.cli import FILE, JSON, PROFILE, Group, Within, configured, nearest, print_json, progress
from app.commands.backup import backup
from app.commands.doctor import doctor
from app.commands.feedback import feedback
from app.commands.health import health
from app.commands.models import models
from app.commands.serve import serve
from app.commands.token import token
from app.commands.turntable import turntable
from app.config import Config, RenderConfig, ViewConfig
from app.errors import BadInput, NothingMade
from app.prompt import check_prompt
from app.stage import Stage

if TYPE_CHECKING:
    from app.certificate import Certificate
    from app.splat.diagnosis import Diagnosis

REFUSED = 3


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


@main.command()
@click.argument("prompt", default="")
@click.option("--image", type=FILE, help="Start from this picture (PNG, JPEG, WebP) instead of drawing one.")
@PROFILE
@click.option("--seed", type=Within(SEED), help="The same seed gives the same splat. Default: config.")
@click.option("--attempts", type=Within(ATTEMPTS), help="Try again, with the next seed, what the gate refuses.")
@click.option("-o", "--output", type=FILE, help="Folder for the files. Default: out/<prompt>-<seed>.")
@JSON
@configured
def generate(
    config: Config,
    prompt: str,
    image: Path | None,
    seed: int | None,
    attempts: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Turn PROMPT into a splat, judge it, and write asset.ply, asset.spz, views.png and certificate.json.

    With --image the splat is made from that picture. It is judged against PROMPT, or without one against the picture.
    """
    from app import certificate, pipeline
    from app.stages.picture import read_picture

    seed = config.generate.seed if seed is None else seed
    brief = pipeline.Brief(prompt, read_picture(image, config.limits) if image else None)
    brief.check(config)
    folder = output or Path("out") / f"{_slug(prompt or (image.stem if image else ''))}-{seed}"
    _check_output(folder)
    with progress("Loading") as on_stage:
        stages = pipeline.load_stages(config)
        attempts = attempts or config.generate.attempts

        def told(stage: Stage) -> None:
            on_stage(stage.line())

        try:
            judged = pipeline.generate(brief, seed, attempts, stages, config, told, _steps(on_stage))
        except NothingMade as reason:
            _print_nothing_made(reason, as_json)
            sys.exit(REFUSED)
        on_stage("Writing the files")
        issued = certificate.write_outputs(judged, folder, config, datetime.now(UTC))
    if as_json:
        print_json({"folder": str(folder), "certificate": issued.model_dump(mode="json")})
    else:
        _print_judgement(issued, folder)
    _exit_by(judged.verdict.outcome)


def _check_output(folder: Path) -> None:
    """Before anything is made that could not be kept."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file; -o takes a folder")
    there = nearest(folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise BadInput(f"{folder}: nothing can be written to {there}; choose another folder with -o")


def _steps(on_stage: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, of: on_stage(Stage.PICTURE.line(f"the picture: step {done} of {of}"))


@main.command()
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
    _print_findings(diagnosis.to_dict()["findings"])


@main.command()
@click.argument("source", metavar="IN", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Where the repaired splat goes (.ply or .spz).")
@click.option("--strategy", type=click.Choice(["restore", "noise"]), help="For uniform opacity. Default: config.")
@JSON
@configured
def repair(config: Config, source: Path, output: Path, strategy: str | None, as_json: bool) -> None:
    """Repair what `inspect` finds in IN and write the result; a healthy file is copied bit for bit."""
    from app import pipeline
    from app.splat.files import copy_splat, read_splat, stored_as, write_splat

    if strategy:
        config = config.model_copy(update={"repair": config.repair.model_copy(update={"strategy": strategy})})
    with progress("Reading") as on_stage:
        splat = read_splat(source, config.limits.max_gaussians)
        on_stage("Diagnosing and repairing")
        repaired, diagnosis, report = pipeline.heal(splat, config)
        on_stage("Writing")
        if repaired is splat and output.suffix.lower() == stored_as(source):
            copy_splat(source, output)
        else:
            write_splat(output, repaired)
    summary = {"input": str(source), "output": str(output), "gaussians_in": len(splat), "gaussians_out": len(repaired)}
    if as_json:
        print_json(summary | {"diagnosis": diagnosis.to_dict(), "repairs": report.to_dict()})
        return
    _print_findings(diagnosis.to_dict()["findings"])
    _print_repairs(report.to_dict()["repairs"])
    click.echo(f"wrote {output}: {len(repaired):,} gaussians" + (" (unchanged)" if repaired is splat else ""))


def _numbers(_ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: give numbers with commas, e.g. --{parameter.name}=-15,0") from None
    if not numbers or len(numbers) > 64 or not all(abs(number) <= 36_000 for number in numbers):
        raise click.BadParameter(f"{value!r}: give 1 to 64 finite angles in degrees")
    return numbers


@main.command()
@click.argument("file", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="PNG to write, the views side by side.")
@click.option("--size", type=Within(VIEW_SIZE), help="Pixels a side of one view. Default: config.")
@click.option("--azimuth", callback=_numbers, help="Degrees, with commas: 0 is the front, 90 the side on +X.")
@click.option("--pitch", callback=_numbers, help="Degrees, with commas; negative is above: --pitch=-15,-60.")
@click.option("--radius", type=Within(RADIUS), help="Distance of the camera. Default: config.")
@click.option("--fov", type=Within(FOV), help="Vertical field of view, degrees. Default: config.")
@click.option(
    "--placement", type=click.Choice(["none", "judge"]), help="judge: scale and centre as the public judge does."
)
@click.option("--extent", type=Within(EXTENT), help="Longest side after judge placement. Default: config.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Rasteriser: gsplat (cuda) or ours (cpu).")
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
    """Draw a splat FILE from several sides into one PNG; without angles, from the four judging views."""
    from app import certificate, pipeline
    from app.splat.files import read_splat
    from app.splat.raster import coverage

    if output.suffix.lower() != ".png":
        raise click.UsageError(f"{output}: a picture is written as .png")
    update = {key: value for key, value in settings.items() if value is not None}
    if azimuth or pitch:
        update["views"] = _views(azimuth or (0.0,), pitch or (-15.0,))
    config = _with_render(config, update)
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        on_stage("Rendering")
        views = pipeline.look(splat, config)
        certificate.write_picture(output, views)
    shown = {"output": str(output), "views": len(views.cameras), "backend": views.backend, "coverage": coverage(views)}
    if as_json:
        print_json(shown)
    else:
        click.echo(f"wrote {output}: {shown['views']} views by {views.backend}, coverage {shown['coverage']:.3f}")


def _with_render(config: Config, update: dict[str, Any]) -> Config:
    try:
        render = RenderConfig.model_validate(config.render.model_dump() | update)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise click.UsageError(" ".join(str(part) for part in (*first["loc"], first["msg"]))) from None
    return config.model_copy(update={"render": render})


def _views(azimuth: tuple[float, ...], pitch: tuple[float, ...]) -> tuple[Any, ...]:
    """One view a pair; a single angle serves all of the other list."""
    count = max(len(azimuth), len(pitch))
    if len(azimuth) not in (1, count) or len(pitch) not in (1, count):
        raise click.UsageError(
            f"{len(azimuth)} azimuths and {len(pitch)} pitches: give as many of each, or one of either"
        )
    azimuth, pitch = (angles * count if len(angles) == 1 else angles for angles in (azimuth, pitch))
    return tuple(
        ViewConfig(name=f"view {i}", azimuth=a, pitch=p) for i, (a, p) in enumerate(zip(azimuth, pitch, strict=True))
    )


@main.command()
@click.argument("file", type=FILE)
@click.option("--prompt", required=True, help="What the splat should show.")
@PROFILE
@JSON
@configured
def validate(config: Config, file: Path, prompt: str, as_json: bool) -> None:
    """Score a splat FILE, as it is, against a prompt and ask the gate: exit 0 passed, 3 refused."""
    from app import pipeline
    from app.splat.diagnosis import diagnose
    from app.splat.files import read_splat

    check_prompt(prompt, config.limits)
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        diagnosis = diagnose(splat, config.diagnose)
        on_stage("Loading the scorer")
        scorer = pipeline.load_scorer(config)
        on_stage("Rendering")
        views = pipeline.look(splat, config)
        on_stage("Scoring")
        score, verdict = pipeline.validate(splat, views, prompt, scorer, config)
    findings, stand_in = diagnosis.to_dict()["findings"], config.profile.name == "shapes"
    if as_json:
        asked = {"file": str(file), "prompt": prompt, "profile": config.profile.name, "stand_in": stand_in}
        found = {"outcome": verdict.outcome, "reasons": verdict.reasons, "score": asdict(score) if score else None}
        print_json(asked | found | {"findings": findings})
    else:
        _print_findings(findings)
        names = [view.name for view in config.render.views]
        views_scored = dict(zip(names, score.per_view, strict=True)) if score else {}
        _print_verdict(verdict.outcome, verdict.reasons, score.value if score else None, views_scored)
        if stand_in:
            click.secho("judged by profile 'shapes', the embedded stand-in: it knows its small world only", fg="yellow")
    _exit_by(verdict.outcome)


@main.command()
@click.argument("certificate", type=FILE)
@click.argument("file", type=FILE)
@JSON
@configured
def check(config: Config, certificate: Path, file: Path, as_json: bool) -> None:
    """Recompute what CERTIFICATE claims of FILE (asset.ply or asset.spz): exit 0 it matches, 3 it does not."""
    from app.certificate import check as recheck
    from app.certificate import read_certificate

    with progress("Checking"):
        claims = recheck(read_certificate(certificate), file, config)
    matches = all(claim.agrees for claim in claims)
    if as_json:
        print_json({"matches": matches, "checks": [asdict(claim) for claim in claims]})
    else:
        table = Table("claim", "certificate", "recomputed", "")
        for claim in claims:
            agrees = Text("ok", "green") if claim.agrees else Text("differs", "red")
            table.add_row(*map(Text, (claim.claim, claim.claimed, claim.found)), agrees)
        Console().print(table)
        click.secho("MATCH" if matches else "NO MATCH", fg="green" if matches else "red", bold=True)
    sys.exit(0 if matches else REFUSED)


@main.command()
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


# ---- what a person sees ----------------------------------------------------------------------------------------------


def _print_judgement(issued: Certificate, folder: Path) -> None:
    scores = {view.name: view.score for view in issued.views if view.score is not None}
    _print_findings(issued.diagnosis["findings"])
    _print_repairs(issued.repairs["repairs"])
    value = issued.score.value if issued.score else None
    _print_verdict(issued.verdict.outcome, issued.verdict.reasons, value, scores)
    if issued.score and issued.score.against == "picture":
        click.echo("  scored against the given picture, because there was no prompt")
    if issued.stand_in:
        click.secho("made by profile 'shapes', the embedded stand-in, and judged by its own scorer", fg="yellow")
    for name, what in (
        ("asset.ply", f"the splat, {issued.gaussians:,} gaussians"),
        ("asset.spz", "the same, compressed"),
        ("views.png", "the four judging views"),
        ("picture.png", "the picture it was made from"),
        (
            "certificate.json",
            f"what was measured; recheck: splatgate check {folder}/certificate.json {folder}/asset.ply",
        ),
    ):
        if name != "picture.png" or any(asset.name == name for asset in issued.assets):
            click.echo(f"  {folder / name}  {what}")


def _print_nothing_made(reason: NothingMade, as_json: bool) -> None:
    """There is no splat and there are no files; the verdict says why."""
    if as_json:
        print_json({"folder": None, "certificate": None, "verdict": {"outcome": "refused", "reasons": [str(reason)]}})
    else:
        _print_verdict("refused", (str(reason),), None, {})


def _print_verdict(outcome: str, reasons: tuple[str, ...], value: float | None, views: dict[str, float]) -> None:
    colour = {"passed": "green", "refused": "red"}.get(outcome, "yellow")
    click.secho(outcome.upper(), fg=colour, bold=True, nl=False)
    score = "" if value is None else f"  score {value:.3f}  ("
    click.echo(score + ", ".join(f"{name} {each:.3f}" for name, each in views.items()) + (")" if score else ""))
    for reason in reasons:
        click.echo(f"  because: {reason}")


def _print_statistics(diagnosis: Diagnosis) -> None:
    table = Table("field", "values", "mean", "std", "min", "max", "not finite")
    for name, field in diagnosis.stats.items():
        numbers = ["-" if n is None else f"{n:.4g}" for n in (field.mean, field.std, field.min, field.max)]
        table.add_row(name, f"{field.count:,}", *numbers, f"{field.nonfinite:,}")
    Console().print(table)


def _print_findings(findings: list[dict[str, Any]]) -> None:
    if not findings:
        click.echo("findings: none")
    for finding in findings:
        click.secho(f"finding: {finding['kind']} in {finding['field']}: {finding['message']}", fg="yellow")


def _print_repairs(repairs: list[dict[str, Any]]) -> None:
    for done in repairs:
        click.echo(f"repaired: {done['field']}, {done['count']:,} gaussians, by {done['strategy']}")


def _slug(prompt: str) -> str:
    """A folder name; where it lost more than case and spaces, with a digest, so that no two prompts share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
    if slug.replace("-", " ") == prompt.lower():
        return slug
    return f"{slug or 'splat'}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"


def _exit_by(outcome: str) -> None:
    if outcome == "refused":
        sys.exit(REFUSED)


main.add_command(backup)
main.add_command(doctor)
main.add_command(feedback)
main.add_command(health)
main.add_command(models)
main.add_command(serve)
main.add_command(token)
main.add_command(turntable)

if __name__ == "__main__":
    main()

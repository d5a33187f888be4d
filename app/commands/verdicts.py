"""`splatgate validate | check`: scores a splat file; checks a certificate against its file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli import FILE, JSON, PROFILE, configured, print_json, progress
from app.commands.output import REFUSED, exit_by, findings_not_logged, print_findings, print_verdict
from app.config import Config
from app.prompt import check_prompt


@click.command()
@click.argument("file", type=FILE)
@click.option("--prompt", required=True, help="What the splat should show.")
@PROFILE
@JSON
@configured
def validate(config: Config, file: Path, prompt: str, as_json: bool) -> None:
    """Score a splat against a prompt and pass or refuse it.

    The file is scored as it is, without repairs. Exit code: 0 passed, 3 refused.
    """
    from app import pipeline
    from app.splat.diagnosis import diagnose
    from app.splat.files import read_splat
    from app.stages.measurement import Subject
    from app.validation import load_validator, per_view_scores, to_report
    from app.validation import validate as check_splat

    check_prompt(prompt, config.limits)
    with progress("Reading") as on_stage:
        splat = read_splat(file, config.limits.max_gaussians)
        with findings_not_logged():
            diagnosis = diagnose(splat, config.diagnose)
        on_stage("Loading the scorer")
        validator = load_validator(config)
        on_stage("Rendering")
        views = pipeline.render_views(splat, config)
        on_stage("Scoring")
        measured, verdict = check_splat(Subject(splat, views, prompt), validator, config)
    found, stand_in = to_report(measured, verdict), config.profile.generator.stand_in
    if as_json:
        asked = {"file": str(file), "prompt": prompt, "profile": config.profile.name, "stand_in": bool(stand_in)}
        print_json(asked | found | {key: diagnosis.to_dict()[key] for key in ("findings", "hints")})
    else:
        print_findings(diagnosis.to_dict())
        names = [view.name for view in config.render.views]
        scores = dict(zip(names, per_view_scores(measured), strict=False))
        print_verdict(verdict.outcome, found["reasons"], verdict.score, scores)
        if stand_in:
            click.secho(stand_in, fg="yellow")
    exit_by(verdict.outcome)


@click.command()
@click.argument("certificate", type=FILE)
@click.argument("file", type=FILE)
@JSON
@configured
def check(config: Config, certificate: Path, file: Path, as_json: bool) -> None:
    """Check a certificate against its splat.

    Recomputes what CERTIFICATE says about FILE, one of the files it names. Exit code: 0 it matches, 3 it does not.
    """
    from app.certificate import read_certificate
    from app.checking import check as recheck

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

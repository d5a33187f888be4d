"""`splatgate generate`: from the prompt to a folder with the splat, its views and its certificate."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.bounds import ATTEMPTS, SEED
from app.cli import FILE, JSON, PROFILE, Within, configured, nearest, print_json, progress
from app.commands.output import REFUSED, exit_by, print_findings, print_repairs, print_verdict
from app.config import Config
from app.errors import BadInput, NothingMade
from app.generators import GENERATORS
from app.stage import Stage

if TYPE_CHECKING:
    from app.certificate import Certificate


@click.command()
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
    """Turn PROMPT into a splat, judge it, and write the splat, views.png and certificate.json.

    With --image the splat is made from that picture. It is judged against PROMPT, or without one against the picture.
    """
    from app import certificate, pipeline
    from app.stages.picture import read_picture

    seed = config.generate.seed if seed is None else seed
    request = pipeline.GenerationRequest(prompt, read_picture(image, config.limits) if image else None)
    request.check(config)
    folder = output or Path("out") / f"{_slug(prompt or (image.stem if image else ''))}-{seed}"
    _check_output(folder)
    with progress("Loading") as on_stage:
        stages = pipeline.load_stages(config)
        attempts = attempts or config.generate.attempts

        def told(stage: Stage) -> None:
            on_stage(stage.line())

        try:
            attempt = pipeline.generate(request, seed, attempts, stages, config, told, _steps(on_stage))
        except NothingMade as error:
            _print_nothing_made(error, as_json)
            sys.exit(REFUSED)
        on_stage("Writing the files")
        issued = certificate.write_outputs(attempt, folder, config, datetime.now(UTC))
    if as_json:
        print_json({"folder": str(folder), "certificate": issued.model_dump(mode="json")})
    else:
        _print_judgement(issued, folder)
    exit_by(attempt.verdict.outcome)


def _check_output(folder: Path) -> None:
    """Before anything is made that could not be kept."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is a file; -o takes a folder")
    there = nearest(folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise BadInput(f"{folder}: nothing can be written to {there}; choose another folder with -o")


def _steps(on_stage: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, of: on_stage(Stage.PICTURE.line(f"the picture: step {done} of {of}"))


def _print_judgement(issued: Certificate, folder: Path) -> None:
    scores = {view.name: view.score for view in issued.views if view.score is not None}
    print_findings(issued.diagnosis)
    print_repairs(issued.repairs["repairs"])
    value = issued.score.value if issued.score else None
    print_verdict(issued.verdict.outcome, issued.verdict.reasons, value, scores)
    if issued.score and issued.score.against == "picture":
        click.echo("  scored against the given picture, because there was no prompt")
    if issued.stand_in:
        click.secho(GENERATORS[issued.profile].stand_in, fg="yellow")
    names = [asset.name for asset in issued.assets]
    main, *others = (name for name in names if name != "picture.png")
    files = {main: f"the splat, {issued.gaussians:,} gaussians"}
    files |= dict.fromkeys(others, "the same splat")
    files["views.png"] = "the four judging views"
    if "picture.png" in names:
        files["picture.png"] = "the picture it was made from"
    recheck = f"splatgate check {folder}/certificate.json {folder / main}"
    files["certificate.json"] = f"what was measured; recheck: {recheck}"
    for name, what in files.items():
        click.echo(f"  {folder / name}  {what}")


def _print_nothing_made(error: NothingMade, as_json: bool) -> None:
    """There is no splat and there are no files; the verdict says why."""
    if as_json:
        verdict = {"outcome": "refused", "reasons": [str(error)], "reason_codes": [error.reason.code]}
        print_json({"folder": None, "certificate": None, "verdict": verdict})
    else:
        print_verdict("refused", (str(error),), None, {})


def _slug(prompt: str) -> str:
    """A folder name; where it lost more than case and spaces, with a digest, so that no two prompts share one."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
    if slug.replace("-", " ") == prompt.lower():
        return slug
    return f"{slug or 'splat'}-{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"

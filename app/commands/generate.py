"""`splatgate generate`: from prompts to folders with the splat, its views and its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.bounds import ATTEMPTS, SEED
from app.cli import FILE, JSON, PROFILE, Within, configured, print_json, progress
from app.commands.batch import generate_all
from app.commands.output import exit_by, print_findings, print_repairs, print_verdict
from app.commands.output_folder import check_output, folder_name
from app.commands.result import run_one
from app.commands.sampler_options import sampler_options
from app.config import Config
from app.metrics import METRICS

if TYPE_CHECKING:
    from app.certificate import Certificate

STREAM = click.Path(path_type=Path, allow_dash=True)


@click.command()
@click.argument("prompt", default="")
@click.option("--prompts", type=STREAM, help="File with a prompt per line; - is standard input.")
@click.option("--image", type=FILE, help="Start from this picture (PNG, JPEG, WebP).")
@PROFILE
@click.option("--seed", type=Within(SEED), help="The same seed gives the same splat. Default: config.")
@click.option("--attempts", type=Within(ATTEMPTS), help="After a refusal, try the next seed. Default: config.")
@click.option("-o", "--output", type=FILE, help="Folder to write, with --prompts their parent. Default: out/...")
@JSON
@configured
@sampler_options
def generate(
    config: Config,
    prompt: str,
    prompts: Path | None,
    image: Path | None,
    seed: int | None,
    attempts: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Generate a splat from PROMPT and judge it.

    Writes the splat, the judging views and a certificate to out/<prompt>-<seed>. Exit code: 0 passed, 3 refused.

    With --image the splat is made from the picture. It is compared with PROMPT, or without one with the picture.

    With --prompts each prompt of the file gets a folder of its own, and the models are loaded once. Prompts that are
    done already are skipped, so run the same command again after an interruption. Empty lines and lines that begin
    with # are ignored. Exit code 3: at least one was refused.

    --preset, and the options from --structure-steps to --oversample, override [trellis] of the configuration: how the
    splat is sampled in profile full.

    \b
    splatgate generate "a blue rocket" --profile shapes
    splatgate generate --prompts prompts.txt -o results --attempts 3
    """
    if sum(map(bool, (prompt or image, prompts))) != 1:
        raise click.UsageError('give a PROMPT, e.g. "a blue rocket", or --image FILE, or --prompts FILE')
    seed = config.generate.seed if seed is None else seed
    attempts = attempts or config.generate.attempts
    if prompts:
        generate_all(config, prompts, seed, attempts, output or Path("out"), as_json)
        return
    from app.pipeline import GenerationRequest, load_stages
    from app.stages.picture import read_picture

    request = GenerationRequest(prompt, read_picture(image, config.limits) if image else None)
    request.check(config)
    folder = output or Path("out") / folder_name(prompt or (image.stem if image else ""), seed)
    check_output(folder)
    with progress("Loading") as on_text:
        made = run_one(request, seed, attempts, load_stages(config), config, folder, on_text)
    if as_json:
        print_json(made.document())
    elif made.certificate:
        _print_judgement(made.certificate, folder)
    else:
        print_verdict("refused", made.reasons, None, {})
    exit_by(made.outcome)


def _print_judgement(issued: Certificate, folder: Path) -> None:
    first = next(iter(issued.metrics), None)
    scores = {view.name: each for view, each in zip(issued.views, first.per_view if first else (), strict=False)}
    print_findings(issued.diagnosis)
    print_repairs(issued.repairs["repairs"])
    print_verdict(issued.verdict.outcome, issued.verdict.reasons, issued.score, scores)
    for metric in issued.metrics:
        click.echo(f"  {METRICS[metric.name].title}: {metric.value:.3f}, threshold {metric.threshold:g}")
    if issued.stand_in:
        click.secho(f"generated and judged by profile {issued.profile!r}, a stand-in for real models", fg="yellow")
    names = [asset.name for asset in issued.assets]
    main, *others = (name for name in names if name != "picture.png")
    files = {main: f"the splat, {issued.gaussians:,} gaussians"}
    files |= dict.fromkeys(others, "the same splat")
    files["views.png"] = "the judging views"
    if "picture.png" in names:
        files["picture.png"] = "the picture it was made from"
    files["certificate.json"] = "all measurements"
    for name, what in files.items():
        click.echo(f"  {folder / name}  {what}")
    click.echo(f"to check them: splatgate check {folder}/certificate.json {folder / main}")

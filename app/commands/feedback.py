"""`splatgate feedback import | report`: the judges' answers, and what they mean for the gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import click
from rich.console import Console
from rich.table import Table

from app.cli import FILE, JSON, configured, print_json, progress
from app.config import Config
from app.errors import BadFile, BadInput, Unavailable

if TYPE_CHECKING:
    from app.feedback.advice import Advice
    from app.feedback.report import Judge, Report, Split
    from app.feedback.statistics import Difference, Quartiles, Share
    from app.feedback.store import FeedbackStore, Receipt

LOGS = click.Path(path_type=Path, allow_dash=True)
T = TypeVar("T")


@click.group()
def feedback() -> None:
    """Import judges' answers and report on them."""


@feedback.command("import")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=LOGS)
@click.option("--zone", default="UTC", show_default=True, help="Time zone of dates without one.")
@JSON
@configured
def import_logs(config: Config, logs: tuple[Path, ...], zone: str, as_json: bool) -> None:
    """Import the judges' answers from log files.

    Each LOG may be compressed (gzip, bzip2, xz, zstd); - is standard input. The answers are joined to the jobs that
    they refer to. Importing a log again adds nothing, so a growing log can be imported regularly.
    """
    from app.feedback.dates import zone_of
    from app.feedback.lines import read_lines
    from app.feedback.logs import decompressed

    where = _checked("--zone", zone_of, zone)
    with _opened_store(config) as answers, progress("Reading") as on_stage:
        receipts = []
        for log in logs:
            on_stage(f"Reading {log}")
            with _opened(log) as (stream, until), decompressed(stream, str(log)) as content:
                lines = read_lines(content, where, until)
                receipts.append(answers.add(lines, _name(log), lambda n: on_stage(f"{n:,} lines read")))
    if as_json:
        print_json({"logs": [{"log": str(log), **asdict(got)} for log, got in zip(logs, receipts, strict=True)]})
        return
    for log, receipt in zip(logs, receipts, strict=True):
        _print_receipt(log, receipt)


@feedback.command("report")
@click.option("--since", help="Only answers since then: 2026-01-31 or 2026-01-31T18:00+01:00.")
@click.option("--split", help="Compare the answers before and after this time.")
@click.option("--plot", "picture", type=FILE, help="PNG file to write the plot to.")
@click.option(
    "--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True, help="Colours of the plot."
)
@JSON
@configured
def show_report(
    config: Config, since: str | None, split: str | None, picture: Path | None, theme: str, as_json: bool
) -> None:
    """Report acceptance and advise on the gate.

    Shows acceptance by judge and by score with 95 % intervals, what other thresholds would mean, and advice if there is
    enough evidence. docs/feedback.md explains the numbers.
    """
    import numpy as np

    from app.feedback.dates import moment
    from app.feedback.report import report

    given = {"--since": since, "--split": split}
    times = [None if text is None else _checked(option, moment, text) for option, text in given.items()]
    if picture and picture.suffix.lower() != ".png":
        raise click.UsageError(f"--plot {picture}: give a .png file")
    _check_database(config)
    with _opened_store(config) as answers, progress("Computing the report"):
        found = report(answers, config, np.random.default_rng(0), *times)
        if picture:
            _write_plot(found, picture, theme)
    if as_json:
        print_json(asdict(found))
    else:
        _print_report(found, _shown_database(config))
        if picture:
            click.echo(f"wrote {picture}")


def _check_database(config: Config) -> None:
    """Raises Unavailable if there is no database yet: a report must not create one."""
    from app.jobs.database import database_url

    url = database_url(config)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise Unavailable(f"{url.database}: no database yet; run splatgate feedback import LOG..., or set serve.data")


def _shown_database(config: Config) -> str:
    from app.jobs.database import database_url

    url = database_url(config)
    return url.database if url.get_backend_name() == "sqlite" and url.database else url.render_as_string()


@contextmanager
def _opened_store(config: Config) -> Iterator[FeedbackStore]:
    from app.feedback.store import FeedbackStore
    from app.jobs.store import Store

    store = Store(config)
    try:
        yield FeedbackStore(store, config)
    finally:
        store.close()


def _checked(option: str, parse: Callable[[str], T], text: str) -> T:
    """Raises BadParameter (exit code 2) if `parse` raises BadInput."""
    try:
        return parse(text)
    except BadInput as error:
        raise click.BadParameter(str(error), param_hint=option) from None


@contextmanager
def _opened(log: Path) -> Iterator[tuple[BinaryIO, datetime]]:
    """The log, and the time of its last change. Raises BadFile if it cannot be read."""
    if str(log) == "-":
        yield sys.stdin.buffer, datetime.now(UTC)
        return
    try:
        stream = log.open("rb")
    except OSError as error:
        raise BadFile(f"{log}: cannot be read: {error.strerror}; check the path and its permissions") from None
    with stream:
        yield stream, datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)


def _name(log: Path) -> str:
    """Identifies a log: equal lines without a date are counted per log."""
    return "-" if str(log) == "-" else str(log.resolve())


def _write_plot(found: Report, path: Path, theme: str) -> None:
    from app.feedback.plot import plot
    from app.writing import replacing

    png = plot(found, "dark" if theme == "dark" else "light")
    with replacing(path) as stream:
        stream.write(png)


# ---- output for people ----------------------------------------------------------------------------------------------


def _print_receipt(log: Path, receipt: Receipt) -> None:
    answers = "answer" if receipt.new == 1 else "answers"
    click.echo(
        f"{log}: {receipt.lines:,} lines, {receipt.new:,} new {answers}, {receipt.known:,} known, "
        f"{receipt.unparsed:,} unreadable" + (f", {receipt.old:,} older than feedback.keep_days" if receipt.old else "")
    )
    for broken in receipt.examples:
        click.secho(f"  line {broken.number:,}: {broken.reason}", fg="yellow")


def _print_report(found: Report, database: str) -> None:
    if not found.answers:
        click.echo(f"no answers yet in {database}: run splatgate feedback import LOG...")
        return
    click.echo(
        f"{found.answers:,} answers, {_day(found.first)} to {_day(found.last)}; {found.failed:,} failed (no verdict)"
    )
    if found.left_out:
        click.secho(f"only the newest answers: {found.left_out:,} older ones were not read", fg="yellow")
    click.echo(f"accepted: {_share(found.acceptance)}; quartiles of the scores: {_quartiles(found.scores)}")
    joins = found.joins
    click.echo(
        f"joined to a job: {joins.by_prompt:,} by prompt, {joins.by_time:,} by time ({joins.doubtful:,} doubtful), "
        f"{joins.none:,} not; {found.usable:,} verdicts count below"
    )
    _print_judges(found.judges)
    if found.judges_left_out:
        click.echo(f"and {found.judges_left_out:,} judges with fewer answers")
    _print_scores(found)
    click.echo(f"our gate refused: {_share(found.refusal)} of the jobs still stored")
    _print_advice(found.threshold)
    for point in found.now_and_then if found.usable else ():
        refusal = f"{100 * point.refusal:.1f} % of all jobs, {100 * point.lost:.1f} % of the accepted results"
        click.echo(f"  {point.threshold:g}: accepted {_share(point.acceptance)} delivered; refuses {refusal}")
    _print_advice(found.min_gaussians)
    if found.split:
        _print_split(found.split)


def _print_judges(judges: Iterable[Judge]) -> None:
    table = Table("judge", "answers", "failed", "accepted", "score quartiles", "observations")
    for judge in judges:
        seen = "-" if judge.observations is None else f"{judge.observations:,}"
        numbers = f"{judge.answers:,}", f"{judge.failed:,}"
        table.add_row(judge.uid, *numbers, _share(judge.acceptance), _quartiles(judge.scores), seen)
    Console().print(table)
    for judge in judges:
        if judge.silent:
            click.secho(
                f"judge {judge.uid} processes nothing: Observations=0 in all of its answers",
                fg="yellow",
            )


def _print_scores(found: Report) -> None:
    if not found.by_score:
        return
    table = Table("CLIP score", "accepted")
    for bucket in found.by_score:
        table.add_row(f"{bucket.low:.2f} to {bucket.high:.2f}", _share(bucket.acceptance))
    Console().print(table)


def _print_advice(advice: Advice) -> None:
    if advice.answer == "change" and advice.value is not None:
        where = f" (the best value is between {advice.low:g} and {advice.high:g})"
        click.secho(f"{advice.setting} = {advice.present:g}: set it to {advice.value:g}{where}", fg="green", bold=True)
    else:
        words = {"too few": "no advice", "no relation": "no advice", "keep": "keep it"}[advice.answer]
        click.echo(f"{advice.setting} = {advice.present:g}: {words}")
    click.echo(f"  because: {advice.reason}")


def _print_split(split: Split) -> None:
    table = Table(f"{_day(split.at)}", "before", "after", "difference")
    table.add_row("accepted", *_differences(split.acceptance))
    for uid, change in split.judges.items():
        table.add_row(f"  by {uid}", *_differences(change))
    table.add_row("refused by our gate", *_differences(split.refusal))
    Console().print(table)


def _differences(change: Difference) -> tuple[str, str, str]:
    if change.change is None or change.low is None or change.high is None:
        return _share(change.before), _share(change.after), "-"
    points = f"{100 * change.change:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return _share(change.before), _share(change.after), points


def _share(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return "-"
    percent = f"{100 * share.share:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{percent} of {share.total:,}"


def _quartiles(found: Quartiles | None) -> str:
    """The quartiles; "<cut" for one among the rejected results, below the judge's unknown cut-off."""
    if not found:
        return "-"
    return " / ".join("<cut" if value is None else f"{value:.2f}" for value in astuple(found))


def _day(time: float | None) -> str:
    return "?" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""The report as one PNG: acceptance by judge, by score, and what each threshold would have meant."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.feedback.report import Judge, Report
from app.feedback.statistics import Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Theme = Literal["light", "dark"]

MOST_BARS = 12


@dataclass(frozen=True)
class Palette:
    paper: str
    ink: str
    faint: str
    accepted: str
    refused: str
    lost: str
    mark: str


# blue, orange and grey, distinguishable by the colour-blind; the line styles differ too
PALETTES: dict[Theme, Palette] = {
    "light": Palette("#ffffff", "#1b1f24", "#d5d9de", "#1f6fb4", "#c2571a", "#6b7280", "#7a3fa0"),
    "dark": Palette("#14171a", "#e6e8ea", "#3a4046", "#63b0f0", "#f0995a", "#a0a7b0", "#cf9af0"),
}


def plot(report: Report, theme: Theme = "light", title: str = "") -> bytes:
    """The PNG. title: above the panels."""
    from matplotlib.figure import Figure

    palette = PALETTES[theme]
    figure = Figure(figsize=(13.5, 4.4), dpi=110, facecolor=palette.paper, layout="constrained")
    panels = figure.subplots(1, 3)
    for axes in panels:
        _style(axes, palette)
    _draw_judges(panels[0], report, palette)
    _draw_scores(panels[1], report, palette)
    _draw_curve(panels[2], report, palette)
    if title:
        figure.suptitle(title, color=palette.ink)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _style(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.paper)
    axes.tick_params(colors=palette.ink, labelsize=9)
    axes.grid(color=palette.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.title.set_color(palette.ink)
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.faint)


def _draw_judges(axes: Axes, report: Report, palette: Palette) -> None:
    judges = report.judges[:MOST_BARS][::-1]
    hidden = len(report.judges) - len(judges) + report.judges_left_out
    axes.set_title("Accepted, by judge" + (f" ({hidden} more not shown)" if hidden else ""), fontsize=11)
    if not judges:
        return _note(axes, "no answers yet", palette)
    places = range(len(judges))
    for place, judge in zip(places, judges, strict=True):
        _interval(axes, judge.acceptance, place, palette, horizontal=True)
    axes.set_yticks(list(places), [_name(judge) for judge in judges])
    axes.set_ylim(-0.6, len(judges) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share accepted, with 95 % interval")
    return None


def _name(judge: Judge) -> str:
    below = "observes nothing" if judge.silent else f"verdicts: {judge.acceptance.total:,}"
    return f"judge {judge.uid[:12]}\n{below}"


def _draw_scores(axes: Axes, report: Report, palette: Palette) -> None:
    axes.set_title("Accepted, by our CLIP score", fontsize=11)
    if not report.by_score:
        return _note(axes, "no verdict could be joined\nto a scored job", palette)
    for bucket in report.by_score:
        middle = (bucket.low + bucket.high) / 2
        _interval(axes, bucket.acceptance, middle, palette, horizontal=False)
        note: dict[str, Any] = {"ha": "center", "fontsize": 7.5, "color": palette.lost}
        axes.text(middle, -0.09, f"{bucket.acceptance.total:,}", **note)
    axes.set_ylim(-0.11, 1.04)
    axes.set_xlabel("CLIP score of the job (verdicts below)")
    axes.set_ylabel("share accepted, with 95 % interval")
    return None


def _draw_curve(axes: Axes, report: Report, palette: Palette) -> None:
    axes.set_title("What a threshold would mean", fontsize=11)
    if not report.curve:
        return _note(axes, "no verdict could be joined\nto a scored job", palette)
    at = [point.threshold for point in report.curve]
    low, high = _ends([point.acceptance for point in report.curve])
    axes.fill_between(at, low, high, color=palette.accepted, alpha=0.18, linewidth=0)
    shares = [point.acceptance.share or 0 for point in report.curve]
    axes.plot(at, shares, color=palette.accepted, label="accepted, of what is delivered")
    axes.plot(at, [point.refusal for point in report.curve], "--", color=palette.refused, label="refused, of all jobs")
    axes.plot(at, [point.lost for point in report.curve], ":", color=palette.lost, label="refused, of the accepted")
    advice = report.threshold
    axes.axvline(advice.present, color=palette.ink, linewidth=1, label=f"now: {advice.present:g}")
    if advice.answer == "change" and advice.value is not None:
        axes.axvline(advice.value, color=palette.mark, linewidth=1.6, label=f"advised: {advice.value:g}")
        axes.axvspan(advice.low or 0, advice.high or 0, color=palette.mark, alpha=0.12, linewidth=0)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("validate.threshold")
    axes.legend(fontsize=8, facecolor=palette.paper, edgecolor=palette.faint, labelcolor=palette.ink)
    return None


def _interval(axes: Axes, share: Share, place: float, palette: Palette, *, horizontal: bool) -> None:
    if share.share is None or share.low is None or share.high is None:
        return
    reach = [[share.share - share.low], [share.high - share.share]]
    style: dict[str, Any] = {"fmt": "o", "color": palette.accepted, "markersize": 5, "capsize": 3}
    if horizontal:
        axes.errorbar([share.share], [place], xerr=reach, **style)
    else:
        axes.errorbar([place], [share.share], yerr=reach, **style)


def _ends(shares: Sequence[Share]) -> tuple[list[float], list[float]]:
    return [share.low or 0.0 for share in shares], [share.high or 0.0 for share in shares]


def _note(axes: Axes, words: str, palette: Palette) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", color=palette.lost, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])

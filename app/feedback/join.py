"""The job that a judge's answer refers to. Lines carry no id; the prompt decides, or else the time. Pure functions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from app.feedback.lines import Line

DAY_SECONDS = 86_400.0
"""How far back the job of an answer with a prompt may lie; the same prompt can be used again later."""

SLACK_SECONDS = 1.0
"""A log with whole seconds can show an answer this much before the end of its job."""


@dataclass(frozen=True)
class Candidate:
    """A delivered job. score: None without a prompt. finished: seconds since 1970."""

    id: str
    prompt: str
    finished: float
    profile: str
    score: float | None
    gaussians: int | None


@dataclass(frozen=True)
class Join:
    """certain: no other delivered result with different values matches as well."""

    job: Candidate
    by: Literal["prompt", "time"]
    certain: bool


def join(lines: Sequence[Line], jobs: Iterable[Candidate], claimed: Iterable[str], seconds: float) -> list[Join | None]:
    """The job of each line, in the order of the lines; None if there is none.

    claimed: ids of jobs that other lines were joined to. An answer arrives within `seconds` after the end of its job;
    by time alone it is joined to the latest such job that is not claimed.
    """
    ordered = sorted(jobs, key=lambda job: (job.finished, job.id))
    of_prompt: dict[str, list[Candidate]] = {}
    for job in ordered:
        of_prompt.setdefault(job.prompt, []).append(job)
    taken, found = set(claimed), dict[int, Join]()
    for index in sorted(range(len(lines)), key=lambda index: lines[index].time or 0.0):
        line = lines[index]
        if line.prompt is not None:
            joined = _by_prompt(line, of_prompt.get(line.prompt, []), seconds)
        else:
            joined = _by_time(line, ordered, taken, seconds)
        if joined:
            taken.add(joined.job.id)
            found[index] = joined
    return [found.get(index) for index in range(len(lines))]


def _by_prompt(line: Line, jobs: list[Candidate], seconds: float) -> Join | None:
    if line.time is not None:
        jobs = _within(jobs, line.time, seconds) or _within(jobs, line.time, DAY_SECONDS)
    return Join(jobs[-1], "prompt", _alike(jobs)) if jobs else None


def _by_time(line: Line, jobs: list[Candidate], taken: set[str], seconds: float) -> Join | None:
    if line.time is None:
        return None
    free = [job for job in _within(jobs, line.time, seconds) if job.id not in taken]
    return Join(free[-1], "time", _alike(free)) if free else None


def _within(jobs: list[Candidate], time: float, seconds: float) -> list[Candidate]:
    """Of jobs sorted by their end, those that ended at most `seconds` before `time`."""
    first = bisect_right(jobs, time - seconds, key=lambda job: job.finished)
    last = bisect_right(jobs, time + SLACK_SECONDS, key=lambda job: job.finished)
    return jobs[first:last]


def _alike(jobs: list[Candidate]) -> bool:
    return len({(job.score, job.gaussians, job.profile) for job in jobs}) == 1

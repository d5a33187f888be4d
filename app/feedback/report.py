"""The report on the judges' answers: acceptance by judge and by score, and what other thresholds would mean."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.config import Config
from app.feedback.advice import Advice, Evidence, advise
from app.feedback.statistics import Difference, Quartiles, Share, difference, quartiles, share
from app.feedback.store import MOST_ANSWERS, Answer, Ended, FeedbackStore

BUCKET = 0.02
"""Width of a bucket of scores, in cosines."""

SILENT_AFTER = 5
"""A judge is reported as idle after this many answers that all have Observations=0."""

MOST_JUDGES = 256
MOST_POINTS = 120
SCORE_STEP, COUNT_STEP = 0.001, 1_000


@dataclass(frozen=True)
class Judge:
    """One judge. failed: its own errors, no verdicts. observations: the largest reported, None if it reports none."""

    uid: str
    answers: int
    failed: int
    acceptance: Share
    scores: Quartiles | None
    observations: int | None
    silent: bool


@dataclass(frozen=True)
class Joins:
    """How many answers were joined to a job, and how; doubtful: another result matches as well."""

    by_prompt: int
    by_time: int
    doubtful: int
    none: int


@dataclass(frozen=True)
class Bucket:
    """Scores from `low` up to, not including, `high`."""

    low: float
    high: float
    acceptance: Share


@dataclass(frozen=True)
class Point:
    """What a threshold would have meant. acceptance: of the delivered results; lost: share of the accepted results that
    it refuses; refusal: share of all our jobs that it refuses, including those with too few Gaussians."""

    threshold: float
    acceptance: Share
    lost: float
    refusal: float


@dataclass(frozen=True)
class Split:
    """Before a time and from it on: what the judges accepted, in total and each, and what our gate refused."""

    at: float
    acceptance: Difference
    judges: dict[str, Difference]
    refusal: Difference


@dataclass(frozen=True)
class Report:
    """The whole report. Times: seconds since 1970. cut: the lowest score above 0.0, an upper bound of the cut-offs.

    usable: verdicts that count for the scores: joined for certain, to a job of the configured profile with a prompt.
    now_and_then: what the current threshold means, and the advised one if there is one.
    left_out: answers older than the newest MOST_ANSWERS, which were not read.
    """

    profile: str
    since: float | None
    first: float | None
    last: float | None
    answers: int
    left_out: int
    failed: int
    acceptance: Share
    scores: Quartiles | None
    cut: float | None
    judges: tuple[Judge, ...]
    judges_left_out: int
    joins: Joins
    usable: int
    by_score: tuple[Bucket, ...]
    refusal: Share
    curve: tuple[Point, ...]
    threshold: Advice
    now_and_then: tuple[Point, ...]
    min_gaussians: Advice
    split: Split | None


def report(
    store: FeedbackStore,
    config: Config,
    rng: np.random.Generator,
    since: float | None = None,
    split: float | None = None,
) -> Report:
    """The report on the answers since a time (seconds since 1970); rng: for the intervals of the advice."""
    answers, ended = store.answers(since), store.ended(since)
    verdicts = [answer for answer in answers if answer.score is not None]
    times = [answer.time for answer in answers if answer.time is not None]
    usable = [v for v in verdicts if v.certain and v.profile == config.profile.name and v.job_gaussians is not None]
    worded = [answer for answer in usable if answer.job_score is not None]
    judges = _judges(answers)
    gate, cost = config.validation, config.feedback.rejection_cost
    by_score, by_count = _evidence(worded, "job_score"), _evidence(usable, "job_gaussians")
    threshold = advise("validate.threshold", by_score, gate.threshold, SCORE_STEP, cost, rng)
    settings = [gate.threshold] if threshold.value is None else [gate.threshold, threshold.value]
    return Report(
        profile=config.profile.name,
        since=since,
        first=min(times, default=None),
        last=max(times, default=None),
        answers=len(answers),
        left_out=store.count(since) - len(answers) if len(answers) == MOST_ANSWERS else 0,
        failed=len(answers) - len(verdicts),
        acceptance=_acceptance(verdicts),
        scores=_scores(verdicts),
        cut=min((answer.score for answer in verdicts if answer.score), default=None),
        judges=judges[:MOST_JUDGES],
        judges_left_out=max(0, len(judges) - MOST_JUDGES),
        joins=_joins(answers),
        usable=len(worded),
        by_score=_buckets(worded),
        refusal=_refusal(ended),
        curve=_points(_thresholds(worded), worded, ended, gate.min_gaussians),
        threshold=threshold,
        now_and_then=_points(settings, worded, ended, gate.min_gaussians),
        min_gaussians=advise("validate.min_gaussians", by_count, gate.min_gaussians, COUNT_STEP, cost, rng),
        split=None if split is None else _split(verdicts, ended, split),
    )


def _accepted(answer: Answer) -> bool:
    return bool(answer.score)


def _acceptance(verdicts: Sequence[Answer]) -> Share:
    return share(sum(map(_accepted, verdicts)), len(verdicts))


def _refusal(ended: Sequence[Ended]) -> Share:
    return share(sum(not job.delivered for job in ended), len(ended))


def _scores(verdicts: Sequence[Answer]) -> Quartiles | None:
    return quartiles(np.array([answer.score for answer in verdicts], np.float64))


def _judges(answers: Sequence[Answer]) -> tuple[Judge, ...]:
    return tuple(_judge(uid, theirs) for uid, theirs in _by_uid(answers))


def _by_uid(answers: Sequence[Answer]) -> list[tuple[str, list[Answer]]]:
    """The judges with the most answers first."""
    found: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        found[answer.uid].append(answer)
    return sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))


def _judge(uid: str, answers: Sequence[Answer]) -> Judge:
    verdicts = [answer for answer in answers if answer.score is not None]
    named = [answer.observations for answer in answers if answer.observations is not None]
    most = max(named, default=None)
    silent = most == 0 and len(named) >= SILENT_AFTER
    failed = len(answers) - len(verdicts)
    return Judge(uid, len(answers), failed, _acceptance(verdicts), _scores(verdicts), most, silent)


def _joins(answers: Sequence[Answer]) -> Joins:
    by = Counter(answer.by for answer in answers)
    return Joins(by["prompt"], by["time"], sum(answer.certain is False for answer in answers), by[None])


def _evidence(verdicts: Sequence[Answer], field: str) -> Evidence:
    """One entry per job, with all its verdicts."""
    values: dict[str, float] = {}
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in verdicts:
        assert answer.job
        values[answer.job] = getattr(answer, field)
        counts[answer.job][not _accepted(answer)] += 1
    accepted, rejected = np.array([counts[job] for job in values], np.float64).reshape(-1, 2).T
    return Evidence(np.array(list(values.values()), np.float64), accepted, rejected)


def _buckets(verdicts: Sequence[Answer]) -> tuple[Bucket, ...]:
    found: dict[int, list[Answer]] = defaultdict(list)
    for answer in verdicts:
        assert answer.job_score is not None
        found[math.floor(answer.job_score / BUCKET + 1e-9)].append(answer)
    edges = {number: (round(number * BUCKET, 6), round((number + 1) * BUCKET, 6)) for number in sorted(found)}
    return tuple(Bucket(*edges[number], _acceptance(found[number])) for number in edges)


def _points(
    thresholds: Sequence[float], verdicts: Sequence[Answer], ended: Sequence[Ended], min_gaussians: int
) -> tuple[Point, ...]:
    """What each threshold would have meant."""
    order = sorted((answer.job_score or 0.0, _accepted(answer)) for answer in verdicts)
    scores = np.array([score for score, _ in order])
    accepted_below = np.concatenate([[0], np.cumsum([accepted for _, accepted in order])])
    scored = [job for job in ended if job.score is not None]
    enough = np.sort([job.score or 0.0 for job in scored if (job.gaussians or 0) >= min_gaussians])
    few = len(scored) - len(enough)
    points = []
    for threshold in thresholds:
        below = int(np.searchsorted(scores, threshold))
        accepted, lost = int(accepted_below[-1] - accepted_below[below]), int(accepted_below[below])
        refused = few + int(np.searchsorted(enough, threshold))
        acceptance = share(accepted, len(scores) - below)
        points.append(Point(threshold, acceptance, lost / max(1, lost + accepted), refused / max(1, len(scored))))
    return tuple(points)


def _thresholds(verdicts: Sequence[Answer]) -> list[float]:
    """Round numbers over the range of the judged scores, outside of which nothing is known."""
    scores = [answer.job_score or 0.0 for answer in verdicts]
    if not scores:
        return []
    first, last = math.floor(min(scores) / SCORE_STEP), math.floor(max(scores) / SCORE_STEP)
    stride = max(1, math.ceil((last - first + 1) / MOST_POINTS))
    return [round(number * SCORE_STEP, 6) for number in range(first, last + 1, stride)]


def _split(verdicts: Sequence[Answer], ended: Sequence[Ended], at: float) -> Split:
    """Undated answers belong to neither side."""
    dated = [answer for answer in verdicts if answer.time is not None]
    judges = {uid: _change(answers, at) for uid, answers in _by_uid(dated)[:MOST_JUDGES]}
    before = [job for job in ended if job.finished < at]
    after = [job for job in ended if job.finished >= at]
    return Split(at, _change(dated, at), judges, difference(_refusal(before), _refusal(after)))


def _change(dated: Sequence[Answer], at: float) -> Difference:
    before = [answer for answer in dated if (answer.time or 0) < at]
    after = [answer for answer in dated if (answer.time or 0) >= at]
    return difference(_acceptance(before), _acceptance(after))

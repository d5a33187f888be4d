"""/metrics: numbers from the database, so that a restart of this process loses none.

Counters and histograms cover every row in the database; each scrape reads only the rows added since the last one.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.records import Engine, Result, StageTime, Stats

Row = TypeVar("Row", StageTime, Result)

PAGE = 1_000
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SCORES = tuple(round(step / 100, 2) for step in (*range(0, 40, 2), *range(40, 101, 5)))
"""Buckets of scores: fine for comparisons with prompts, coarser for comparisons with pictures, which score higher."""
GAUSSIANS = (1e3, 7e3, 2e4, 5e4, 1e5, 1.5e5, 2e5, 3e5, 5e5, 1e6, 2e6, 4e6)

TALLIES = {
    "state": ("splatgate_jobs", "Jobs by the state in which they ended.", "state"),
    "outcome": ("splatgate_judged", "Judged splats by outcome.", "outcome"),
    "reason": ("splatgate_refusals", "Reasons for refusals.", "reason"),
    "finding": ("splatgate_findings", "Findings in splats, by kind.", "kind"),
    "repair": ("splatgate_repairs", "Repairs of splats, by kind.", "kind"),
    "webhook": ("splatgate_webhooks", "Webhooks that were delivered or given up.", "result"),
    "quarantine": ("splatgate_quarantined", "Asset folders moved to the quarantine.", "reason"),
    "death": (
        "splatgate_engine_restarts",
        "Processes that died and were restarted: engines, web; by reason.",
        "reason",
    ),
}


def serve_metrics(app: Flask, jobs: Jobs) -> None:
    """Adds GET /metrics."""
    registry = CollectorRegistry()
    gate = Gauge("splatgate_validation_enabled", "Whether the gate is on. 0: nothing is scored.", registry=registry)
    gate.set(jobs.config.validation.enabled)
    registry.register(JobsCollector(jobs))

    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    app.add_url_rule("/metrics", view_func=metrics)


class Histogram:
    """Counts by bucket for each label."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * (len(bounds) + 1))
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, label: str, value: float) -> None:
        self._counts[label][bisect_left(self._bounds, value)] += 1
        self._sums[label] += value

    def metric(self, name: str, what: str, label: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, what, labels=[label])
        for key, counts in sorted(self._counts.items()):
            family.add_metric([key], self._cumulative(counts), self._sums[key])
        return family

    def _cumulative(self, counts: list[int]) -> list[tuple[str, float]]:
        names = [*map(str, self._bounds), "+Inf"]
        return [(name, sum(counts[: i + 1])) for i, name in enumerate(names)]


class JobsCollector(Collector):
    """Collects the metrics at each scrape. If the database cannot be used, there is only splatgate_database_up = 0."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._stage_row = self._result_row = 0
        self._stages, self._jobs_took = Histogram(SECONDS), Histogram(SECONDS)
        self._scores, self._gaussians = Histogram(SCORES), Histogram(GAUSSIANS)

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not open the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("splatgate_database_up", "Whether the database can be used.")
        try:
            stats, engines = self._jobs.statistics.stats(), self._jobs.engines()
            with self._lock:
                self._read_new_rows()
                histograms = list(self._histograms())
        except SplatgateError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from (*_counters(stats), *_gauges(stats), *histograms, *_engines(engines))

    def _read_new_rows(self) -> None:
        for stage in _all(self._jobs.statistics.stage_times, self._stage_row):
            self._stages.add(stage.stage, stage.seconds)
            self._stage_row = stage.row
        for result in _all(self._jobs.statistics.results, self._result_row):
            self._jobs_took.add(result.kind, result.seconds)
            if result.score is not None:
                self._scores.add(result.kind, result.score)
            if result.gaussians is not None:
                self._gaussians.add(result.kind, result.gaussians)
            self._result_row = result.row

    def _histograms(self) -> Iterator[Metric]:
        yield self._stages.metric("splatgate_stage_seconds", "Seconds a stage took.", "stage")
        yield self._jobs_took.metric("splatgate_job_seconds", "Seconds from a job's start to its end.", "kind")
        yield self._scores.metric("splatgate_score", "Scores of judged splats.", "kind")
        yield self._gaussians.metric("splatgate_gaussians", "Gaussians of splats.", "kind")


def _all(read: Callable[[int, int], list[Row]], row: int) -> Iterator[Row]:
    while rows := read(row, PAGE):
        yield from rows
        row = rows[-1].row


def _counters(stats: Stats) -> Iterator[Metric]:
    for what, (name, meaning, label) in TALLIES.items():
        family = CounterMetricFamily(name, meaning, labels=[label])
        for tally in stats.tallies:
            if tally.what == what:
                family.add_metric([tally.label], tally.count)
        yield family


def _gauges(stats: Stats) -> Iterator[Metric]:
    yield GaugeMetricFamily("splatgate_queue_depth", "Queued jobs.", stats.queued)
    waited = "Seconds that the oldest queued job has waited."
    yield GaugeMetricFamily("splatgate_queue_oldest_seconds", waited, stats.oldest_queued)
    yield GaugeMetricFamily("splatgate_running_jobs", "Running jobs.", stats.running)
    yield GaugeMetricFamily("splatgate_asset_bytes", "Bytes of stored files.", stats.asset_bytes)
    outcomes = {tally.label: tally.count for tally in stats.tallies if tally.what == "outcome"}
    judged = outcomes.get("passed", 0) + outcomes.get("refused", 0)
    if judged:  # avoid division by zero
        rate = outcomes.get("passed", 0) / judged
        yield GaugeMetricFamily(
            "splatgate_gate_pass_ratio", "Fraction of judged splats that passed, over all time.", rate
        )


def _engines(engines: list[Engine]) -> Iterator[Metric]:
    states = GaugeMetricFamily("splatgate_engine_state", "1 for the state an engine is in.", labels=["engine", "state"])
    used = GaugeMetricFamily("splatgate_gpu_memory_used_bytes", "GPU memory in use.", labels=["engine", "device"])
    total = GaugeMetricFamily("splatgate_gpu_memory_total_bytes", "GPU memory.", labels=["engine", "device"])
    what = "Progress of a starting engine, which verifies or waits for models, 0 to 1."
    started = GaugeMetricFamily("splatgate_engine_start_progress", what, labels=["engine"])
    for engine in engines:
        states.add_metric([engine.name, engine.state], 1)
        if engine.progress is not None:
            started.add_metric([engine.name], engine.progress)
        if engine.memory_used is not None and engine.memory_total is not None:
            used.add_metric([engine.name, engine.device], engine.memory_used)
            total.add_metric([engine.name, engine.device], engine.memory_total)
    yield from (states, started, used, total)

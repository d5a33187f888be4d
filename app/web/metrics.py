"""/metrics: numbers from the database, so that a restart of this process loses none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.errors import SplatgateError
from app.jobs.client import Jobs
from app.jobs.histograms import Histogram
from app.jobs.records import Engine, Stats

HISTOGRAMS = {
    "stage_seconds": ("splatgate_stage_seconds", "Seconds a stage took.", "stage"),
    "job_seconds": ("splatgate_job_seconds", "Seconds from a job's start to its end.", "kind"),
    "score": ("splatgate_score", "Scores of judged splats.", "kind"),
    "gaussians": ("splatgate_gaussians", "Gaussians of splats.", "kind"),
}

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


class JobsCollector(Collector):
    """Collects the metrics at each scrape. If the database cannot be used, there is only splatgate_database_up = 0."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Iterable[Metric]:
        return ()  # registering must not open the database

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("splatgate_database_up", "Whether the database can be used.")
        try:
            stats, engines = self._jobs.statistics.stats(), self._jobs.engines()
            histograms = self._jobs.statistics.histograms()
        except SplatgateError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from (*_counters(stats), *_gauges(stats), *_histograms(histograms), *_engines(engines))


def _counters(stats: Stats) -> Iterator[Metric]:
    for what, (name, meaning, label) in TALLIES.items():
        family = CounterMetricFamily(name, meaning, labels=[label])
        for tally in stats.tallies:
            if tally.what == what:
                family.add_metric([tally.label], tally.count)
        yield family


def _histograms(found: dict[str, dict[str, Histogram]]) -> Iterator[Metric]:
    for key, (name, meaning, label) in HISTOGRAMS.items():
        family = HistogramMetricFamily(name, meaning, labels=[label])
        for series, histogram in found[key].items():
            names = (*map(str, histogram.bounds), "+Inf")
            family.add_metric([series], list(zip(names, accumulate(histogram.counts), strict=True)), histogram.total)
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

"""Measures a splat and applies the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from loguru import logger

from app.config import Config
from app.errors import StageFailed
from app.gate import Verdict, judge
from app.generators.generator import resolve
from app.metrics import METRICS
from app.metrics.metric import Metric
from app.reason import Reason
from app.splat.blank import blank_views, other_unit
from app.splat.diagnosis import on_one_point
from app.stages.measurement import Measurement, Subject
from app.weights.store import OnLoad, no_progress

Measurements = Mapping[str, Measurement]
"""By the name of the metric, in the order of the registry."""


@dataclass(frozen=True)
class Validator:
    """The metrics that have a threshold. models: the loaded model of each, or None, by the metric's name."""

    models: Mapping[str, Any]

    def measure(self, subject: Subject, config: Config) -> Measurements:
        """Measures every metric that applies to the subject. Raises StageFailed for a value that is not finite."""
        metrics = [METRICS[name] for name in self.models if METRICS[name].applies(subject.parts)]
        measured = {each.name: resolve(each.compute)(self.models[each.name], subject, config) for each in metrics}
        for name, each in measured.items():
            if not math.isfinite(each.value):
                raise StageFailed(Reason("score_not_finite", {"model": name, "values": str(each.value)}))
        return measured


def load_validator(config: Config, on_load: OnLoad = no_progress) -> Validator | None:
    """Loads the metrics that have a threshold; None, with a warning, if validation is switched off.

    on_load: called with what is verified and loaded. Raises BadWeights if a model is missing.
    """
    config = config.with_generator_settings()
    if stand_in := config.profile.generator.stand_in:
        logger.warning(stand_in)
    if not config.validation.enabled:
        logger.warning("Validation: OFF (validate.enabled = false): nothing will be scored or refused")
        return None
    chosen = [each for each in METRICS.values() if config.validation.threshold_of(each) is not None]
    loaded = {load: resolve(load)(config, on_load) for load in dict.fromkeys(each.load for each in chosen) if load}
    logger.info("; ".join(_ready(each, config) for each in chosen[:1]))
    logger.info("Validation: ON")
    return Validator({each.name: loaded.get(each.load) for each in chosen})


def _ready(metric: Metric, config: Config) -> str:
    return f"{metric.label} validator ready (threshold={config.validation.threshold_of(metric):g})"


def validate(subject: Subject, validator: Validator | None, config: Config) -> tuple[Measurements, Verdict]:
    """Measures the subject and applies the gate. Logs the phrases that operators search for."""
    measured = validator.measure(subject, config) if validator else {}
    for name, measurement in measured.items():
        logger.info(f"DIAGNOSTIC - {METRICS[name].title}: {measurement.value:.3f}")
    verdict = judge(len(subject.splat), {name: each.value for name, each in measured.items()}, config.validation)
    verdict = with_cause(verdict, subject, config)
    if verdict.outcome == "passed":
        values = ", ".join(f"{METRICS[name].label}={each.value:.3f}" for name, each in measured.items())
        logger.info(f"VALIDATION PASSED: {values}")
    elif verdict.outcome == "refused":
        logger.warning(f"VALIDATION FAILED: {'; '.join(map(str, verdict.reasons))}")
    else:
        logger.warning(f"NOT VALIDATED: {verdict.reasons[0]}")
    return measured, verdict


def with_cause(verdict: Verdict, subject: Subject, config: Config) -> Verdict:
    """Puts the visible cause before the measured reasons; a splat without a shape is always refused."""
    if on_one_point(subject.splat) and verdict.outcome != "not validated":
        reason = Reason("uniform_position", {"gaussians": len(subject.splat)})
        return replace(verdict, outcome="refused", reasons=(reason, *verdict.reasons))
    cause = blank_views(subject.splat, subject.views, config.render) or other_unit(subject.splat, config.render)
    if cause and verdict.outcome == "refused":
        return replace(verdict, reasons=(cause, *verdict.reasons))
    if cause:
        logger.warning(str(cause))
    return verdict


def to_report(measured: Measurements, verdict: Verdict) -> dict[str, Any]:
    """The result as a JSON document. score: the first metric with its details; null if there is none."""
    score = None
    if first := next(iter(measured.values()), None):
        model = {"model": first.model.model, "weights_sha256": first.model.weights_sha256} if first.model else {}
        score = {"value": first.value, "per_view": first.per_view, **model, **first.details}
    return {
        "outcome": verdict.outcome,
        "reasons": [str(reason) for reason in verdict.reasons],
        "reason_codes": [reason.code for reason in verdict.reasons],
        "score": score,
        "metrics": {name: asdict(each) for name, each in verdict.metrics.items()},
    }


def per_view_scores(measured: Measurements) -> tuple[float, ...]:
    """The score of each view by the first metric; empty if there is none."""
    return next((each.per_view for each in measured.values()), ())

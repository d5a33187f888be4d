"""The self-test of an engine before its first job: generates a splat from a fixed prompt and compares its score.

The same weights, versions, settings and device must give the same score as before. This detects a GPU that computes
wrong results, or modified weights, before they reach a caller's asset.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from app.config import Config, RenderConfig, ShapesConfig
from app.errors import SelfTestFailed
from app.outputs import versions
from app.pipeline import Attempt, GenerationRequest, OnStage, Stages, generate
from app.writing import replacing

PROMPT, SEED = "a blue rocket", 0

SAME_SCORE = 0.005
"""Tolerance of the score, which allows for another backend or device."""


SECTIONS = ("render", "score", "shapes", "repair", "image", "cutout", "trellis")
"""The sections of the configuration that the score depends on."""


@dataclass(frozen=True)
class SelfTest:
    """score: None if validation is off. expected: what it was compared with; None in the first run."""

    score: float | None
    expected: float | None


def self_test(stages: Stages, config: Config, device: str, record: Path, on_stage: OnStage) -> SelfTest:
    """Runs the test. The first run writes the score to the JSON file `record`.

    device: the name of the device that the models run on. Raises SelfTestFailed if the score is not the expected one.
    """
    attempt = generate(GenerationRequest(PROMPT), SEED, 1, stages, config, on_stage)
    if attempt.score is None:
        return SelfTest(None, None)
    key, score, known = _key(attempt, config, device), attempt.score, _read(record)
    known_score = config.profile.generator.self_test_score if _is_default(config) else None
    expected = known.get(key) if known_score is None else known_score
    if expected is not None and not abs(score - expected) <= SAME_SCORE:
        raise SelfTestFailed(
            f"self-test: {PROMPT!r} scored {score:.4f}, expected {expected:.4f} with these weights and settings:"
            f" the weights are damaged or the device computes wrong results (if neither is true, remove {record})"
        )
    if key not in known:
        with replacing(record) as stream:
            stream.write(json.dumps(known | {key: score}, indent=2).encode() + b"\n")
    logger.info(f"self-test: {PROMPT!r} scored {score:.4f}" + (" (first run)" if expected is None else ""))
    return SelfTest(score, expected)


def _key(attempt: Attempt, config: Config, device: str) -> str:
    """Runs with equal keys must have equal scores."""
    parts = (
        config.profile.name,
        attempt.generator,
        *(str(each.model) for each in attempt.measurements.values()),
        attempt.views.backend,
        device,
        json.dumps(versions(), sort_keys=True),
        *(getattr(config, name).model_dump_json() for name in SECTIONS),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_default(config: Config) -> bool:
    """Whether the settings that the score depends on have their defaults."""
    default = config.render.model_copy(update={"device": "auto"}) == RenderConfig() and config.shapes == ShapesConfig()
    return config.score.aggregate == "mean" and default


def _read(record: Path) -> dict[str, float]:
    try:
        known = json.loads(record.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SelfTestFailed(
            f"{record}: cannot be read: {error}; remove it; the next start creates a new one"
        ) from None
    return known if isinstance(known, dict) else {}

"""What an engine does before it takes a job: makes a splat of fixed words, looks at it, scores it, and compares.

The same weights, versions, settings and device must give the score they gave before. A card that computes wrong, or
weights that are not what they were, show here, and not in a customer's asset.
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
"""How far the score may lie from the expected one: another backend or device."""


@dataclass(frozen=True)
class SelfTest:
    """score: None where validation is off. expected: what it was held against; None at the first time."""

    score: float | None
    expected: float | None


def self_test(stages: Stages, config: Config, device: str, record: Path, on_stage: OnStage) -> SelfTest:
    """Runs the test, and at the first time writes its score into the JSON file `record`.

    device: what the models run on, in words. Raises SelfTestFailed where the score is another than it was, or none.
    """
    attempt = generate(GenerationRequest(PROMPT), SEED, 1, stages, config, on_stage)
    if attempt.score is None:
        return SelfTest(None, None)
    key, score, known = _key(attempt, config, device), attempt.score, _read(record)
    known_score = config.profile.generator.self_test_score if _is_default(config) else None
    expected = known.get(key) if known_score is None else known_score
    if expected is not None and not abs(score - expected) <= SAME_SCORE:
        raise SelfTestFailed(
            f"self-test: {PROMPT!r} scored {score:.4f}, with these weights and settings it was {expected:.4f}:"
            f" the weights or the device are broken (where neither is, remove {record})"
        )
    if key not in known:
        with replacing(record) as stream:
            stream.write(json.dumps(known | {key: score}, indent=2).encode() + b"\n")
    logger.info(f"self-test: {PROMPT!r} scored {score:.4f}" + (" (first time)" if expected is None else ""))
    return SelfTest(score, expected)


def _key(attempt: Attempt, config: Config, device: str) -> str:
    """Equal keys mean that equal scores are due."""
    parts = (
        config.profile.name,
        attempt.generator,
        *(str(each.model) for each in attempt.measurements.values()),
        attempt.views.backend,
        device,
        json.dumps(versions(), sort_keys=True),
        *(section.model_dump_json() for section in (config.render, config.score, config.shapes, config.repair)),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_default(config: Config) -> bool:
    """Whether the settings that the score depends on are the default ones."""
    default = config.render.model_copy(update={"device": "auto"}) == RenderConfig() and config.shapes == ShapesConfig()
    return config.score.aggregate == "mean" and default


def _read(record: Path) -> dict[str, float]:
    try:
        known = json.loads(record.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SelfTestFailed(
            f"{record}: cannot be read: {error}; remove it, and the next start writes it anew"
        ) from None
    return known if isinstance(known, dict) else {}

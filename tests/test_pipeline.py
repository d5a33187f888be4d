"""The pipeline, if a stage returns something that the next one cannot use."""

from dataclasses import replace

import numpy as np
import pytest
from loguru import logger

from app.config import Config, DeadlinesConfig
from app.errors import NothingMade
from app.pipeline import GenerationRequest, Stages, generate
from app.splat.model import Splat
from app.stage import Stage
from app.stages.picture import Picture
from app.stages.shapes import Shapes, ShapesParams


class Large(Shapes):
    """Builds in a unit so small that SPZ has no room for the positions."""

    def build(self, prompt: str, picture: Picture | None, seed: int) -> Splat:
        splat = super().build(prompt, picture, seed)
        return replace(splat, means=np.float32(1e8) * splat.means)


class Broken(Shapes):
    def build(self, prompt: str, picture: Picture | None, seed: int) -> Splat:
        splat = super().build(prompt, picture, seed)
        return replace(splat, opacity_logits=np.full(len(splat), np.nan))


@pytest.mark.parametrize(
    ("kind", "enabled", "reason"),
    [
        (Large, True, r"asset.spz: means: .* beyond SPZ's reach of 4,194,304"),
        (Broken, False, "asset.spz: opacity_logits: 1,000 values are not finite"),
    ],
)
def test_a_splat_that_the_spz_cannot_hold_is_refused_before_rendering(
    kind: type[Shapes], enabled: bool, reason: str
) -> None:
    config = Config.model_validate({"repair": {"enabled": enabled}, "validate": {"enabled": False}})
    told: list[Stage] = []
    with pytest.raises(NothingMade, match=reason):
        generate(GenerationRequest("a red ball"), 0, 2, Stages(kind(ShapesParams(1_000)), None), config, told.append)
    assert told == [Stage.PICTURE, Stage.SPLAT, Stage.REPAIR] * 2


def test_an_attempt_announces_its_stages_in_order_and_logs_each() -> None:
    config = Config.model_validate({"validate": {"enabled": False}, "render": {"size": 64}})
    told: list[Stage] = []
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    generate(GenerationRequest("a red ball"), 0, 1, Stages(Shapes(ShapesParams(1_000)), None), config, told.append)
    logger.remove(sink)
    assert told == [stage for stage in Stage if stage not in (Stage.FILES, Stage.TURNTABLE)]
    assert [line[:5] for line in lines if line[0] == "["] == ["[1/4]", "[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_every_stage_has_a_deadline() -> None:
    assert {*Stage} <= DeadlinesConfig.model_fields.keys()

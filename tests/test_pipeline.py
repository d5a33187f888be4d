"""The story, where a stage brings what the next one cannot use."""

from dataclasses import replace

import numpy as np
import pytest

from app.config import Config
from app.errors import NothingMade
from app.pipeline import Brief, Stages, generate
from app.splat.model import Splat
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
        (Large, True, r"means: .* beyond the reach of 4,194,304: asset.spz cannot hold that"),
        (Broken, False, "opacity_logits: 1,000 values are not finite: asset.spz cannot hold that"),
    ],
)
def test_what_a_promised_file_cannot_hold_is_refused_before_it_is_drawn(
    kind: type[Shapes], enabled: bool, reason: str
) -> None:
    config = Config.model_validate({"repair": {"enabled": enabled}, "validate": {"enabled": False}})
    told: list[str] = []
    with pytest.raises(NothingMade, match=reason):
        generate(Brief("a red ball"), 0, 2, Stages(kind(ShapesParams(1_000)), None), config, told.append)
    assert [line.partition("]")[0] for line in told] == ["[1/4", "[1/4", "[2/4"] * 2

"""The input and the result of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.metrics.metric import Need
from app.splat.model import Splat
from app.splat.raster import Views
from app.stages.picture import ModelInfo, Picture


@dataclass(frozen=True)
class Subject:
    """A splat to judge. prompt: empty without one. picture: what the splat was made from; None without one."""

    splat: Splat
    views: Views
    prompt: str = ""
    picture: Picture | None = None

    @property
    def parts(self) -> frozenset[Need]:
        """The parts that it has, of those that a metric may need."""
        return parts(prompt=bool(self.prompt), picture=self.picture is not None)


def parts(*, prompt: bool, picture: bool) -> frozenset[Need]:
    """The parts of a subject with or without a prompt and a picture."""
    there: dict[Need, bool] = {"views": True, "splat": True, "prompt": prompt, "picture": picture}
    return frozenset(part for part, is_there in there.items() if is_there)


@dataclass(frozen=True)
class Measurement:
    """The value of a metric. per_view: of each view by itself; empty if the metric has none.

    model: what computed it; None without a model. details: JSON values that are added to the certificate.
    """

    value: float
    per_view: tuple[float, ...] = ()
    model: ModelInfo | None = None
    details: Mapping[str, str | float | bool] = field(default_factory=dict)

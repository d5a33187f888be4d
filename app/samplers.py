"""The sampler settings of TRELLIS: what configuration and callers may set, and the presets.

The samplers themselves are in app/trellis/samplers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from app.bounds import GUIDANCE, RESCALE, STEPS, TIME, Bounds, Oversample
from app.section import Section

Preset = Literal["published", "app", "few-step"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "published": {},
    "app": {"structure_steps": 12, "structure_guidance": 7.5, "latent_steps": 12, "latent_guidance": 3.0},
    "few-step": {
        **{"structure_steps": 2, "structure_guidance": 5.0, "structure_interval": (0.5, 1.0), "structure_rescale": 1.0},
        **{"latent_steps": 2, "latent_guidance": 1.0, "latent_interval": (0.5, 1.0), "latent_rescale": 1.0},
    },
}
"""Settings by preset; what a preset leaves out is as in the model's pipeline.json. "published" is that file unchanged,
"app" the settings of the authors' demo, "few-step" those of the distilled flows MDT-dist."""

Unset = Literal["preset"]
UNSET: Unset = "preset"
"""The value of a setting that the preset decides."""

BOUNDS: Mapping[str, Bounds] = {
    f"{stage}_{name}": bounds
    for stage in ("structure", "latent")
    for name, bounds in {"steps": STEPS, "guidance": GUIDANCE, "interval": TIME, "rescale": RESCALE}.items()
}
"""By setting. Of an interval: the bounds of both its ends."""


def _number_within(bounds: Bounds) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value != UNSET and value not in bounds:
            raise ValueError(f"give {bounds}, or {UNSET!r} for the value of the preset")
        return value

    return check


def _check_interval(value: object) -> object:
    ends = tuple(value) if isinstance(value, list | tuple) else ()
    if value != UNSET and not (len(ends) == 2 and ends[0] in TIME and ends[1] in TIME and ends[0] <= ends[1]):
        raise ValueError(f"give [low, high], each {TIME}, low <= high, or {UNSET!r} for the value of the preset")
    return ends or value


def _schema(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"const": UNSET, "type": "string"}]})


_INTERVAL = {"type": "array", "items": TIME.schema(), "minItems": 2, "maxItems": 2}

Steps = Annotated[int | Unset, BeforeValidator(_number_within(STEPS)), _schema(STEPS.schema())]
Guidance = Annotated[float | Unset, BeforeValidator(_number_within(GUIDANCE)), _schema(GUIDANCE.schema())]
Interval = Annotated[tuple[float, float] | Unset, BeforeValidator(_check_interval), _schema(_INTERVAL)]
Rescale = Annotated[float | Unset, BeforeValidator(_number_within(RESCALE)), _schema(RESCALE.schema())]


class SamplerSettings(Section):
    """Settings of both samplers. In a request, a field that is not given (`model_fields_set`) is as configured.

    An explicit value overrides the preset. oversample: structures to sample for one splat; the one with the fewest
    voxels goes on.
    """

    preset: Annotated[Preset, Field(description="What decides the settings that are not given.")] = "published"
    structure_steps: Steps = UNSET
    structure_guidance: Guidance = UNSET
    structure_interval: Interval = UNSET
    structure_rescale: Rescale = UNSET
    latent_steps: Steps = UNSET
    latent_guidance: Guidance = UNSET
    latent_interval: Interval = UNSET
    latent_rescale: Rescale = UNSET
    oversample: Annotated[Oversample, Field(strict=True)] = 1

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were given, as JSON has them."""
        return self.model_dump(mode="json", exclude_unset=True)

    def overridden_by(self, request: SamplerSettings) -> SamplerSettings:
        """These settings with those of a request. A request that names a preset starts from that preset instead."""
        ours = {name: getattr(self, name) for name in SamplerSettings.model_fields}
        given = request.given
        return SamplerSettings.model_validate(given if "preset" in given else ours | given)

    def values(self) -> dict[str, Any]:
        """The settings that differ from pipeline.json, by name: those of the preset, then the explicit ones."""
        explicit = {name: value for name in BOUNDS if (value := getattr(self, name)) != UNSET}
        return {**PRESETS[self.preset], **explicit}

"""The sampler settings of a request, within [limits]; used by the pipeline and by the web process."""

from __future__ import annotations

from app.config import Config
from app.errors import BadInput
from app.samplers import SamplerSettings


def requested_samplers(request: SamplerSettings, config: Config) -> SamplerSettings:
    """The settings of a request: the configured ones, overridden by what it gives.

    Raises BadInput for a profile without samplers, and for a value that the request gives beyond [limits].
    """
    given = request.given
    if given and not config.profile.generator.has_samplers:
        raise BadInput(f"profile {config.profile.name!r} has no samplers: omit the settings of [trellis]")
    found = config.with_generator_settings().trellis.overridden_by(request)
    limits = {"steps": config.limits.max_steps, "oversample": config.limits.max_oversample}
    for name, value in given.items():
        kind = name.rpartition("_")[2]
        if kind in limits and isinstance(value, int) and value > limits[kind]:
            raise BadInput(f"{name} = {value}: limits.max_{kind} is {limits[kind]}")
    return found

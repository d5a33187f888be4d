"""The options of `splatgate generate` for the sampler settings, one for each setting of app/samplers.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from app.bounds import OVERSAMPLE
from app.cli import Within
from app.config import Config
from app.errors import BadInput
from app.sampler_request import requested_samplers
from app.samplers import BOUNDS, PRESETS, SamplerSettings

MEANINGS = {
    "steps": "Steps of the {} sampler.",
    "guidance": "Guidance scale of the {} sampler.",
    "interval": "Times at which guidance applies to the {}, low and high.",
    "rescale": "Above 1, more of the {} steps are near the noise.",
}
NAMES = ("preset", *BOUNDS, "oversample")


def sampler_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options, and passes the command a Config with those that were given. Goes below `configured`."""

    @wraps(command)
    def run(config: Config, /, **options: Any) -> None:
        given = {name: value for name in NAMES if (value := options.pop(name)) is not None}
        found = requested_samplers(_settings(given), config)
        trellis = config.trellis.model_copy(update=dict(found))
        command(config.model_copy(update={"trellis": trellis}), **options)

    decorated: Callable[..., None] = run
    for name in reversed(NAMES):
        decorated = _option(name)(decorated)
    return decorated


def _settings(given: dict[str, Any]) -> SamplerSettings:
    try:
        return SamplerSettings(**given)
    except ValidationError as error:  # an interval from high to low
        problem = error.errors(include_url=False)[0]
        option = str(problem["loc"][0]).replace("_", "-")
        raise BadInput(f"--{option}: {problem['msg'].removeprefix('Value error, ')}") from None


def _option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    if name == "preset":
        return click.option("--preset", type=click.Choice(list(PRESETS)), help="Sampler settings by name.")
    if name == "oversample":
        return click.option("--oversample", type=Within(OVERSAMPLE), help="Structures to sample; the smallest goes on.")
    stage, _, setting = name.partition("_")
    return click.option(
        f"--{stage}-{setting}",
        type=Within(BOUNDS[name]),
        nargs=2 if setting == "interval" else 1,
        help=MEANINGS[setting].format(stage),
    )

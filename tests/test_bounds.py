"""Bounds are declared once, and every place that checks them uses the same values."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import click
import pytest
from pydantic import TypeAdapter, ValidationError

from app import bounds
from app.bounds import Bounds
from app.cli import Within
from app.config import Config
from app.errors import BadInput
from app.jobs.job_request import BOUNDS, check
from app.jobs.records import JobRequest
from app.samplers import BOUNDS as SAMPLERS
from app.samplers import SamplerSettings

ALL = {name: value for name, value in vars(bounds).items() if isinstance(value, Bounds)}
EDGES = (-1, 0, 1, 2, 16, 63, 64, 65, 99, 100, 101, 2047, 2048, 2049, 65_535, 65_536, 2**32 - 1, 2**32, 0.5, 60.5)


@pytest.mark.parametrize("name", ALL)
def test_field_and_option_agree_with_the_bounds(name: str) -> None:
    line = ALL[name]
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[int if line.whole else float, line.field()])
    for value in (*EDGES, line.low, line.high):
        assert _accepts(lambda v=value: adapter.validate_python(v), ValidationError) == (value in line), value
        assert _accepts(lambda v=value: Within(line).convert(str(v), None, None), click.UsageError) == (value in line)


@pytest.mark.parametrize("name", BOUNDS)
def test_jobs_have_the_same_bounds(name: str) -> None:
    line = BOUNDS[name]
    for value in (*EDGES, line.low, line.high):
        order = replace(JobRequest(prompt="a blue rocket"), **{name: value})
        assert _accepts(lambda o=order: check(o, None, Config()), BadInput) == (value in line), value


@pytest.mark.parametrize("name", SAMPLERS)
def test_configuration_and_orders_hold_sampler_settings_to_the_same_bounds(name: str) -> None:
    line, profile = SAMPLERS[name], {"profile": {"name": "full"}}
    for value in (*EDGES, line.low, line.high, 0.25, "7", None, True, float("nan"), float("inf")):
        given = {name: [value, value] if name.endswith("interval") else value}
        allowed = value in line
        assert _accepts(lambda g=given: Config.model_validate({"trellis": g}), ValidationError) == allowed, value
        order = JobRequest(prompt="a blue rocket", trellis=given)
        assert (
            _accepts(lambda o=order: check(o, None, Config.model_validate(profile)), (BadInput, ValidationError))
            == allowed
        )


def test_an_interval_has_two_ends_in_order() -> None:
    for wrong in ([0.9, 0.1], [0.1], [0.1, 0.2, 0.3], 0.5, "0.1, 0.5", {}, []):
        with pytest.raises(ValidationError, match="low <= high"):
            SamplerSettings.model_validate({"latent_interval": wrong})
    assert SamplerSettings.model_validate({"latent_interval": [0.5, 0.5]}).latent_interval == (0.5, 0.5)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (bounds.SEED, "a whole number from 0 to 4294967295"),
        (bounds.VIDEO_SIZE, "an even number from 64 to 2048"),
        (bounds.FOV, "a number from 1 to 170"),
        (bounds.RADIUS, "a number above 0, at most 90"),
    ],
)
def test_the_bounds_in_words(line: Bounds, words: str) -> None:
    assert str(line) == words


def test_a_truth_value_is_no_number() -> None:
    assert True not in bounds.ATTEMPTS


def _accepts(call: Any, refusal: type[Exception] | tuple[type[Exception], ...]) -> bool:
    try:
        call()
    except refusal:
        return False
    return True

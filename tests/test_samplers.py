"""Sampler settings: presets, precedence, and the limits for callers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from app import pipeline
from app.config import Config
from app.errors import BadInput, BadWeights
from app.jobs.assets import Assets
from app.jobs.job_request import check
from app.jobs.job_store import JobStore
from app.jobs.progress import Progress
from app.jobs.records import JobRequest
from app.jobs.steps import DrawResult, Steps
from app.pipeline import Stages
from app.sampler_request import requested_samplers
from app.samplers import PRESETS, SamplerSettings
from app.trellis.samplers import SamplerParams, Sampling, read_sampler

PUBLISHED = Sampling(SamplerParams(25, 7.5, (0.5, 1.0), 3.0), SamplerParams(25, 3.0, (0.5, 1.0), 3.0))


def full(**trellis: Any) -> Config:
    return Config.model_validate({"profile": {"name": "full"}, "trellis": trellis})


def sampling(config: Config, **request: Any) -> Sampling:
    settings = requested_samplers(SamplerSettings.model_validate(request), config)
    return PUBLISHED.changed(settings.values(), settings.oversample)


def test_without_settings_the_published_ones_are_used() -> None:
    assert sampling(full()) == PUBLISHED
    assert sampling(full(preset="app"), preset="published") == PUBLISHED


def test_the_preset_app_changes_steps_and_guidance_only() -> None:
    found = sampling(full(preset="app"))
    assert found.structure == SamplerParams(12, 7.5, (0.5, 1.0), 3.0)
    assert found.latent == SamplerParams(12, 3.0, (0.5, 1.0), 3.0)


def test_the_preset_few_step_does_not_depend_on_what_was_published() -> None:
    found = sampling(full(), preset="few-step")
    assert found.structure == SamplerParams(2, 5.0, (0.5, 1.0), 1.0)
    assert found.latent == SamplerParams(2, 1.0, (0.5, 1.0), 1.0)


def test_explicit_values_override_the_preset() -> None:
    found = sampling(full(preset="app", structure_guidance=9.0, latent_interval=[0.2, 0.8], oversample=3))
    assert found == Sampling(SamplerParams(12, 9.0, (0.5, 1.0), 3.0), SamplerParams(12, 3.0, (0.2, 0.8), 3.0), 3)


def test_a_request_overrides_single_values_and_its_preset_overrides_them_all() -> None:
    config = full(preset="app", structure_guidance=9.0, oversample=3)
    found = sampling(config, latent_steps=40)
    assert (found.structure.cfg_strength, found.latent.steps, found.oversample) == (9.0, 40, 3)
    found = sampling(config, preset="published", latent_steps=40)
    assert found == replace(PUBLISHED, latent=replace(PUBLISHED.latent, steps=40))
    assert sampling(config, structure_guidance="preset").structure.cfg_strength == 7.5


def test_limits_bound_what_a_caller_asks_for_and_not_what_is_configured() -> None:
    config = Config.model_validate(
        {
            "profile": {"name": "full"},
            "limits": {"max_steps": 30, "max_oversample": 2},
            "trellis": {"structure_steps": 100, "oversample": 4},
        }
    )
    assert sampling(config, latent_steps=30).structure.steps == 100
    for name, value, limit in (("structure_steps", 31, 30), ("latent_steps", 200, 30), ("oversample", 3, 2)):
        with pytest.raises(BadInput, match=rf"{name} = {value}: limits.max_\w+ is {limit}"):
            sampling(config, **{name: value})


def test_a_profile_without_samplers_takes_no_settings() -> None:
    requested_samplers(SamplerSettings(), Config())
    with pytest.raises(BadInput, match="profile 'shapes' has no samplers"):
        requested_samplers(SamplerSettings(preset="app"), Config())


def test_jobs_that_sample_nothing_take_no_settings() -> None:
    order = JobRequest(kind="turntable", source="0" * 32, trellis={"preset": "app"})
    with pytest.raises(BadInput, match="a turntable job samples nothing"):
        check(order, None, full())


def test_an_engine_samples_as_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    job = SimpleNamespace(prompt="a blue rocket", seed=5, trellis={"latent_steps": 9, "latent_interval": [0.2, 0.4]})
    progress = SimpleNamespace(claim=SimpleNamespace(job=job), on_stage=lambda _attempt: None)
    steps = Steps(full(), cast(Stages, None), cast(JobStore, None), cast(Assets, None))
    monkeypatch.setattr(pipeline, "build", lambda request, *_: request)
    request = cast(Any, steps._build(cast(Progress, progress), 1, DrawResult()))
    assert request.samplers == SamplerSettings(latent_steps=9, latent_interval=(0.2, 0.4))
    assert request.samplers.given == job.trellis


def test_orders_without_settings_keep_the_digest_of_earlier_releases() -> None:
    """An Idempotency-Key that was used before an upgrade finds its job after it."""
    known = "3a08822eb7447a7294843547d04fb700e18ff736549ba2e8ea6f2df29e071efa"
    assert JobRequest(prompt="a blue rocket", seed=1).digest() == known
    assert JobRequest(prompt="a blue rocket", seed=1, trellis={"preset": "app"}).digest() != known


def test_every_preset_is_within_the_bounds() -> None:
    for name, values in PRESETS.items():
        SamplerSettings.model_validate({"preset": name, **values})
    with pytest.raises(ValidationError):
        SamplerSettings.model_validate({"preset": "best"})


@pytest.mark.parametrize(
    "params", [{"steps": 0}, {"steps": 10**9}, {"cfg_strength": -1.0}, {"rescale_t": 0}, {"cfg_interval": [0, 2]}]
)
def test_a_pipeline_json_out_of_the_bounds_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(BadWeights, match=next(iter(params))):
        read_sampler({"name": "FlowEulerGuidanceIntervalSampler", "params": params})

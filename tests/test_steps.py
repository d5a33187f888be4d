"""The steps of a job: what one has made is at hand for the next, and in the store for an engine that takes over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from app import outputs, pipeline
from app.config import Config
from app.jobs.assets import Assets
from app.jobs.job_store import JobStore
from app.jobs.progress import Progress
from app.jobs.steps import Steps
from app.pipeline import Stages
from app.stages.picture import Picture


def drawn_by_a_model() -> Picture:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return Picture(Image.fromarray(pixels), 7, "painter")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"profile": {"name": "full"}, "serve": {"data": str(tmp_path)}})


@pytest.fixture
def progress() -> Progress:
    job = SimpleNamespace(id="1" * 32, prompt="a blue rocket", seed=7, trellis={})
    claim = SimpleNamespace(job=job, folder=lambda attempt: f"{job.id}/{attempt}")
    return cast(
        Progress, SimpleNamespace(claim=claim, on_stage=lambda _: lambda _: None, on_step=lambda _: lambda *_: None)
    )


def steps_of(config: Config) -> Steps:
    generator = SimpleNamespace(draw=lambda *_: drawn_by_a_model())
    store = SimpleNamespace(find_file=lambda *_: None)
    return Steps(config, cast(Stages, SimpleNamespace(generator=generator)), cast(JobStore, store), Assets(config))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """The pictures that splats were built of."""
    pictures: list[Picture] = []
    monkeypatch.setattr(pipeline, "build", lambda _request, picture, *_: pictures.append(picture))
    return pictures


def test_a_drawn_picture_is_neither_read_nor_decoded_nor_encoded_again(
    config: Config, progress: Progress, built: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = steps_of(config)
    drawn = here.draw(progress, 1)
    monkeypatch.setattr(here.assets, "read", lambda _path: pytest.fail("read"))
    monkeypatch.setattr(outputs, "encode_png", lambda _image: pytest.fail("encoded"))
    here._build(progress, 1, drawn)
    assert np.array_equal(built[0].image, drawn_by_a_model().image)
    assert drawn.picture
    assert outputs._write_source_picture(tmp_path, built[0]).sha256 == drawn.picture.sha256
    assert here._drawn is None, "its memory is free"


def test_another_engine_builds_of_the_stored_picture_and_certifies_the_same_file(
    config: Config, progress: Progress, built: list[Picture], tmp_path: Path
) -> None:
    drawn = steps_of(config).draw(progress, 1)
    steps_of(config)._build(progress, 1, drawn)
    assert np.array_equal(built[0].image, drawn_by_a_model().image)
    assert (built[0].seed, built[0].model) == (7, "painter")
    assert drawn.picture
    assert outputs._write_source_picture(tmp_path, built[0]).sha256 == drawn.picture.sha256


def test_a_picture_of_another_attempt_is_not_mistaken_for_this_one(
    config: Config, progress: Progress, built: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = steps_of(config)
    first = here.draw(progress, 1)
    here.draw(progress, 2)
    read: list[str] = []
    whole = here.assets.read
    monkeypatch.setattr(here.assets, "read", lambda path: read.append(path) or whole(path))
    here._build(progress, 1, first)
    assert first.picture
    assert read == [first.picture.path]
    assert len(built) == 1

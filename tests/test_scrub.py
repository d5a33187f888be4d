"""Stored files are read again now and then; one that has changed is no longer served."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from test_jobs import DONE, begun, job_store

from app.config import Config
from app.errors import StorageDown, Unavailable
from app.jobs.assets import Assets, Stored
from app.jobs.client import Jobs
from app.jobs.facts import read_warnings
from app.jobs.listing import Listing
from app.jobs.scrub import BYTES_AT_ONCE, HOUR, WEEK, Scrub
from app.web import create_app


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with closing(Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))) as opened:
        yield opened


def finished(jobs: Jobs, data: bytes) -> Path:
    """The file of a job that has ended."""
    claim = begun(jobs)
    path = f"{claim.folder(1)}/asset.ply"
    jobs.assets.put(path, data)
    file = Stored("asset.ply", path, len(data), hashlib.sha256(data).hexdigest())
    job_store(jobs).end(claim, replace(DONE, files=(file,)))
    return Path(jobs.assets.root) / path


def scrub(jobs: Jobs, after: float = WEEK + 60) -> int:
    """A check by a clock that is so many seconds ahead."""
    return Scrub(jobs.store, jobs.assets, lambda: time.time() + after).run()


def get(jobs: Jobs, file: Path) -> object:
    client: FlaskClient = create_app(jobs.config, jobs).test_client()
    return client.get(f"/v1/jobs/{file.parent.parent.name}/asset.ply")


@pytest.mark.parametrize("damage", [b"s0me bytes", b"some byte", b"", None])
def test_a_file_that_has_changed_is_an_error_and_not_served_under_its_etag(jobs: Jobs, damage: bytes | None) -> None:
    good, bad = finished(jobs, b"other bytes"), finished(jobs, b"some bytes")
    bad.write_bytes(damage) if damage is not None else bad.unlink()
    assert scrub(jobs) == 2
    answer = get(jobs, bad)
    assert (answer.status_code, "ETag" in answer.headers) == (503, False)
    assert get(jobs, good).data == b"other bytes"
    assert any(bad.parent.parent.name in text for text in read_warnings(jobs.store).values())


def test_a_damaged_file_that_was_restored_is_served_again(jobs: Jobs) -> None:
    bad = finished(jobs, b"some bytes")
    bad.write_bytes(b"s0me bytes")
    scrub(jobs)
    bad.write_bytes(b"some bytes")
    assert scrub(jobs, WEEK + 120) == 0, "not again at once"
    assert scrub(jobs, WEEK + 120 + HOUR) == 1
    assert get(jobs, bad).data == b"some bytes"
    assert not any(read_warnings(jobs.store).values())


def test_a_file_is_read_once_a_week(jobs: Jobs) -> None:
    finished(jobs, b"some bytes")
    ahead = (0, WEEK - 60, WEEK + 60, WEEK + 120, 2 * WEEK + 120)
    assert [scrub(jobs, seconds) for seconds in ahead] == [0, 0, 1, 0, 1]


def test_a_call_reads_a_few_megabytes_and_the_next_call_goes_on(jobs: Jobs) -> None:
    for _ in range(3):
        finished(jobs, bytes(BYTES_AT_ONCE // 2 + 1))
    assert [scrub(jobs) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("down", [True, False])
def test_a_store_that_is_away_is_no_damage_and_a_sector_that_cannot_be_read_is(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    finished(jobs, b"some bytes")
    monkeypatch.setattr(Assets, "describe", _fails)
    monkeypatch.setattr(Assets, "is_down", lambda _self: down)
    if down:
        with pytest.raises(StorageDown):
            scrub(jobs)
    else:
        assert scrub(jobs) == 1
        with pytest.raises(Unavailable):
            jobs.open_asset(jobs.list_jobs(Listing(), 1)[0].id, "asset.ply")
    assert bool(any(read_warnings(jobs.store).values())) is not down


def _fails(*_: object) -> None:
    raise StorageDown("assets: input/output error")

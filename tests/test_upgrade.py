"""A data folder of an earlier release opens, and its jobs continue. scripts/make_old_data made tests/data."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hosts import client, host, settings

from app.config import Config
from app.jobs import tables
from app.jobs.listing import Listing
from app.jobs.records import JobRequest

RELEASES = sorted((Path(__file__).parent / "data").glob("*.sql"))
ENDED, CUT = "a red cube", "a brown table next to a red rocket"


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """The data folder of that release, as its processes left it when they were killed."""
    script = request.param.read_text()
    with closing(sqlite3.connect(tmp_path / "splatgate.db")) as database:
        database.executescript(script)
    node = next(line for line in script.splitlines() if line.startswith("-- node"))
    (tmp_path / "node").write_text(node.split()[-1])
    return settings(tmp_path, validate={"threshold": 0.25, "min_gaussians": 1_000}, assets={"keep_days": 100_000})


def test_the_jobs_of_an_earlier_release_are_there_as_they_were(upgraded: Config) -> None:
    with client(upgraded) as jobs:
        by_state = {state: jobs.list_jobs(Listing(states=(state,)), 9) for state in ("DONE", "RUNNING", "QUEUED")}
        assert [(job.prompt, job.outcome) for job in by_state["DONE"]] == [(ENDED, "passed")]
        assert [(job.prompt, job.attempt) for job in by_state["RUNNING"]] == [(CUT, 2)]
        waiting = sorted(by_state["QUEUED"], key=lambda job: jobs.forecasts()[job.id].position or 0)
        assert [job.priority for job in waiting] == [1, 10, 10, 50]
        assert [engine.name for engine in jobs.engines()] == [by_state["RUNNING"][0].engine]


@pytest.mark.e2e
def test_the_jobs_of_an_earlier_release_continue_in_their_order(upgraded: Config) -> None:
    """The running job continues after its first attempt, which its engine had finished."""
    with client(upgraded) as jobs, host(upgraded) as here:
        (cut,), waiting = (jobs.list_jobs(Listing(states=(state,)), 9) for state in ("RUNNING", "QUEUED"))
        waiting.sort(key=lambda job: jobs.forecasts()[job.id].position or 0)
        here.start_ready()
        new = jobs.submit(JobRequest(prompt="a blue rocket"))
        ended = [jobs.wait(job.id, 300) for job in (cut, *waiting, new)]
        assert {job.state for job in ended} == {"DONE"}, here.log
        begun = sorted(ended, key=lambda job: job.started or 0)
        # the one that was cut off has the lowest sequence of priority 10, and the new one the highest
        expected = [waiting[0], cut, waiting[1], waiting[2], new, waiting[3]]
        assert [job.id for job in begun] == [job.id for job in expected]
        built = [line for line in here.log.splitlines() if f"job={cut.id} [1/4] Building the splat" in line]
        assert (len(built), jobs.get(cut.id).attempt) == (1, 2)
        with jobs.store.reading() as connection:
            starts = connection.scalar(sa.select(tables.jobs.c.starts).where(tables.jobs.c.id == cut.id))
        assert (starts, len(jobs.statistics.results(0))) == (2, 7)

"""Who is next: callers get equal shares, and the jobs of one caller run in the order of their submission."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_jobs import finished, job_store

from app.config import Config
from app.jobs.client import Jobs
from app.jobs.listing import Listing
from app.jobs.records import Job, JobRequest

ROCKET = JobRequest(prompt="a blue rocket")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with closing(Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))) as opened:
        yield opened


def submit(jobs: Jobs, callers: str, request: JobRequest = ROCKET) -> list[str]:
    """A job for each letter, which is the name of its caller."""
    return [jobs.submit(request, owner=caller).id for caller in callers]


def order(jobs: Jobs) -> str:
    """The callers of the waiting jobs, the next first."""
    return "".join(job.owner or "-" for job in waiting(jobs))


def waiting(jobs: Jobs) -> list[Job]:
    return list(jobs.list_jobs(Listing(states=("QUEUED",), order="queue"), 1_000))


def begin(jobs: Jobs) -> None:
    assert job_store(jobs, "one").claim(waiting(jobs)[0].id)


@pytest.mark.parametrize(
    ("submitted", "run"),
    [("aaaaaab", "abaaaaa"), ("aaabbbc", "abcabab"), ("aaaabcd", "abcdaaa"), ("------", "------"), ("aaa-b", "a-baa")],
)
def test_callers_take_turns(jobs: Jobs, submitted: str, run: str) -> None:
    for caller in submitted:
        jobs.submit(ROCKET, owner=None if caller == "-" else caller)
    assert order(jobs) == run


def test_a_newcomer_waits_for_one_job_of_each_other_however_long_they_have_queued(jobs: Jobs) -> None:
    submit(jobs, "a" * 20)
    for _ in range(5):
        begin(jobs)
    submit(jobs, "b")
    assert order(jobs)[:2] == "ab"
    submit(jobs, "bbc")
    assert order(jobs)[:6] == "abcabab"[:6]


def test_whoever_was_away_has_saved_nothing_up(jobs: Jobs) -> None:
    submit(jobs, "b")
    begin(jobs)
    submit(jobs, "aaaa")
    for _ in range(3):
        begin(jobs)
    submit(jobs, "bbb")
    assert order(jobs) == "abbb"


def test_a_large_film_waits_for_small_jobs_of_others_but_not_for_ever(jobs: Jobs) -> None:
    source = finished(jobs, 10)
    submit(jobs, "c")
    begin(jobs)
    submit(jobs, "a", JobRequest(kind="turntable", source=source, size=1_024))  # as much as four splats
    submit(jobs, "b" * 9)
    assert order(jobs) == "bbbabbbbbb"


def test_attempts_are_charged(jobs: Jobs) -> None:
    submit(jobs, "c")
    begin(jobs)
    submit(jobs, "aa", JobRequest(prompt="a blue rocket", attempts=3))
    submit(jobs, "bbbbbbb")
    assert order(jobs) == "bbabbbabb"


def test_a_priority_is_a_queue_of_its_own(jobs: Jobs) -> None:
    submit(jobs, "aaa")
    submit(jobs, "aab", JobRequest(prompt="a blue rocket", priority=1))
    submit(jobs, "b")
    assert order(jobs) == "aba" + "abaa"


@settings(max_examples=5, deadline=None)  # each makes a database
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), min_size=8, max_size=12))
def test_the_jobs_of_a_caller_keep_their_order_and_no_two_have_one_rank(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, bool]]
) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path_factory.mktemp("fair"))}})
    with closing(Jobs(config)) as jobs:
        submitted: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        begun: list[str] = []
        for caller, attempts, begins in steps:
            request = JobRequest(prompt="a blue rocket", attempts=attempts)
            submitted[caller].append(jobs.submit(request, owner=caller).id)
            if begins:
                begun.append(waiting(jobs)[0].id)
                begin(jobs)
        found = waiting(jobs)
        assert len({job.sequence for job in found}) == len(found)
        run = begun + [job.id for job in found]
        for ids in submitted.values():
            assert [id for id in run if id in ids] == ids

"""The cache of feedback reports: one computation for all requests, until something changes or a minute has passed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.feedback import report_cache
from app.feedback.report_cache import ReportCache


class Source:
    def __init__(self) -> None:
        self.computed = 0

    def __call__(self) -> int:
        self.computed += 1
        return self.computed


def test_a_value_is_computed_again_for_another_key_another_version_or_after_a_minute() -> None:
    now, source = [0.0], Source()
    cache: ReportCache[int] = ReportCache(lambda: now[0])
    assert [cache.get("a", (1, 1), source) for _ in range(3)] == [1, 1, 1]
    assert cache.get("b", (1, 1), source) == 2
    assert cache.get("a", (2, 2), source) == 3
    now[0] = report_cache.SECONDS
    assert cache.get("a", (2, 2), source) == 4


def test_the_cache_does_not_grow() -> None:
    cache, source = ReportCache[int](), Source()
    for key in range(100):
        cache.get(key, (1, 1), source)
    assert source.computed == 100
    assert cache.get(99, (1, 1), source) == 100
    assert cache.get(0, (1, 1), source) == 101, "the oldest is gone"


def test_concurrent_requests_share_one_computation() -> None:
    cache, source, began, go = ReportCache[int](), Source(), threading.Event(), threading.Event()

    def slow() -> int:
        began.set()
        assert go.wait(30)
        return source()

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(cache.get, "a", (1, 1), slow) for _ in range(8)]
        assert began.wait(30)
        go.set()
        assert {answer.result() for answer in answers} == {1}


def test_a_failure_is_not_kept() -> None:
    cache, source = ReportCache[int](), Source()

    def fails() -> int:
        raise ValueError("no report")

    with pytest.raises(ValueError, match="no report"):
        cache.get("a", (1, 1), fails)
    assert cache.get("a", (1, 1), source) == 1

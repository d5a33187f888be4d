"""What a starting engine reports: what it reads, how far it is, that it waits for models; and where it shows."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hosts import client, host, settings
from service import PATIENCE, wait_until

from app.config import Config
from app.jobs.heartbeats import Heartbeat
from app.jobs.records import Engine
from app.jobs.store import Store
from app.load_progress import LoadProgress
from app.web import create_app
from app.weights.lock import Lock, write_lock

GB = 1_000_000_000


class Listener:
    """Collects the reports, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[dict[str, object]] = []
        self.progress = LoadProgress(lambda **words: self.said.append(words), lambda: self.now)


def test_progress_is_reported_once_a_second_and_a_new_step_at_once() -> None:
    listener = Listener()
    for _ in range(30):
        listener.progress("verifying u2net", GB, 40 * GB)
        listener.now += 0.25
    listener.progress("loading u2net", 0, 176_000_000)
    assert [words["why"] for words in listener.said] == [
        *(f"verifying u2net, {done}.0 GB of 40.0 GB" for done in (1, 5, 9, 13, 17, 21, 25, 29)),
        "loading u2net, 176 MB",
    ]
    assert listener.said[-1] == {"why": "loading u2net, 176 MB", "progress": None, "eta": None}


def test_the_time_left_follows_the_rate_and_is_unknown_before_there_is_one() -> None:
    listener = Listener()
    for _ in range(11):
        listener.progress("verifying FLUX.1-schnell", 2 * GB, 40 * GB)
        listener.now += 1
    assert [words["eta"] for words in listener.said[:3]] == [None] * 3
    last = listener.said[-1]
    assert (last["progress"], last["eta"]) == (22 / 40, 18 * 10 / 22)


def test_bytes_that_were_there_before_do_not_count_for_the_rate() -> None:
    listener = Listener()
    for done in (30, 30, 30, 30, 31, 32):
        listener.progress.set("models are missing", done * GB, 40 * GB)
        listener.now += 1
    assert [words["eta"] for words in listener.said] == [None, None, None, None, 9 * 4 / 1, 8 * 5 / 2]


def test_more_than_was_announced_is_not_over_the_whole() -> None:
    listener = Listener()
    for _ in range(6):
        listener.progress("verifying mine", 10 * GB, 40 * GB)
        listener.now += 1
    assert (listener.said[-1]["progress"], listener.said[-1]["eta"]) == (1.0, 0.0)


def test_threads_that_hash_at_once_lose_no_byte() -> None:
    listener = Listener()
    threads = [
        threading.Thread(target=lambda: [listener.progress("verifying u2net", 1, 40_000) for _ in range(10_000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.now += 1
    listener.progress("verifying u2net", 0, 40_000)
    assert listener.said[-1]["progress"] == 1.0


@pytest.mark.e2e
def test_an_engine_without_models_waits_names_the_command_and_continues_when_they_are_there(tmp_path: Path) -> None:
    """Its models come from a copy of another host's folder here; that they are none it can load ends the test."""
    folder = tmp_path / "models"
    patient = {"lost_after_seconds": 3_600}
    config = settings(tmp_path, profile={"name": "full"}, models={"folder": str(folder)}, jobs=patient)
    with host(config) as here, client(config) as jobs:
        process = here.start()
        wait_until(
            lambda: any("models are missing" in engine.why for engine in jobs.engines()), "it says what it lacks"
        )
        (engine,) = jobs.engines()
        assert engine.state == "STARTING"
        assert "`splatgate models fetch FLUX.1-schnell u2net TRELLIS-image-large" in engine.why
        assert engine.why.endswith("fetches them, 39.5 GB")
        assert "licence apache-2.0, from black-forest-labs/FLUX.1-schnell; gated" in here.log

        part = folder / "u2net" / ".parts" / "u2net.onnx.0123"
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(50_000_000))
        wait_until(lambda: "50 MB of 39.5 GB" in jobs.engines()[0].why, "it says what has arrived")
        assert process.is_alive()

        write_lock(folder, Lock(models=_all_locked(config)))
        process.join(PATIENCE)
        (engine,) = jobs.engines()
        assert (process.exitcode, engine.state) == (72, "FAILED")
        assert "is missing; run `splatgate models fetch FLUX.1-schnell`" in engine.why


def test_readyz_reports_the_progress(tmp_path: Path) -> None:
    config = settings(tmp_path, jobs={"lost_after_seconds": 3_600})
    with closing(Store(config)) as store, client(config) as jobs:
        report = Heartbeat(store, starting_engine(), time.time)
        said = LoadProgress(report.beat, iter([0.0, 0.0, 5.0]).__next__)
        for _ in range(2):
            said("verifying FLUX.1-schnell", 6_150_000_000, 33_700_000_000)
        web = create_app(config, jobs).test_client()
        answer = web.get("/readyz")
        assert answer.status_code == 503
        assert answer.json["why"].endswith(
            "is STARTING: verifying FLUX.1-schnell, 12.3 GB of 33.7 GB, about 9 s left"  # 21.4 GB at 2.46 GB/s
        )
        assert answer.json["engines"][0]["progress"] == pytest.approx(12.3 / 33.7)
        metrics = web.get("/metrics").text
        assert 'splatgate_engine_start_progress{engine="e"} 0.36' in metrics


def starting_engine() -> Engine:
    now = time.time()
    places = {
        "id": "1",
        "name": "e",
        "host": "here",
        "pid": 1,
        "device": "CPU",
        "state": "STARTING",
        "why": "",
        "job": None,
    }
    unknown = dict.fromkeys(("progress", "eta", "memory_used", "memory_total"))
    return Engine(**places, **unknown, heartbeat=now, started=now)


def _all_locked(config: Config) -> dict[str, object]:
    """Every needed model in the lock, with a file that is not there."""
    from app.weights.lock import LockedFile, LockedModel
    from app.weights.manifest import needed

    file = {"config.json": LockedFile(sha256="0" * 64, bytes=2)}
    return {
        model.name: LockedModel(repository=model.repository, commit=model.revision, licence=model.licence, files=file)
        for model in needed(config)
    }

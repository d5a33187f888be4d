"""Results are not deleted after the database was lost, restored or swapped, nor because the clock jumped ahead."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hosts import client, settings, sqlite_file

from app.commands.main import main
from app.config import Config
from app.errors import BadFile
from app.jobs.adoption import adopt, find_result
from app.jobs.client import Jobs
from app.jobs.clock_guard import DAY, ClockGuard
from app.jobs.facts import read_warnings
from app.jobs.job_request import new_id
from app.jobs.listing import Listing
from app.jobs.orphans import Orphans
from app.jobs.ownership import MARKER, Ownership
from app.jobs.records import JobRequest
from app.jobs.retention import Retention

__all__ = ["sqlite_file"]  # a fixture

NOW = 1_800_000_000.0
Clock = Callable[[], float]


@pytest.fixture
def config(tmp_path: Path, sqlite_file: Path) -> Config:
    return fresh(tmp_path / "one", sqlite_file, tmp_path / "store")


@pytest.fixture
def jobs(config: Config) -> Iterator[Jobs]:
    with client(config) as opened:
        yield opened


def fresh(folder: Path, empty: Path, store: Path) -> Config:
    """A new database that keeps its assets in `store`."""
    folder.mkdir()
    shutil.copy(empty, folder / "splatgate.db")
    return settings(folder, assets={"url": str(store)})


def orphans(jobs: Jobs, clock: Clock = lambda: NOW) -> Orphans:
    guard = ClockGuard(jobs.store, DAY, clock, lambda: 0.0)
    return Orphans(jobs.store, jobs.assets, jobs.config.assets, clock, guard)


def retention(jobs: Jobs, clock: Clock, guard: ClockGuard, max_gb: float = 50.0) -> Retention:
    limits = jobs.config.assets.model_copy(update={"max_gb": max_gb})
    return Retention(jobs.store, jobs.assets, limits, clock, guard, lambda _ids: None)


def left_behind(jobs: Jobs, count: int = 1, age: float = 7_200.0) -> list[str]:
    """Folders of jobs that no database knows."""
    ids = [new_id(NOW - age) for _ in range(count)]
    for id in ids:
        jobs.assets.put(f"{id}/1/asset.ply", b"ply")
    return ids


def test_a_single_orphan_is_quarantined_for_days_and_then_removed(jobs: Jobs) -> None:
    (id,) = left_behind(jobs)
    assert orphans(jobs).sweep() == 1
    assert (jobs.assets.jobs(), [each.job for each in orphans(jobs).quarantined()]) == ([], [id])
    orphans(jobs, lambda: NOW + 0.5 * DAY).sweep()
    assert len(orphans(jobs).quarantined()) == 1
    for day in range(1, 9):  # the service runs all the while: the clock does not jump
        orphans(jobs, lambda day=day: NOW + day * DAY).sweep()  # type: ignore[misc]
    assert orphans(jobs).quarantined() == []
    assert {(each.what, each.count) for each in jobs.statistics.stats().tallies} == {("quarantine", 1)}


def test_a_folder_that_may_still_be_written_to_is_left_alone(jobs: Jobs) -> None:
    left_behind(jobs, age=60)
    assert orphans(jobs).sweep() == 0
    assert len(jobs.assets.jobs()) == 1


@pytest.mark.parametrize("count", [3, 40])
def test_many_orphans_at_once_are_left_alone_and_reported(jobs: Jobs, count: int) -> None:
    ids = left_behind(jobs, count)
    assert orphans(jobs).sweep() == 0
    assert set(jobs.assets.jobs()) == set(ids)
    assert f"does not know {count} of the {count} folders" in read_warnings(jobs.store)["orphans"]
    for id in ids[2:]:
        jobs.assets.remove(id)
    assert orphans(jobs).sweep() == 2
    assert read_warnings(jobs.store) == {}


def test_a_second_deployment_on_the_same_store_removes_nothing(jobs: Jobs, tmp_path: Path, sqlite_file: Path) -> None:
    orphans(jobs).sweep()  # the store belongs to the first database now
    (theirs,) = left_behind(jobs)
    with client(fresh(tmp_path / "two", sqlite_file, tmp_path / "store")) as other:
        assert orphans(other).sweep() == 0
        assert "belongs to another database" in read_warnings(other.store)["orphans"]
        assert other.assets.jobs() == [theirs]


def test_an_older_backup_of_the_database_removes_nothing(jobs: Jobs, tmp_path: Path) -> None:
    orphans(jobs).sweep()
    backup = shutil.copytree(tmp_path / "one", tmp_path / "restored")
    orphans(jobs).sweep()
    (newer,) = left_behind(jobs)
    with client(settings(backup, assets={"url": str(tmp_path / "store")})) as restored:
        assert orphans(restored).sweep() == 0
        assert "older backup was restored" in read_warnings(restored.store)["orphans"]
        assert restored.assets.jobs() == [newer]


def test_a_damaged_marker_stops_the_sweep(jobs: Jobs) -> None:
    left_behind(jobs)
    for damaged in (b"", b"[]", b"{}", b'{"database": "x", "generation": "many"}', b"\xff"):
        jobs.assets.put(MARKER, damaged)
        assert orphans(jobs).sweep() == 0
        assert "is damaged" in read_warnings(jobs.store)["orphans"]


def test_a_clock_that_jumps_ahead_deletes_nothing_until_it_had_time_to_be_corrected(jobs: Jobs) -> None:
    now = NOW
    guard = ClockGuard(jobs.store, DAY, lambda: now, lambda: now - NOW if now < NOW + DAY else 0.0)
    assert guard.trusted()
    now += 40 * DAY
    assert not guard.trusted()
    again = ClockGuard(jobs.store, DAY, lambda: now + 600, lambda: 0.0)
    assert not again.trusted(), "a restart does not end the wait"
    assert "clock" in read_warnings(jobs.store)
    assert ClockGuard(jobs.store, DAY, lambda: NOW + 60, lambda: 0.0).trusted(), "the clock was corrected"
    assert read_warnings(jobs.store) == {}


def test_a_clock_that_stays_ahead_is_trusted_after_the_wait(jobs: Jobs) -> None:
    assert ClockGuard(jobs.store, DAY, lambda: NOW, lambda: 0.0).trusted()
    assert not ClockGuard(jobs.store, DAY, lambda: NOW + 3 * DAY, lambda: 0.0).trusted()
    assert not ClockGuard(jobs.store, DAY, lambda: NOW + 3.9 * DAY, lambda: 0.0).trusted()
    assert ClockGuard(jobs.store, DAY, lambda: NOW + 4.1 * DAY, lambda: 0.0).trusted()


def test_results_are_not_deleted_by_age_while_the_clock_is_in_doubt(jobs: Jobs) -> None:
    start = time.time()
    job = jobs.submit(JobRequest(prompt="a blue rocket"))
    jobs.cancel(job.id)

    def sweep(days: float) -> int:
        guard = ClockGuard(jobs.store, DAY, lambda: start + days * DAY, lambda: 0.0)
        return retention(jobs, lambda: start + days * DAY, guard).sweep()

    assert sweep(0) == 0
    assert sweep(40) == 0
    assert jobs.get(job.id).state == "CANCELLED"
    assert sweep(40.9) == 0
    assert sweep(41.2) == 1


# ---- splatgate assets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `splatgate generate` writes it, certificate included."""
    folder = tmp_path_factory.mktemp("result")
    small = {"SHAPES__GAUSSIANS": "2000", "VALIDATE__MIN_GAUSSIANS": "1000", "RENDER__SIZE": "64"}
    made = run(["generate", "a blue rocket", "--profile", "shapes", "-o", str(folder / "out"), "--seed", "5"], small)
    assert (folder / "out" / "certificate.json").exists(), made.output
    return folder / "out"


def run(arguments: list[str], variables: dict[str, str]) -> Result:
    environment = {f"SPLATGATE__{name}": value for name, value in variables.items()}
    return CliRunner().invoke(main, arguments, env=environment)


def in_store(jobs: Jobs, result: Path, count: int) -> list[str]:
    ids = [new_id(time.time() - 7_200) for _ in range(count)]
    for id in ids:
        shutil.copytree(result, Path(jobs.assets.root) / id / "1")
    return ids


def command(jobs: Jobs, *arguments: str) -> Result:
    where = {"SERVE__DATA": jobs.config.serve.data, "ASSETS__URL": jobs.config.assets.url}
    return run(["assets", *arguments], where)


def test_results_that_a_new_database_does_not_know_are_adopted(jobs: Jobs, result: Path) -> None:
    ids = in_store(jobs, result, 3)
    assert orphans(jobs, time.time).sweep() == 0
    assert json.loads(command(jobs, "list", "--json").output)["unknown"][0]["job"] == ids[0]
    done = command(jobs, "adopt")
    assert done.output.splitlines()[-1] == "adopted 3 results, left 0 folders"
    job = jobs.get(ids[0])
    assert (job.state, job.prompt, job.seed, job.kind) == ("DONE", "a blue rocket", 5, "generate")
    assert {"asset.ply", "asset.spz", "certificate.json", "views.png"} <= set(job.assets)
    with jobs.open_asset(ids[0], "asset.ply").stream as stream:
        assert stream.read() == (result / "asset.ply").read_bytes()
    assert orphans(jobs, time.time).sweep() == 0
    assert read_warnings(jobs.store) == {}


def test_a_result_whose_files_were_changed_is_not_adopted(jobs: Jobs, result: Path) -> None:
    (id,) = in_store(jobs, result, 1)
    file = Path(jobs.assets.root) / id / "1" / "asset.ply"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadFile, match="not the file that the certificate describes"):
        find_result(jobs.assets, id)
    assert "left 1 folders" in command(jobs, "adopt").output
    assert jobs.list_jobs(Listing(), 9) == []


def test_a_quarantined_result_is_adopted_too(jobs: Jobs, result: Path) -> None:
    (id,) = in_store(jobs, result, 1)
    assert orphans(jobs, time.time).sweep() == 1
    assert "adopted 1 results" in command(jobs, "adopt", id).output
    assert jobs.get(id).outcome == "passed"


def test_a_store_of_another_database_is_adopted_only_on_request(
    jobs: Jobs, result: Path, tmp_path: Path, sqlite_file: Path
) -> None:
    in_store(jobs, result, 1)
    Ownership(jobs.store, jobs.assets).confirm()
    with client(fresh(tmp_path / "two", sqlite_file, tmp_path / "store")) as other:
        for refused in ("adopt", "purge"):
            asked = command(other, refused)
            assert (asked.exit_code, "belongs to another database" in asked.output) == (1, True)
        assert "adopted 1 results" in command(other, "adopt", "--take-over").output
        assert orphans(other).sweep() == 0
    assert orphans(jobs).sweep() == 0
    assert "belongs to another database" in read_warnings(jobs.store)["orphans"]


def test_purge_removes_what_is_quarantined_and_on_request_what_is_unknown(jobs: Jobs) -> None:
    left_behind(jobs, 2)
    orphans(jobs).sweep()
    left_behind(jobs, 3)
    assert command(jobs, "purge").exit_code == 1, "it asks first"
    assert json.loads(command(jobs, "purge", "--yes", "--json").output)["removed"][0].startswith("quarantine/")
    assert len(jobs.assets.jobs()) == 3
    assert "removed 3 folders" in command(jobs, "purge", "--unknown", "--yes").output
    assert jobs.assets.jobs() == []


def test_an_adopted_result_can_be_deleted_like_any_other(jobs: Jobs, result: Path) -> None:
    (id,) = in_store(jobs, result, 1)
    found = find_result(jobs.assets, id)
    assert found
    adopt(jobs.store, found)
    guard = ClockGuard(jobs.store, DAY, time.time)
    assert retention(jobs, time.time, guard, max_gb=1e-6).sweep() == 1
    assert jobs.assets.jobs() == []

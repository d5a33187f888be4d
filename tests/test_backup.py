"""Backups of the database: complete, readable, and no more than requested."""

import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands.main import main
from app.config import Config
from app.errors import Unavailable
from app.jobs.backup import PATTERN, back_up
from app.jobs.client import Jobs
from app.jobs.records import JobRequest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"serve": {"data": str(tmp_path / "data")}})


def test_a_copy_taken_while_the_service_is_open_has_its_jobs(config: Config, tmp_path: Path) -> None:
    jobs = Jobs(config)
    job = jobs.submit(JobRequest(prompt="a red ball"))
    path = back_up(config, tmp_path / "backups", 14, NOW)
    jobs.close()
    assert path.name == "splatgate-20260102T030405Z.db"
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT id, prompt FROM jobs").fetchall() == [(job.id, "a red ball")]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_service_that_starts_from_a_copy_knows_the_job_and_will_run_it(config: Config, tmp_path: Path) -> None:
    jobs = Jobs(config)
    job = jobs.submit(JobRequest(prompt="a red ball"))
    copy = back_up(config, tmp_path / "backups", 14, NOW)
    jobs.close()
    other = Config.model_validate({"serve": {"data": str(tmp_path / "other")}})
    (tmp_path / "other").mkdir()
    copy.replace(tmp_path / "other" / "splatgate.db")
    restored = Jobs(other)
    assert restored.get(job.id).state == "QUEUED"
    assert restored.forecasts()[job.id].position is not None
    restored.close()


def test_a_copy_is_made_in_one_go_while_the_service_commits(config: Config, tmp_path: Path) -> None:
    """A copy made in pieces begins again at every commit, and ends only when the service has nothing to do."""
    jobs = Jobs(config)
    jobs.submit(JobRequest(prompt="a red ball"))
    jobs.close()
    database, over, commits = tmp_path / "data" / "splatgate.db", threading.Event(), []
    with closing(sqlite3.connect(database)) as large, large:
        large.execute("CREATE TABLE large AS SELECT randomblob(40000000) AS bytes")

    def commit() -> None:
        end = time.monotonic() + 20
        with closing(sqlite3.connect(database, timeout=30)) as writer:
            writer.execute("PRAGMA synchronous=OFF")  # as many commits as can be
            while not over.is_set() and time.monotonic() < end:
                with writer:
                    writer.execute("INSERT INTO tallies VALUES ('x', ?, 1)", (str(len(commits)),))
                commits.append(time.monotonic())

    thread = threading.Thread(target=commit)
    thread.start()
    while not commits:
        time.sleep(0.001)
    path = back_up(config, tmp_path / "backups", 14, NOW)
    still_busy = thread.is_alive()
    over.set()
    thread.join()
    assert still_busy, "the copy ended only when nobody committed any more"
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT length(bytes) FROM large").fetchone() == (40_000_000,)


def test_only_the_newest_are_kept(config: Config, tmp_path: Path) -> None:
    jobs = Jobs(config)
    jobs.submit(JobRequest(prompt="a red ball"))
    written = [back_up(config, tmp_path / "backups", 3, NOW + timedelta(days=day)) for day in range(5)]
    jobs.close()
    assert sorted((tmp_path / "backups").glob(PATTERN)) == written[2:]


def test_a_damaged_database_leaves_no_copy_and_keeps_the_older_ones(config: Config, tmp_path: Path) -> None:
    jobs = Jobs(config)
    jobs.submit(JobRequest(prompt="a red ball"))
    jobs.close()
    good = back_up(config, tmp_path / "backups", 1, NOW)
    database = tmp_path / "data" / "splatgate.db"
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(Unavailable, match=r"cannot be written: file is not a database"):
        back_up(config, tmp_path / "backups", 1, NOW + timedelta(days=1))
    assert list((tmp_path / "backups").iterdir()) == [good]


def test_what_cannot_be_backed_up_says_why(tmp_path: Path) -> None:
    nothing = Config.model_validate({"serve": {"data": str(tmp_path)}})
    with pytest.raises(Unavailable, match=r"splatgate\.db: no such database"):
        back_up(nothing, tmp_path, 1, NOW)
    elsewhere = Config.model_validate({"database": {"url": "postgresql://host/name"}})
    with pytest.raises(Unavailable, match="pg_dump"):
        back_up(elsewhere, tmp_path, 1, NOW)


def test_the_command_writes_into_the_data_folder(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(config)
    jobs.submit(JobRequest(prompt="a red ball"))
    jobs.close()
    monkeypatch.setenv("SPLATGATE__SERVE__DATA", str(tmp_path / "data"))
    result = CliRunner().invoke(main, ["backup"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "data" / "backups").glob(PATTERN))) == 1

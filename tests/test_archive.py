"""One archive of database and files: complete, restored as a whole or not at all."""

import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from service import FAST, engine, wait_until, web

from app.commands.main import main
from app.config import Config
from app.errors import BadFile, Conflict, Unavailable
from app.jobs.archive import restore_archive, write_archive
from app.jobs.assets import Assets
from app.jobs.client import Jobs
from app.jobs.ownership import Ownership
from app.jobs.records import JobRequest
from app.jobs.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def in_folder(data: Path) -> Config:
    return Config.model_validate({"serve": {"data": str(data)}})


def conflict(config: Config) -> str:
    store = Store(config)
    try:
        return Ownership(store, Assets(config)).conflict()
    finally:
        store.close()


def one_job(config: Config, prompt: str) -> str:
    """The id of a job that has a file; the asset store belongs to its database."""
    jobs, store, assets = Jobs(config), Store(config), Assets(config)
    job = jobs.submit(JobRequest(prompt=prompt)).id
    assets.put(f"{job}/1.1/asset.ply", prompt.encode())
    assets.put("quarantine/old/asset.ply", b"unknown")
    Ownership(store, assets).confirm()
    jobs.close()
    store.close()
    return job


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return in_folder(tmp_path / "data")


def archive_of(config: Config) -> bytes:
    stream = io.BytesIO()
    write_archive(config, stream, NOW)
    return stream.getvalue()


def test_another_host_gets_the_jobs_and_their_files(config: Config, tmp_path: Path) -> None:
    job = one_job(config, "a red ball")
    stream = io.BytesIO()
    done = write_archive(config, stream, NOW)
    assert (done.jobs, done.files, done.bytes) == (1, 1, len("a red ball"))
    other = in_folder(tmp_path / "other")
    assert restore_archive(other, io.BytesIO(stream.getvalue()), NOW) is None
    jobs = Jobs(other)
    assert jobs.get(job).prompt == "a red ball"
    jobs.close()
    assert Assets(other).read(f"{job}/1.1/asset.ply") == b"a red ball"
    assert Assets(other).jobs() == [job]
    assert conflict(other) == ""
    assert not list((tmp_path / "other").glob(".restore-*"))


def test_an_archive_is_written_while_the_service_has_the_database_open(config: Config, tmp_path: Path) -> None:
    one_job(config, "a red ball")
    jobs = Jobs(config)
    later = jobs.submit(JobRequest(prompt="a blue ball")).id
    archive = archive_of(config)
    jobs.close()
    other = in_folder(tmp_path / "other")
    restore_archive(other, io.BytesIO(archive), NOW)
    restored = Jobs(other)
    assert restored.get(later).state == "QUEUED"
    restored.close()


def test_what_was_there_before_is_kept(config: Config, tmp_path: Path) -> None:
    first = one_job(config, "a red ball")
    archive = archive_of(config)
    second = one_job(config, "a blue ball")
    replaced = restore_archive(config, io.BytesIO(archive), NOW)
    assert replaced == tmp_path / "data" / "replaced-20260102T030405Z"
    assert Assets(config).jobs() == [first]
    assert (replaced / "assets" / second / "1.1" / "asset.ply").read_bytes() == b"a blue ball"
    assert (replaced / "splatgate.db").is_file()


def test_nothing_is_restored_under_a_running_service(config: Config) -> None:
    one_job(config, "a red ball")
    archive = archive_of(config)
    jobs = Jobs(config)
    jobs.submit(JobRequest(prompt="a blue ball"))
    with pytest.raises(Conflict, match="the service is running"):
        restore_archive(config, io.BytesIO(archive), NOW)
    jobs.close()


def test_a_damaged_database_is_replaced(config: Config, tmp_path: Path) -> None:
    job = one_job(config, "a red ball")
    archive = archive_of(config)
    (tmp_path / "data" / "splatgate.db").write_bytes(b"no database" * 1000)
    restore_archive(config, io.BytesIO(archive), NOW)
    jobs = Jobs(config)
    assert jobs.get(job).prompt == "a red ball"
    jobs.close()


def tar(*names: str, content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "cannot be read"),
        (b"no archive" * 1000, "cannot be read"),
        (tar("assets/x"), "is missing"),
        (tar("splatgate.db"), "fails its check"),
        (tar("splatgate.db", "passwd"), "has 'passwd'"),
        (tar("assets/../../passwd"), "has 'assets/../../passwd'"),
        (tar("/splatgate.db"), "has '/splatgate.db'"),
    ],
)
def test_what_is_no_archive_of_ours_changes_nothing(
    config: Config, tmp_path: Path, archive: bytes, message: str
) -> None:
    job = one_job(config, "a red ball")
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    with pytest.raises(BadFile, match=message):
        restore_archive(config, io.BytesIO(archive), NOW)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before
    assert Assets(config).jobs() == [job]


def test_an_archive_that_was_cut_off_changes_nothing(config: Config) -> None:
    job = one_job(config, "a red ball")
    archive = archive_of(config)
    with pytest.raises(BadFile):
        restore_archive(config, io.BytesIO(archive[: len(archive) // 2]), NOW)
    assert Assets(config).jobs() == [job]


@pytest.mark.parametrize("settings", [{"database": {"url": "postgresql://host/name"}}, {"assets": {"url": "s3://b/p"}}])
def test_a_database_or_store_elsewhere_is_named_with_the_remedy(settings: dict[str, dict[str, str]]) -> None:
    with pytest.raises(Unavailable, match="pg_dump"):
        archive_of(Config.model_validate(settings))


def test_a_backup_that_fails_leaves_the_earlier_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATGATE__SERVE__DATA", str(tmp_path / "no data"))
    target = tmp_path / "archive" / "splatgate.tar"
    target.parent.mkdir()
    target.write_bytes(b"of yesterday")
    failed = CliRunner().invoke(main, ["backup", "--archive", str(target)])
    assert failed.exit_code == 1
    assert target.read_bytes() == b"of yesterday"
    assert [path.name for path in target.parent.iterdir()] == ["splatgate.tar"]


def test_the_commands_pass_the_archive_through_a_pipe(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = one_job(config, "a red ball")
    monkeypatch.setenv("SPLATGATE__SERVE__DATA", str(tmp_path / "data"))
    written = CliRunner().invoke(main, ["backup", "--archive", "-"])
    assert written.exit_code == 0, written.output
    assert "1 files of 1 jobs" in written.stderr
    monkeypatch.setenv("SPLATGATE__SERVE__DATA", str(tmp_path / "other"))
    restored = CliRunner().invoke(main, ["restore", "-"], input=written.stdout_bytes)
    assert restored.exit_code == 0, restored.output
    assert Assets(in_folder(tmp_path / "other")).jobs() == [job]


@pytest.mark.e2e
def test_a_restored_service_serves_the_same_file_and_runs_what_waited(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with web(first, **FAST) as service, engine(first, **FAST):
        made = requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket"}, timeout=300)
        assert made.ok, made.text
    with web(first, **FAST) as service:
        waiting = requests.post(f"{service.url}/v1/jobs", json={"prompt": "a red ball"}, timeout=30).json()["id"]
        archive = archive_of(in_folder(first))
    restore_archive(in_folder(second), io.BytesIO(archive), NOW)
    with web(second, **FAST) as service, engine(second, **FAST):
        job = f"{service.url}/v1/jobs/{made.headers['X-Job-Id']}"
        assert requests.get(f"{job}/asset.ply", timeout=30).content == made.content
        state = f"{service.url}/v1/jobs/{waiting}"
        wait_until(lambda: requests.get(state, timeout=30).json()["state"] == "DONE", "the job that waited is done")

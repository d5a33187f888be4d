"""The answers when the disk is full, the folder cannot be created, or the database is invalid."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from app.config import Config
from app.jobs.backup import back_up
from app.jobs.client import Jobs
from app.jobs.heartbeats import Heartbeat
from app.jobs.records import Engine
from app.web import create_app

ROCKET = {"prompt": "a blue rocket"}
FORM = b"".join(
    (
        b'--x\r\nContent-Disposition: form-data; name="splat"; filename="x.ply"\r\n\r\nply\n',
        bytes(2**20),
        b"\r\n--x--\r\n",
    )
)


@contextmanager
def client(folder: Path | str, **limits: int) -> Iterator[FlaskClient]:
    config = Config.model_validate({"serve": {"data": str(folder)}, "limits": limits})
    jobs = Jobs(config)
    yield create_app(config, jobs).test_client()
    jobs.close()


def test_an_invalid_database_is_named_and_health_still_answers(tmp_path: Path) -> None:
    (tmp_path / "splatgate.db").write_bytes(os.urandom(8192))
    with client(tmp_path) as broken:
        _unavailable(broken.get("/v1/jobs"), "damaged")
        _unavailable(broken.post("/v1/jobs", json=ROCKET), "damaged")
        _unavailable(broken.post("/generate/", data=ROCKET), "damaged")
        ready = broken.get("/readyz")
        assert (ready.status_code, "damaged" in ready.json["why"]) == (503, True)
        assert "splatgate_database_up 0.0" in broken.get("/metrics").text
        assert broken.get("/livez").status_code == 200


def test_it_recovers_when_the_database_does(tmp_path: Path) -> None:
    (tmp_path / "splatgate.db").write_bytes(os.urandom(8192))
    with client(tmp_path) as fixed:
        _unavailable(fixed.post("/v1/jobs", json=ROCKET), "damaged")
        (tmp_path / "splatgate.db").unlink()
        assert fixed.post("/v1/jobs", json=ROCKET).status_code == 202


def test_a_database_with_a_damaged_page_is_not_ready_from_the_start(tmp_path: Path) -> None:
    with client(tmp_path) as healthy:
        for seed in range(40):
            healthy.post("/v1/jobs", json=ROCKET | {"seed": seed})
    _damage(tmp_path / "splatgate.db", _pages(tmp_path / "splatgate.db", "jobs"))
    with client(tmp_path) as broken:
        assert "damaged" in _unready(broken)
        _unavailable(broken.post("/v1/jobs", json=ROCKET), "damaged")


def test_damage_that_a_request_meets_is_said_by_readyz_until_the_file_is_replaced(tmp_path: Path) -> None:
    database, backup = tmp_path / "splatgate.db", tmp_path / "backup.db"
    with client(tmp_path) as broken:
        jobs = [broken.post("/v1/jobs", json=ROCKET | {"seed": seed}).json["id"] for seed in range(40)]
        back_up(Config.model_validate({"serve": {"data": str(tmp_path)}}), tmp_path / "backups", 1, datetime.now(UTC))
        next((tmp_path / "backups").iterdir()).rename(backup)
        _checkpoint(database)
        _damage(database, _pages(database, "jobs")[:2])
        answers = {job: broken.get(f"/v1/jobs/{job}") for job in jobs}
        assert 503 in {answer.status_code for answer in answers.values()}
        assert "damaged" in _unready(broken)
        for file in tmp_path.glob("splatgate.db*"):
            file.unlink()
        backup.rename(database)
        assert broken.get(f"/v1/jobs/{jobs[0]}").status_code == 200
        assert "damaged" not in _unready(broken)


@pytest.mark.parametrize("value", [b"\xff\xfe\xc3(", b"[1, 2", b"{"])
def test_a_row_that_cannot_be_read_is_damage_and_no_internal_error(tmp_path: Path, value: bytes) -> None:
    with client(tmp_path) as broken:
        job = broken.post("/v1/jobs", json=ROCKET).json["id"]
        with closing(sqlite3.connect(tmp_path / "splatgate.db")) as connection, connection:
            connection.execute("UPDATE jobs SET reasons = CAST(? AS TEXT), prompt = CAST(? AS TEXT)", (value, value))
        _unavailable(broken.get(f"/v1/jobs/{job}"), "damaged")


def test_a_damaged_schema_is_named(tmp_path: Path) -> None:
    """SQLite's own message then holds bytes that are no UTF-8; the service ended with a UnicodeDecodeError."""
    with client(tmp_path) as healthy:
        healthy.post("/v1/jobs", json=ROCKET)
    with closing(sqlite3.connect(tmp_path / "splatgate.db")) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        broken = (b"\xff\xfe\xc3(", b"CREATE TABLE \xff\xc3(")
        connection.execute("UPDATE sqlite_master SET name = CAST(? AS TEXT), sql = CAST(? AS TEXT)", broken)
    with client(tmp_path) as broken_client:
        assert "damaged" in _unready(broken_client)


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/data"])
def test_a_data_folder_that_cannot_be_made_is_named(place: str) -> None:
    with client(place) as homeless:
        _unavailable(homeless.post("/v1/jobs", json=ROCKET), "serve.data")
        assert homeless.get("/livez").status_code == 200


def test_a_full_disk_is_reported_and_no_job_is_accepted(tmp_path: Path) -> None:
    with client(tmp_path) as full:
        kept = full.post("/v1/jobs", json=ROCKET).json["id"]
        with _database_at_its_largest(full):
            answer = _until_refused(full)
        _unavailable(answer, "free space")
        assert full.get(f"/v1/jobs/{kept}").status_code == 200
        assert full.post("/v1/jobs", json=ROCKET).status_code == 202


def test_with_less_room_than_a_job_needs_no_job_is_accepted_and_it_is_not_ready(tmp_path: Path) -> None:
    engine = Engine("1", "a-cpu", "h", 1, "CPU", "READY", "", time.time() + 3_600, None, None, None, 0.0, None, None)
    with client(tmp_path) as roomy:
        assert roomy.post("/v1/jobs", json=ROCKET, headers={"Idempotency-Key": "one"}).status_code == 202
        Heartbeat(roomy.application.extensions["splatgate"][1].store, engine, time.time)
        assert roomy.get("/readyz").status_code == 200
    with client(tmp_path, min_free_mb=1 << 40) as full:
        _unavailable(full.post("/v1/jobs", json=ROCKET), "limits.min_free_mb")
        _unavailable(full.post("/generate/", data=ROCKET), "free space")
        kept = full.post("/v1/jobs", json=ROCKET, headers={"Idempotency-Key": "one"})
        assert (kept.status_code, kept.json["state"]) == (202, "QUEUED")
        assert len(full.get("/v1/jobs").json["jobs"]) == 1
        ready = full.get("/readyz")
        assert ready.status_code == 503
        assert ready.json["why"].startswith(f"{tmp_path}: its disk is full")
        assert [engine["state"] for engine in ready.json["engines"]] == ["READY"]


def test_a_full_disk_for_uploads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with client(tmp_path) as uploading:
        monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", full)
        answer = uploading.post("/v1/repair", data=FORM, content_type="multipart/form-data; boundary=x")
    _unavailable(answer, "No space left")


@contextmanager
def _database_at_its_largest(client: FlaskClient) -> Iterator[None]:
    """SQLite then answers as it does on a full disk: "database or disk is full"."""
    engine = client.application.extensions["splatgate"][1].store.engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() + 8

    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(engine, "checkout", limit)
    yield
    sa.event.remove(engine, "checkout", limit)
    engine.dispose()


def _until_refused(client: FlaskClient) -> Any:
    for seed in range(500):
        answer = client.post("/v1/jobs", json=ROCKET | {"seed": seed}, buffered=True)
        if answer.status_code != 202:
            return answer
    raise AssertionError("the disk was never full")


def _unavailable(answer: Any, named: str) -> None:
    assert (answer.status_code, answer.content_type) == (503, "application/problem+json"), answer.text
    assert named in answer.json["detail"]


def _unready(client: FlaskClient) -> str:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    return str(answer.json["why"])


def _checkpoint(database: Path) -> None:
    """Moves everything from the write-ahead log into the file."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _pages(database: Path, table: str) -> list[int]:
    """The numbers of the leaf pages of a table, from 1. The file of the database is whole."""
    with closing(sqlite3.connect(database)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    data = database.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    page = data[(root - 1) * size : root * size]
    assert page[0] == 5, "an inner page of a table"
    cells = [int.from_bytes(page[at : at + 2], "big") for at in range(12, 12 + 2 * int.from_bytes(page[3:5], "big"), 2)]
    return [int.from_bytes(page[at : at + 4], "big") for at in cells]


def _damage(database: Path, pages: list[int]) -> None:
    with database.open("r+b") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        for page in pages:
            file.seek((page - 1) * size)
            file.write(b"\x5a" * size)

"""Tokens separate their callers: what each may see, change and use, and when the file is read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from app.config import AuthConfig, Config
from app.errors import ConfigError
from app.jobs.client import Jobs
from app.jobs.records import JobRequest
from app.web import create_app
from app.web.tokens import Caller, read_tokens, token_hash

ALICE, BOB, READER, ROOT = ("sg_" + letter * 43 for letter in "abcd")
FILE = f"""# callers
{token_hash(ALICE)} name=alice
{token_hash(BOB)} name=bob scope=own best_priority=1
{token_hash(READER)} name=reader scope=all
{token_hash(ROOT)} name=root scope=admin
"""


class Service:
    def __init__(self, folder: Path, file: str = FILE, **auth: Any) -> None:
        self.file = folder / "tokens"
        self.file.write_text(file)
        auth = {"tokens_file": str(self.file)} | auth
        config = Config.model_validate({"serve": {"data": str(folder)}, "auth": auth})
        self.jobs = Jobs(config)
        self.client: FlaskClient = create_app(config, self.jobs).test_client()

    def ask(self, token: str, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.open(path, method=method, headers=headers | options.pop("headers", {}), **options)

    def submit(self, token: str, **options: Any) -> str:
        body = {"prompt": "a blue rocket"} | options.pop("body", {})
        answer = self.ask(token, "POST", "/v1/jobs", json=body, **options)
        assert answer.status_code == 202, answer.text
        return str(answer.json["id"])

    def status(self, token: str, method: str, path: str, **options: Any) -> int:
        return int(self.ask(token, method, path, **options).status_code)


@contextmanager
def running(folder: Path, file: str = FILE, **auth: Any) -> Iterator[Service]:
    service = Service(folder, file, **auth)
    try:
        yield service
    finally:
        service.jobs.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        yield made


PATHS = [
    ("GET", ""),
    ("GET", "/events"),
    ("GET", "/asset.ply"),
    ("POST", "/cancel"),
    ("POST", "/front"),
    ("DELETE", ""),
    ("PATCH", ""),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_job_of_another_token_is_not_found(service: Service, method: str, path: str) -> None:
    id = service.submit(ALICE)
    body = {"json": {"starred": True}} if method == "PATCH" else {}
    assert service.status(BOB, method, f"/v1/jobs/{id}{path}", **body) == 404
    missing = service.ask(BOB, "GET", f"/v1/jobs/{'0' * 32}").json["detail"].replace("0" * 32, id)
    assert service.ask(BOB, "GET", f"/v1/jobs/{id}").json["detail"] == missing, "it looks like one that does not exist"
    assert service.jobs.get(id).state == "QUEUED"


def test_a_list_shows_what_the_token_may_see(service: Service) -> None:
    ids = {name: service.submit(token) for name, token in (("alice", ALICE), ("bob", BOB))}

    def listed(token: str) -> set[str]:
        return {job["id"] for job in service.ask(token, "GET", "/v1/jobs").json["jobs"]}

    assert (listed(ALICE), listed(BOB)) == ({ids["alice"]}, {ids["bob"]})
    assert listed(READER) == listed(ROOT) == set(ids.values())


@pytest.mark.parametrize(("token", "status"), [(ALICE, 200), (READER, 403), (ROOT, 200)])
def test_only_the_owner_and_an_admin_change_a_job(service: Service, token: str, status: int) -> None:
    id = service.submit(ALICE)
    assert service.status(READER, "GET", f"/v1/jobs/{id}") == 200
    assert service.status(token, "PATCH", f"/v1/jobs/{id}", json={"starred": True}) == status
    assert service.status(token, "POST", f"/v1/jobs/{id}/cancel") == status
    assert service.status(token, "DELETE", f"/v1/jobs/{id}") == status


def test_idempotency_keys_of_two_tokens_do_not_meet(service: Service) -> None:
    key = {"headers": {"Idempotency-Key": "k"}}
    first = service.submit(ALICE, **key)
    assert service.submit(ALICE, **key) == first
    assert service.submit(BOB, **key, body={"prompt": "a red mug"}) != first


def test_a_turntable_of_another_tokens_job_is_not_found(service: Service) -> None:
    id = service.submit(ALICE)
    assert service.status(BOB, "POST", "/v1/jobs", json={"kind": "turntable", "source": id}) == 404


def test_jobs_of_an_older_release_belong_to_everybody(service: Service) -> None:
    id = service.jobs.submit(JobRequest(prompt="a blue rocket")).id
    assert [service.status(token, "GET", f"/v1/jobs/{id}") for token in (ALICE, BOB, READER)] == [200, 200, 200]
    assert service.status(BOB, "DELETE", f"/v1/jobs/{id}") == 200


def test_a_service_without_tokens_shows_everything(tmp_path: Path) -> None:
    with running(tmp_path, tokens_file="") as service:
        id = service.submit("")
        assert service.status("", "GET", f"/v1/jobs/{id}") == 200
        assert service.status("", "DELETE", f"/v1/jobs/{id}") == 200


def test_two_tokens_of_one_name_are_one_caller(tmp_path: Path) -> None:
    both = f"{token_hash(ALICE)} name=alice\n{token_hash(BOB)} name=alice\n{token_hash(ROOT)} name=other\n"
    with running(tmp_path, both) as service:
        id = service.submit(ALICE)
        assert service.status(BOB, "GET", f"/v1/jobs/{id}") == 200
        assert service.status(ROOT, "GET", f"/v1/jobs/{id}") == 404


@pytest.mark.parametrize(
    ("quota", "body", "status"),
    [
        ("max_waiting=2", {}, 429),
        ("max_per_hour=2", {}, 429),
        ("max_gb=0", {}, 429),
        ("best_priority=10", {"priority": 9}, 403),
        ("max_attempts=4", {"attempts": 5}, 403),
    ],
)
def test_a_quota_is_kept(tmp_path: Path, quota: str, body: dict[str, Any], status: int) -> None:
    with running(
        tmp_path, f"{token_hash(ALICE)} name=alice {quota}\n{token_hash(BOB)} name=bob best_priority=1\n"
    ) as service:
        if quota != "max_gb=0":
            service.submit(ALICE), service.submit(ALICE)
        answer = service.ask(ALICE, "POST", "/v1/jobs", json={"prompt": "a blue rocket"} | body)
        assert answer.status_code == status
        assert status != 429 or int(answer.headers["Retry-After"]) > 0
        assert service.status(BOB, "POST", "/v1/jobs", json={"prompt": "a blue rocket"} | body) == 202


@pytest.mark.parametrize("scope", ["own", "all", "admin"])
def test_a_token_for_its_own_jobs_may_not_come_before_everybody_unless_its_line_says_so(
    tmp_path: Path, scope: str
) -> None:
    lines = (
        f"{token_hash(ALICE)} name=alice scope={scope}\n{token_hash(BOB)} name=bob best_priority=2 max_attempts=50\n"
    )
    with running(tmp_path, lines) as service:
        for body in ({"priority": 9}, {"attempts": 11}):
            words = {"prompt": "a blue rocket"} | body
            assert service.status(ALICE, "POST", "/v1/jobs", json=words) == (403 if scope == "own" else 202)
            assert service.status(BOB, "POST", "/v1/jobs", json=words) == 202


@pytest.mark.parametrize(
    ("quota", "token", "waiting", "status"),
    [
        ("best_priority=1", ALICE, [(BOB, 10), (ALICE, 10)], 200),
        ("", ALICE, [(BOB, 10), (ALICE, 10)], 403),
        ("best_priority=10", ALICE, [(ALICE, 10), (ALICE, 10)], 200),
        ("best_priority=10", ALICE, [(BOB, 11), (ALICE, 50)], 200),
        ("best_priority=10", ALICE, [(BOB, 10), (ALICE, 10)], 403),
        ("best_priority=10", ALICE, [(ALICE, 10), (BOB, 10), (ALICE, 10)], 403),
        ("best_priority=10", ALICE, [(BOB, 9), (ALICE, 10)], 403),
        ("", ALICE, [(BOB, 1), (ALICE, 10)], 403),
        ("", ROOT, [(BOB, 1), (ALICE, 10)], 200),
        ("", READER, [(BOB, 11), (ALICE, 11)], 403),
    ],
)
def test_a_token_passes_only_jobs_that_its_priority_lets_it_pass(
    tmp_path: Path, quota: str, token: str, waiting: list[tuple[str, int]], status: int
) -> None:
    file = FILE.replace("name=alice", f"name=alice {quota}")
    with running(tmp_path, file) as service:
        *_, last = [service.submit(owner, body={"priority": priority}) for owner, priority in waiting]
        before = [job["id"] for job in service.ask(ROOT, "GET", "/v1/jobs?order=queue").json["jobs"]]
        assert service.status(token, "POST", f"/v1/jobs/{last}/front") == status
        after = service.ask(ROOT, "GET", "/v1/jobs?order=queue").json["jobs"]
        moved = [last, *(id for id in before if id != last)]
        assert [job["id"] for job in after] == (moved if status == 200 else before)
        assert [job["position"] for job in after] == list(range(1, len(after) + 1))


def test_an_expired_token_is_unknown(tmp_path: Path) -> None:
    lines = f"{token_hash(ALICE)} expires=2020-01-01\n{token_hash(BOB)} expires=2999-12-31T23:59:59+01:00\n"
    with running(tmp_path, lines) as service:
        assert service.status(ALICE, "GET", "/v1/jobs") == 401
        assert service.status(BOB, "GET", "/v1/jobs") == 200


def test_the_file_is_read_again_when_it_changes(service: Service) -> None:
    assert service.status(ALICE, "GET", "/v1/jobs") == 200
    replace_file(service.file, f"{token_hash(BOB)} name=bob\n")
    assert [service.status(token, "GET", "/v1/jobs") for token in (ALICE, BOB)] == [401, 200]
    replace_file(service.file, "not a hash\n")
    assert service.status(BOB, "GET", "/v1/jobs") == 200, "what cannot be read changes nothing"
    service.file.unlink()
    assert service.status(BOB, "GET", "/v1/jobs") == 200


def replace_file(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    os.replace(new, file)  # noqa: PTH105


def test_a_single_token_is_an_admin_and_one_of_several_sees_its_own(tmp_path: Path) -> None:
    def scopes(file: str) -> list[str]:
        (tmp_path / "tokens").write_text(file)
        return [each.caller.scope for each in read_tokens(AuthConfig(tokens_file=str(tmp_path / "tokens")))]

    assert scopes(f"{token_hash(ALICE)}\n") == ["admin"]
    assert scopes(f"{token_hash(ALICE)} scope=own\n") == ["own"]
    assert scopes(f"{token_hash(ALICE)}\n{token_hash(BOB)}\n") == ["own", "own"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("alice", "alice"),
        ("# alice's laptop", "alice's laptop"),
        ("name=bob the builder", "bob"),
        ("", token_hash(ALICE)[:8]),
    ],
)
def test_a_comment_is_the_name_of_a_token_without_one(tmp_path: Path, words: str, name: str) -> None:
    (tmp_path / "tokens").write_text(f"{token_hash(ALICE)} {words}\n")
    (token,) = read_tokens(AuthConfig(tokens_file=str(tmp_path / "tokens")))
    assert token.caller == Caller(name, "admin")


@pytest.mark.parametrize(
    "words", ["scope=everything", "expires=soon", "max_waiting=-1", "best_priority=0", "max_gb=much"]
)
def test_a_setting_that_cannot_be_meant_stops_the_start(tmp_path: Path, words: str) -> None:
    (tmp_path / "tokens").write_text(f"\n{token_hash(ALICE)} {words}\n")
    with pytest.raises(ConfigError, match=f"line 2: {words.partition('=')[0]}"):
        read_tokens(AuthConfig(tokens_file=str(tmp_path / "tokens")))


@given(st.text(max_size=80))
def test_any_text_after_a_hash_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-tokens"
    file.write_text(f"{token_hash(ALICE)} {text}".encode("utf-8", "replace").decode())
    with suppress(ConfigError):
        assert read_tokens(AuthConfig(tokens_file=str(file)))[0].caller.name


@pytest.mark.parametrize(("token", "status"), [(ALICE, 403), (READER, 200), (ROOT, 200)])
def test_feedback_is_about_all_jobs_and_needs_sight_of_them(service: Service, token: str, status: int) -> None:
    assert service.status(token, "GET", "/v1/feedback/report") == status


def test_a_job_that_waits_is_shared_within_one_caller_only(tmp_path: Path) -> None:
    with running(tmp_path, open_worker=True) as service:
        request = JobRequest(prompt="a blue rocket")
        ids = {service.jobs.submit(request, shared=True, owner=owner).id for owner in ("", "alice", "alice", None)}
        assert len(ids) == 3
        assert service.status("", "GET", "/v1/jobs") == 401

"""The worker protocol, /v1/validate and /v1/repair against a real web process and a real engine."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import av
import numpy as np
import pytest
import requests
from _damage import DAMAGES
from healthy import ball
from service import FAST, REFUSED, Service, web

from app.splat.files import decode_splat
from app.splat.ply import encode_ply

pytestmark = pytest.mark.e2e


def test_a_client_that_knows_a_form_field_only_gets_its_ply(service: Service) -> None:
    answer = requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket"}, timeout=120)
    assert answer.status_code == 200
    assert answer.content.startswith(b"ply\nformat binary_little_endian")
    splat = decode_splat(answer.content, 10_000)
    assert answer.headers["X-Gaussian-Count"] == str(len(splat))
    assert float(answer.headers["X-File-Size-MB"]) == pytest.approx(len(answer.content) / 2**20, abs=0.005)
    assert float(answer.headers["X-Generation-Time"]) > 0
    assert 0.2 <= float(answer.headers["X-CLIP-Score"]) <= 1
    assert "X-Validation-Failed" not in answer.headers


def test_a_multipart_form_and_a_path_without_its_slash_do_as_well(service: Service) -> None:
    fields = {"prompt": (None, "a blue rocket"), "seed": (None, "3")}
    first = requests.post(f"{service.url}/generate", files=fields, timeout=120)
    second = requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket", "seed": 3}, timeout=120)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert first.headers["X-Job-Id"] != second.headers["X-Job-Id"]


def test_a_refusal_is_a_status_with_the_reason(service: Service) -> None:
    answer = requests.post(f"{service.url}/generate/", data={"prompt": REFUSED}, timeout=120)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/json")
    assert "0.25" in answer.json()["reason"]
    assert answer.headers["X-Validation-Failed"] == "true"
    assert answer.headers["X-Skip-Reason"] == answer.json()["reason"]


def test_a_refusal_is_an_empty_body_where_callers_expect_it(service: Service) -> None:
    with web(service.folder, WORKER__REFUSAL="empty", **FAST) as empty:
        answers = [
            requests.post(empty.url + path, data={"prompt": REFUSED}, timeout=120)
            for path in ("/generate/", "/generate_video/")
        ]
        before, after = _metrics(service), _metrics(empty)
    for answer in answers:
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["X-Validation-Failed"] == "true"
        assert "0.25" in answer.headers["X-Skip-Reason"]
    counted = {name: value for name, value in before.items() if "_total" in name or "_count" in name}
    assert {name: after[name] for name in counted} == counted  # a web process that begins knows what there was


@pytest.mark.parametrize("size", [None, 96])
def test_a_film_is_an_mp4_of_the_size_asked_for(service: Service, size: int | None) -> None:
    form = {"prompt": "a blue rocket"} | ({"video_res": size} if size else {})
    answer = requests.post(f"{service.url}/generate_video/", data=form, timeout=120)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "video/mp4")
    with av.open(io.BytesIO(answer.content)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 4
    assert {frame.shape for frame in frames} == {(size or 64, size or 64, 3)}
    assert min(float(frame.std()) for frame in frames) > 5  # something is to be seen


@pytest.mark.parametrize("prompt", ["", " ", "a\x00b", "a purple wombat", "x" * 2_001, "iVBORw0KGgoAAAANSUhEUg"])
@pytest.mark.parametrize("path", ["/generate/", "/generate_video/"])
def test_what_cannot_be_made_is_refused_at_once(service: Service, path: str, prompt: str) -> None:
    answer = requests.post(service.url + path, data={"prompt": prompt}, timeout=20)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")


def test_a_caller_that_goes_away_takes_nothing_from_others(service: Service) -> None:
    key, form = {"Idempotency-Key": "shared"}, {"prompt": "a red mug", "seed": 11}

    def ask(_: int) -> requests.Response:
        return requests.post(f"{service.url}/generate/", data=form, headers=key, timeout=120)

    with closing(HTTPConnection("127.0.0.1", service.port)) as leaving:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        leaving.request("POST", "/generate/", urlencode(form), key | kind)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["X-Job-Id"] for answer in answers}) == 1
    assert len({answer.content for answer in answers}) == 1


def test_a_job_is_followed_to_its_end_and_its_files_are_there(service: Service) -> None:
    order = {"prompt": "a green tree", "seed": 5}
    id = requests.post(f"{service.url}/v1/jobs", json=order, timeout=20).json()["id"]
    with requests.get(f"{service.url}/v1/jobs/{id}/events", stream=True, timeout=120) as stream:
        lines = [line.decode() for line in stream.iter_lines()]
    jobs = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    versions = [job["version"] for job in jobs]
    assert versions == sorted(versions)
    assert jobs[-1]["state"] == "DONE"
    assert any(job["stage"] for job in jobs)
    assert {"asset.ply", "asset.spz", "views.png", "certificate.json"} <= set(jobs[-1]["assets"])
    certificate = requests.get(f"{service.url}/v1/jobs/{id}/certificate.json", timeout=20).json()
    for asset in certificate["assets"]:
        stored = requests.get(f"{service.url}/v1/jobs/{id}/{asset['name']}", timeout=20)
        assert stored.headers["ETag"] == f'"{asset["sha256"]}"'
        assert len(stored.content) == asset["bytes"]


def test_validate_answers_with_the_verdict(service: Service) -> None:
    ply = requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket"}, timeout=120).content
    right, wrong = (_upload(service, "validate", ply, prompt=prompt) for prompt in ("a blue rocket", "a red mug"))
    assert (right.status_code, right.json()["verdict"]["outcome"]) == (200, "passed")
    assert (wrong.status_code, wrong.json()["verdict"]["outcome"]) == (200, "refused")
    assert wrong.json()["job"]["reasons"]


def test_a_number_is_a_prompt_too(service: Service) -> None:
    answer = _upload(service, "validate", encode_ply(ball(2_000)), prompt="2001")
    assert answer.json()["verdict"]["prompt"] == "2001"


def test_repair_returns_the_repaired_splat_and_a_report(service: Service) -> None:
    broken = DAMAGES["uniform opacity -9.2103"](ball(3_000), np.random.default_rng(0))
    answer = _upload(service, "repair", encode_ply(broken))
    assert answer.status_code == 200, answer.text
    assert answer.json()["report"]["repairs"]["repairs"]
    path = f"/v1/jobs/{answer.json()['job']['id']}/asset.ply"
    repaired = decode_splat(requests.get(service.url + path, timeout=20).content, 10_000)
    assert repaired.opacity_logits.std() > 1 > broken.opacity_logits.std()


def test_metrics_count_what_was_made(service: Service) -> None:
    requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket"}, timeout=120)
    found = _metrics(service)
    assert found['splatgate_jobs_total{state="DONE"}'] >= 1
    assert found['splatgate_stage_seconds_count{stage="render"}'] >= 1
    assert found['splatgate_score_count{kind="generate"}'] >= 1
    assert found['splatgate_gaussians_bucket{kind="generate",le="7000.0"}'] >= 1
    assert 0 < found["splatgate_gate_pass_ratio"] <= 1
    assert sum(value for name, value in found.items() if name.startswith("splatgate_engine_state")) == 1


def test_stats_have_a_median_and_the_engine(service: Service) -> None:
    requests.post(f"{service.url}/generate/", data={"prompt": "a blue rocket"}, timeout=120)
    stats = requests.get(f"{service.url}/v1/stats", timeout=20).json()
    assert stats["medians"]["generate"] > 0
    assert [engine["state"] for engine in stats["engines"]] in (["READY"], ["BUSY"])


def _upload(service: Service, what: str, splat: bytes, **form: str) -> requests.Response:
    files = {"splat": ("asset.ply", splat)}
    return requests.post(f"{service.url}/v1/{what}", files=files, data=form, timeout=120)


def _metrics(service: Service) -> dict[str, float]:
    lines = requests.get(f"{service.url}/metrics", timeout=20).text.splitlines()
    pairs: list[Any] = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}

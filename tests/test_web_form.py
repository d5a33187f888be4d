"""Forms of the worker protocol: pictures as files and in base64, and text that is not UTF-8. No engine runs here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.config import Config
from app.jobs.client import Jobs
from app.web import create_app

FORM = "application/x-www-form-urlencoded"
PATHS = ["/generate/", "/generate_video/"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """For which no caller waits. One for all tests, because a child process decodes its pictures."""
    data = str(tmp_path_factory.mktemp("data"))
    parts = {"serve": {"data": data}, "profile": {"name": "full"}, "worker": {"wait_seconds": 0.01}}
    jobs = Jobs(Config.model_validate(parts))
    yield create_app(jobs.config, jobs).test_client()
    jobs.close()


@pytest.fixture
def client(service: FlaskClient) -> Iterator[FlaskClient]:
    """Without any jobs, before and after."""
    yield service
    remove_jobs(service)


def remove_jobs(client: FlaskClient) -> None:
    for job in client.get("/v1/jobs").json["jobs"]:
        for _ in ("cancel", "remove"):
            client.delete(f"/v1/jobs/{job['id']}")


def encoded(form: str = "PNG", seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(stream, form)
    return stream.getvalue()


PNG, JPEG = encoded(), encoded("JPEG")
TEXT = base64.b64encode(PNG).decode()


def taken(client: FlaskClient, answer: Any) -> tuple[str, bytes | None]:
    """The prompt and the picture of the one job that there is."""
    assert answer.status_code == 504, answer.text
    (job,) = client.get("/v1/jobs").json["jobs"]
    found = [client.get(f"/v1/jobs/{job['id']}/{name}").data for name in ("picture.png", "picture.jpg")]
    pictures = [data for data in found if data[:1] in (b"\x89", b"\xff")]
    return job["prompt"], pictures[0] if pictures else None


def refused(client: FlaskClient, answer: Any) -> str:
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json"), answer.text
    assert client.get("/v1/jobs").json["jobs"] == []
    return str(answer.json["detail"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("field", ["image", "prompt_image_file", "prompt"])
@pytest.mark.parametrize("data", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_an_uploaded_picture_is_taken(client: FlaskClient, path: str, field: str, data: bytes) -> None:
    answer = client.post(path, data={field: (io.BytesIO(data), "chair")})
    assert taken(client, answer) == ("", data)


@pytest.mark.parametrize(
    ("prompt", "kept"), [("a wooden chair", "a wooden chair"), ("", ""), (" \n", ""), ("\u200b\ufeff", "")]
)
def test_a_prompt_beside_the_picture_is_kept_and_a_blank_one_is_none(
    client: FlaskClient, prompt: str, kept: str
) -> None:
    answer = client.post("/generate/", data={"prompt": prompt, "image": (io.BytesIO(PNG), "a.png")})
    assert taken(client, answer) == (kept, PNG)


@pytest.mark.parametrize("field", ["image", "prompt_image_file", "prompt"])
@pytest.mark.parametrize("text", [TEXT, f"DATA:image/png;base64,{TEXT.rstrip('=')}", f'"{TEXT}"'])
def test_base64_is_taken_in_every_field_of_either_kind_of_form(client: FlaskClient, field: str, text: str) -> None:
    assert taken(client, client.post("/generate/", data={field: text})) == ("", PNG)


def test_base64_whose_plus_signs_were_not_escaped_is_taken(client: FlaskClient) -> None:
    assert "+" in TEXT
    assert taken(client, client.post("/generate/", data=f"prompt={TEXT}", content_type=FORM)) == ("", PNG)


def test_a_file_with_base64_in_it_is_taken(client: FlaskClient) -> None:
    lines = base64.encodebytes(PNG)
    assert taken(client, client.post("/generate/", data={"image": (io.BytesIO(lines), "a.txt")})) == ("", PNG)


def test_an_empty_file_field_of_a_browser_is_no_picture(client: FlaskClient) -> None:
    answer = client.post("/generate/", data={"prompt": "a chair", "image": (io.BytesIO(), "")})
    assert taken(client, answer) == ("a chair", None)


def test_a_file_that_is_no_picture_is_ignored_in_another_field(client: FlaskClient) -> None:
    answer = client.post("/generate/", data={"prompt": "a chair", "notes": (io.BytesIO(b"ply"), "a.ply")})
    assert taken(client, answer) == ("a chair", None)


def test_the_seed_counts_with_a_picture_too(client: FlaskClient) -> None:
    client.post("/generate/", data={"image": (io.BytesIO(PNG), "a.png"), "seed": "7"})
    assert client.get("/v1/jobs").json["jobs"][0]["seed"] == 7


def upload(data: bytes, name: str = "a") -> tuple[io.BytesIO, str]:
    return io.BytesIO(data), name


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"image": upload(encoded("GIF"))}, "is GIF data, not a picture that can be read; give a PNG or JPEG"),
        ({"image": upload(encoded("WEBP"))}, "is WebP data, not a picture that can be read; give a PNG or JPEG"),
        ({"image": upload(encoded("AVIF"))}, "is AVIF data, not"),
        ({"prompt_image_file": upload(b"")}, "is not a picture that can be read"),
        ({"image": upload(PNG[:200])}, "is broken"),
        ({"prompt": base64.b64encode(encoded("WEBP")).decode()}, "is WebP data, not a picture that can be read"),
        ({"prompt": base64.urlsafe_b64encode(encoded("GIF")).decode()}, "is GIF data, not a picture that can be read"),
        ({"prompt": base64.b64encode(bytes(range(256))).decode()}, "is not a picture that can be read"),
        ({"prompt": f"a chair like {TEXT}"}, "there is text around the picture ('a chair like')"),
        ({"image": "a chair!"}, "not base64"),
        ({"prompt": upload(b"a wooden chair")}, "the prompt is a file, and no picture"),
        ({"image": upload(PNG), "prompt_image_file": upload(JPEG)}, "2 pictures, in the fields image, prompt_image"),
        ({"image": upload(PNG), "prompt": TEXT}, "2 pictures, in the fields prompt, image: send one"),
        ({"prompt": "a chair", "file": upload(PNG)}, "a picture in the field 'file': send it as the field image"),
        ({"seed": "7"}, "no form field prompt or image"),
        ({"image": ""}, "no form field prompt or image"),
        ({"prompt": "\u200b\u2060"}, "the prompt is empty"),
        ({"image": upload(PNG), "prompt": "a\x00b"}, "control character"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_taken_is_named(client: FlaskClient, fields: dict[str, Any], named: str) -> None:
    sent = {name: (io.BytesIO(value[0].getvalue()), value[1]) if isinstance(value, tuple) else value
            for name, value in fields.items()}  # fmt: skip
    assert named in refused(client, client.post("/generate/", data=sent))


def test_a_profile_without_pictures_says_so(tmp_path: Path) -> None:
    jobs = Jobs(Config.model_validate({"serve": {"data": str(tmp_path)}}))
    client = create_app(jobs.config, jobs).test_client()
    for sent in ({"image": upload(PNG)}, {"prompt": TEXT}):
        assert "generates from prompts only" in refused(client, client.post("/generate/", data=sent))
    jobs.close()


LATIN_1 = "ein grüner Stuhl"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("charset", ["", "; charset=ISO-8859-1"])
@pytest.mark.parametrize("value", [LATIN_1.encode("latin-1"), b"ein+gr%FCner+Stuhl"], ids=["bytes", "escapes"])
def test_a_form_in_latin_1_is_not_utf_8(client: FlaskClient, path: str, charset: str, value: bytes) -> None:
    detail = refused(client, client.post(path, data=b"seed=1&prompt=" + value, content_type=FORM + charset))
    assert "the form is not UTF-8 (byte 0xFC)" in detail


@pytest.mark.parametrize("text", [LATIN_1.encode("latin-1"), "стул".encode("cp1251"), "椅子".encode("shift_jis")])
def test_a_multipart_form_in_another_encoding_is_not_utf_8(client: FlaskClient, text: bytes) -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + text + b"\r\n--B--\r\n"
    answer = client.post("/generate/", data=body, content_type="multipart/form-data; boundary=B")
    assert "not valid UTF-8" in refused(client, answer)


def test_a_part_that_names_its_encoding_is_read_in_it(client: FlaskClient) -> None:
    head = b'Content-Disposition: form-data; name="prompt"\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n'
    body = b"--B\r\n" + head + LATIN_1.encode("latin-1") + b"\r\n--B--\r\n"
    answer = client.post("/generate/", data=body, content_type="multipart/form-data; boundary=B")
    assert taken(client, answer) == (LATIN_1, None)


def test_json_in_latin_1_is_not_utf_8(client: FlaskClient) -> None:
    body = f'{{"prompt": "{LATIN_1}"}}'.encode("latin-1")
    answer = client.post("/v1/jobs", data=body, content_type="application/json")
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    assert "the JSON document is not UTF-8 (byte 0xFC)" in answer.json["detail"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.binary(min_size=1, max_size=20))
def test_no_form_that_is_not_utf_8_becomes_a_job(client: FlaskClient, value: bytes) -> None:
    answer = client.post("/generate/", data=b"prompt=" + value, content_type=FORM)
    try:
        value.decode()
    except UnicodeDecodeError:
        assert "not UTF-8" in refused(client, answer)
    else:
        assert answer.status_code in (422, 504)
        remove_jobs(client)


@pytest.mark.parametrize("field", ["prompt", "picture"])
def test_json_takes_base64_as_picture_and_names_it_as_prompt(client: FlaskClient, field: str) -> None:
    answer = client.post("/v1/jobs", json={field: f"\ufeff'{TEXT.replace('+', '-').replace('/', '_')}'"})
    if field == "picture":
        assert answer.status_code == 202
        assert client.get(f"/v1/jobs/{answer.json['id']}/picture.png").data == PNG
    else:
        assert "the prompt is PNG data in base64: send it as a picture" in refused(client, answer)


class EmptyStream:
    """What gunicorn gives for a request without a body: it cannot be closed."""

    def read(self, _size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize("path", [*PATHS, "/v1/validate", "/v1/repair"])
@pytest.mark.parametrize("kind", ["", FORM, "multipart/form-data; boundary=B"])
def test_a_form_without_a_body_is_refused(client: FlaskClient, path: str, kind: str) -> None:
    answer = client.post(path, content_type=kind, environ_overrides={"wsgi.input": EmptyStream()})
    assert (answer.status_code, answer.mimetype) == (400 if "multipart" in kind else 422, "application/problem+json")

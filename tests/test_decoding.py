"""Uploaded files are decoded in a child, which may run out of time or memory without harm to the service."""

from __future__ import annotations

import gc
import gzip
import io
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from healthy import ball
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from app.config import LimitsConfig
from app.decoding import FIELDS, Decoder
from app.errors import BadFile
from app.splat.ply import encode_ply
from app.stages.picture import FORMATS

SPLAT = ball(500, degree=3)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(LimitsConfig(decode_seconds=1.0, decode_memory_mb=512))
    yield made
    made.close()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def endless_jpeg(scans: int) -> bytes:
    """A progressive JPEG whose last refinement scan is repeated."""
    jpeg = encoded(Image.new("L", (2_048, 2_048), 128), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scans * scan + b"\xff\xd9"


def test_a_splat_comes_back_bit_for_bit(decoder: Decoder) -> None:
    found = decoder.splat(encode_ply(SPLAT), "it")
    assert all(np.array_equal(getattr(found, field), getattr(SPLAT, field)) for field in FIELDS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_comes_back_pixel_for_pixel(decoder: Decoder, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, len(mode)), np.uint8)
    found = decoder.picture(encoded(Image.fromarray(pixels, mode)), FORMATS)
    assert np.array_equal(np.asarray(found.image), pixels)
    assert (found.seed, found.model) == (None, "given")


def test_what_takes_too_much_time_is_refused_and_the_next_file_is_decoded(decoder: Decoder) -> None:
    with pytest.raises(BadFile, match=r"takes over 1 s of processor time to decode \(limits\.decode_seconds\)"):
        decoder.check_picture(endless_jpeg(2_000), FORMATS)
    decoder.check_picture(endless_jpeg(0), FORMATS)


@pytest.mark.e2e
@pytest.mark.parametrize("check", [True, False])
def test_what_takes_too_much_memory_is_refused_and_the_next_file_is_decoded(decoder: Decoder, check: bool) -> None:
    count = 3_000_000
    noise = np.random.default_rng(0).bytes(1 << 16) + bytes(3 << 19)  # it unpacks to less than 100 times its size
    body = b"NGSP" + struct.pack("<IIBBBB", 3, count, 3, 12, 0, 0) + (noise * 130)[: count * 65]
    bomb = gzip.compress(body, 1)
    with pytest.raises(BadFile, match=r"over 512 MB of memory to decode \(limits\.decode_memory_mb\)"):
        decoder.check_splat(bomb, "it") if check else decoder.splat(bomb, "it")
    decoder.check_splat(encode_ply(SPLAT), "it")


@pytest.mark.e2e
def test_a_child_that_was_killed_is_started_again(decoder: Decoder) -> None:
    decoder.start()
    assert decoder._child.process
    os.kill(decoder._child.process.pid, 9)
    decoder._child.process.wait()
    decoder.check_splat(encode_ply(SPLAT), "it")


def test_a_splat_without_any_position_is_refused(decoder: Decoder) -> None:
    lost = SPLAT.take(np.arange(5))
    lost.means[:] = 1e12
    with pytest.raises(BadFile, match="no Gaussian has a position"):
        decoder.check_splat(encode_ply(lost), "it")


def test_threads_take_turns(decoder: Decoder) -> None:
    files = [encode_ply(SPLAT.take(np.arange(count))) for count in range(1, 40)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda file: len(decoder.splat(file, "it")), files))
    assert counts == list(range(1, 40))


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(lambda tail: encode_ply(SPLAT)[:400] + tail)))
def test_garbage_is_refused_like_in_the_process_itself(decoder: Decoder, garbage: bytes) -> None:
    for check in (lambda: decoder.check_splat(garbage, "it"), lambda: decoder.check_picture(garbage, FORMATS)):
        with pytest.raises(BadFile):
            check()


def test_a_child_ends_with_its_decoder() -> None:
    made = Decoder(LimitsConfig())
    made.start()
    process = made._child.process
    assert process
    del made
    gc.collect()
    assert process.poll() is not None

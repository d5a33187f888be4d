"""The judges' answers as they appear in the logs of callers."""

import bz2
import gzip
import io
import json
import lzma
import math
from contextlib import AbstractContextManager
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO
from zoneinfo import ZoneInfo

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadFile, BadInput
from app.feedback.dates import moment, zone_of
from app.feedback.lines import Broken, Found, Line, parse, read_lines
from app.feedback.logs import MAX_LINE, decompressed

uids = st.one_of(st.integers(0, 65_535).map(str), st.from_regex(r"[0-9A-Za-z_.:@-]{1,64}", fullmatch=True))
scores = st.one_of(st.none(), st.floats(0, 1), st.floats(0, allow_nan=False, allow_infinity=False))
numbers = st.floats(allow_nan=False, allow_infinity=False)
prompts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200)
UNTIL = datetime(2025, 11, 1, tzinfo=UTC)
times = st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000)


def stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def word(score: float | None) -> str:
    return "failed" if score is None else str(score)


def found(text: str, zone: tzinfo = UTC) -> Found:
    return parse(text, zone, UNTIL)


def one(text: str, zone: tzinfo = UTC) -> Line:
    (line,) = found(text, zone)
    assert isinstance(line, Line), line
    return line


def answers(log: bytes) -> list[Line | Broken]:
    return [each for line in read_lines(io.BytesIO(log), until=UNTIL) for each in line]


@given(uids, scores, numbers, numbers, numbers, st.integers(0, 10**18 - 1), times)
def test_what_todays_form_says_is_read_back(
    uid: str, score: float | None, average: float, elo: float, reward: float, observations: int, time: float
) -> None:
    text = (
        f"{stamp(time)} | DEBUG | Feedback from [{uid}]: Score={word(score)}, AvgScore={average}, ELO={elo}, "
        f"Reward={reward}, Observations={observations}"
    )
    line = one(text)
    assert line == Line(uid, score, line.time, None, average, elo, reward, observations)
    assert line.time == pytest.approx(time, abs=0.002)


@given(uids, scores, prompts)
def test_what_the_older_forms_say_is_read_back(uid: str, score: float | None, prompt: str) -> None:
    line = Line(uid, score, prompt=prompt)
    assert one(f"Feedback received from [{uid}]. Score: {word(score)}. ({prompt})") == line
    assert one(f"Feedback received from [{uid}]. Prompt: {prompt}. Score: {word(score)}") == line


@given(
    st.lists(st.one_of(st.binary(max_size=300), st.binary(max_size=50).map(lambda b: b"Feedback from [7]: Score=" + b)))
)
def test_no_bytes_make_the_reader_fail_and_every_line_is_counted(lines: list[bytes]) -> None:
    log = b"start of the log\n" + b"\n".join(line.replace(b"\n", b"").replace(b"\r", b"") for line in lines)
    assert len(list(read_lines(io.BytesIO(log)))) == len(log.split(b"\n")) - log.endswith(b"\n")


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for start in ("Feedback from [1]: Score=", "Feedback received from [1]. Score: 0.5. (", "Feedback received from ["):
        assert len(found(start + text)) >= 1


NEW = "Feedback from [57]: Score=0.7, AvgScore=0.6, ELO=1500, Reward=0.1, Observations=3"
NOON = datetime(2025, 10, 12, 12, 34, 56, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("prefix", "time"),
    [
        ("2025-10-12 12:34:56.789 |      DEBUG      | bittensor:neuron.py:311 | ", NOON + 0.789),
        ("2025-10-12 12:34:56.789 | INFO     | app.worker:_log:12 - ", NOON + 0.789),
        ("2025-10-12 12:34:56,789 - neuron - DEBUG - ", NOON + 0.789),
        ("DEBUG:2025-10-12 12:34:56,789:neuron:", NOON + 0.789),
        ("0|neuron   | 2025-10-12T12:34:56: ", NOON),
        ("0|neuron   | 2025-10-12 14:34:56 +02:00: ", NOON),
        ("0|neuron   | 2025-10-12T14:34:56+0200: 2025-10-12 14:34:56.100 | DEBUG | ", NOON),
        ("2025-10-12T12:34:56.123456789Z ", NOON + 0.123456),
        ("\x1b[32m2025-10-12 12:34:56.789\x1b[0m | \x1b[34mDEBUG\x1b[0m | ", NOON + 0.789),
        ("2025-10-12 12:34 | ", NOON - 56),
        ("12-10-2025 12:34:56 | ", NOON),
        ("12.10.2025, 14:34:56 +0200 ", NOON),
        ("2025/10/12 12:34:56 [notice] ", NOON),
        ("[12/Oct/2025:14:34:56 +0200] ", NOON),
        ("31/10/2025 12:34:56 ", NOON + 19 * 86_400),
        ("10/12/2025, 12:34:56 PM ", NOON),
        ("03/04/2025 12:34:56 | ", None),  # the third of April, or the fourth of March
        ("Sun Oct 12 12:34:56 UTC 2025 ", NOON),
        ("Oct 12 12:34:56 miner-3 python3[871]: ", NOON),
        ("Dec 12 12:34:56 miner-3 python3[871]: ", NOON - 304 * 86_400),  # of the year before
        ("Oct 12, 2025 12:34:56 ", NOON),
        ("20251012T123456Z ", NOON),
        ("1760272496 ", NOON),
        ("[1760272496.5] ", NOON + 0.5),
        ("1760272496123 INFO ", NOON + 0.123),
        ("ts=1760272496.25 level=debug msg=", NOON + 0.25),
        ("job 1760272000 2025-10-12 12:34:56 ", NOON),  # ten digits may be anything where there is a date
        ("miner-1  | Oct 12 12:34:56 ", NOON),
        ("2025-10-12 12:34:56+00 ", NOON),
        ("30-02-2025 12:34:56 ", None),
        ("12:34:56 | ", None),
        ("2025-13-45 99:99:99 | ", None),
        ("", None),
    ],
)
def test_dates_of_the_common_loggers_are_understood(prefix: str, time: float | None) -> None:
    line = one(prefix + NEW + "\n")
    assert line.time == (None if time is None else pytest.approx(time, abs=1e-5))
    assert (line.uid, line.score, line.observations) == ("57", 0.7, 3)


def test_a_date_without_a_zone_is_in_the_zone_that_was_named() -> None:
    line = one("2025-10-12 14:34:56 | " + NEW, ZoneInfo("Europe/Berlin"))
    assert line.time == NOON


@pytest.mark.parametrize("zone", ["Nowhere/Land", "", "../../etc/passwd", "/etc/passwd", "Europe", "\0"])
def test_an_unknown_zone_is_named(zone: str) -> None:
    with pytest.raises(BadInput, match="not a time zone"):
        zone_of(zone)


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T01:00:00+01:00", "2026-01-31T00:00:00Z"])
def test_a_moment_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert moment(text) == datetime(2026, 1, 31, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["yesterday", "", "2026-02-30", "nan"])
def test_what_is_no_moment_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="is not a time"):
        moment(text)


@pytest.mark.parametrize("score", ["nan", "inf", "-0.5", "1_0", "None", "0x1", "1e999", "٣"])
def test_a_verdict_is_never_guessed(score: str) -> None:
    (broken,) = found(NEW.replace("Score=0.7", f"Score={score}", 1))
    assert isinstance(broken, Broken)


@pytest.mark.parametrize("observations", ["-1", "1.5", "1" * 19, ""])
def test_an_invalid_count_is_not_truncated_to_a_valid_one(observations: str) -> None:
    (broken,) = found(NEW.replace("Observations=3", f"Observations={observations}"))
    assert isinstance(broken, Broken)


def test_what_the_judge_says_of_the_caller_may_be_missing_the_verdict_stands() -> None:
    line = one(NEW.replace("AvgScore=0.6", "AvgScore=nan").replace("ELO=1500", "ELO=None"))
    assert (line.score, line.average, line.elo, line.reward) == (0.7, None, None, 0.1)


def test_other_lines_are_nothing_and_broken_ones_are_named_by_number() -> None:
    log = f"Feedback is welcome\n{NEW}\nFeedback from [x y]: Score=1\n\n".encode()
    first, second, third, fourth = read_lines(io.BytesIO(log))
    assert first == fourth == ()
    assert isinstance(second[0], Line)
    assert third == (Broken(3, "does not match any form of a judge's line: see docs/feedback.md"),)


def test_an_endless_line_is_cut_and_does_not_swallow_the_next() -> None:
    picture = "Feedback received from [1]. Score: 0.5. (" + "A" * 5 * MAX_LINE + ")"
    first, second = answers(f"{picture}\n{NEW}\n".encode())
    assert isinstance(first, Broken)
    assert "over 65,536 characters" in first.reason
    assert isinstance(second, Line)


@pytest.mark.parametrize("length", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1])
def test_a_line_at_the_limit_is_one_line(length: int) -> None:
    line = NEW.encode().ljust(length - 1) + b"\n"
    assert len(list(read_lines(io.BytesIO(line + NEW.encode())))) == 2


def test_a_huge_log_is_never_in_memory_as_a_whole() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.given += 1
            line = (NEW + "\n").encode()
            buffer[: len(line)] = line
            return len(line)

    source = Endless()
    stream = read_lines(source)  # type: ignore[arg-type]
    for _ in range(1_000):
        assert next(stream)
    assert source.given <= 1_100


def test_control_characters_of_a_prompt_do_not_reach_the_database() -> None:
    line = one("Feedback received from [1]. Score: 0.5. (a\x00b\x1b[31mc)")
    assert line.prompt == "a\N{REPLACEMENT CHARACTER}bc"
    assert line.score is not None
    assert math.isclose(line.score, 0.5)


# ---- wrappers, encodings, compression --------------------------------------------------------------------------------

OLD = "Feedback received from [8]. Score: 0.0. (a green chair (small))"


@pytest.mark.parametrize(
    ("document", "time"),
    [
        ({"message": NEW + "\n", "timestamp": "2025-10-12T12:34:56", "type": "out", "app_name": "miner"}, NOON),
        ({"log": NEW + "\n", "stream": "stdout", "time": "2025-10-12T12:34:56.5Z"}, NOON + 0.5),
        ({"log": f"2025-10-12 14:34:56.5 | {NEW}\n", "time": "2025-10-12T12:34:56.7Z"}, NOON + 0.7),
        ({"message": f"2025-10-12 12:34:56.5 | {NEW}", "timestamp": "2025-10-12 09:00"}, NOON + 0.5),
        ({"text": f"14:34 {NEW}\n", "record": {"message": NEW, "time": {"timestamp": NOON, "repr": "x"}}}, NOON),
        ({"MESSAGE": NEW, "PRIORITY": "6", "__REALTIME_TIMESTAMP": str(int(NOON)) + "000000"}, NOON),
        ({"level": 20, "time": int(NOON) * 1_000, "pid": 1760000000, "msg": NEW}, NOON),
        ({"@timestamp": "2025-10-12T12:34:56Z", "log": {"level": "debug"}, "message": NEW}, NOON),
        ({"event": NEW, "level": "debug"}, None),
    ],
    ids=["pm2", "docker", "docker and loguru", "own date", "loguru", "journald", "pino", "ecs", "structlog"],
)
def test_json_wrappers_bring_the_message_and_its_time(document: dict, time: float | None) -> None:
    for text in (json.dumps(document), "miner-1  | " + json.dumps(document), json.dumps({"log": json.dumps(document)})):
        assert one(text) == Line("57", 0.7, time, None, 0.6, 1500, 0.1, 3)


def test_a_message_of_several_lines_holds_several_answers() -> None:
    text = json.dumps({"log": f"{OLD}\n{NEW}\n", "time": "2025-10-12T12:34:56Z"})
    first, second = found(text)
    assert (first, second) == (
        Line("8", 0.0, NOON, "a green chair (small)"),
        Line("57", 0.7, NOON, None, 0.6, 1500, 0.1, 3),
    )
    assert len(found(text + text)) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NEW + NEW.replace("57", "58"), [("57", None), ("58", None)]),
        (f"2025-10-12 12:34:56 {OLD} 2025-10-12 12:34:57 | x(1) | {NEW}", [("8", NOON), ("57", NOON + 1)]),
        (
            f"{NEW} 2025-10-12 12:34:57 Feedback received from [9]. Prompt: a cup. Score: 1",
            [("57", None), ("9", NOON + 1)],
        ),
        (
            f"Feedback received from [9]. Prompt: a cup. Score: 1 2025-10-12 12:34:57 {NEW}",
            [("9", None), ("57", NOON + 1)],
        ),
    ],
)
def test_several_answers_on_a_line_each_count(text: str, expected: list[tuple[str, float | None]]) -> None:
    lines = [each for each in found(text) if isinstance(each, Line)]
    assert [(line.uid, line.time) for line in lines] == expected
    assert [line.prompt for line in lines if line.uid in "89"] in (["a green chair (small)"], ["a cup"], [])


def test_an_answer_inside_a_prompt_is_part_of_the_prompt() -> None:
    line = one(f"2025-10-12 12:34:56 Feedback received from [9]. Score: 0.1. (say {NEW})")
    assert (line.uid, line.prompt) == ("9", f"say {NEW}")


@pytest.mark.parametrize("rest", ["", "  ", '"', ' {"job": "7 (x)"}', " took 3 s", "\x1b[0m"])
def test_what_follows_an_answer_is_not_part_of_it(rest: str) -> None:
    assert one(OLD + rest).prompt == "a green chair (small)"
    line = one("Feedback received from [9]. Prompt: a cup. Score: 0.25" + rest)
    assert (line.prompt, line.score) == ("a cup", 0.25)


@pytest.mark.parametrize("repr_of", ["np.float64(0.7)", "numpy.float32(0.7)", "Decimal(0.7)"])
def test_a_score_of_another_type_is_its_number(repr_of: str) -> None:
    assert one(NEW.replace("Score=0.7", f"Score={repr_of}")).score == 0.7


def test_an_answer_without_a_judge_is_counted_as_broken() -> None:
    (broken,) = found("Feedback received. Prompt: a cup. Score: 0.5")
    assert isinstance(broken, Broken)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_line_ends_and_encodings_of_other_systems_are_read(encoding: str, end: str) -> None:
    log = f"start{end}Feedback received from [3]. Score: 0.5. (a café){end}{NEW}{end}".encode(encoding)
    first, second = answers(log)
    assert first == Line("3", 0.5, prompt="a café")
    assert isinstance(second, Line)


def _opened(packed: bytes) -> AbstractContextManager[BinaryIO]:
    return decompressed(io.BytesIO(packed), "old.log")


COMPRESSORS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_log_is_read(kind: str) -> None:
    packed = COMPRESSORS[kind](f"{NEW}\n".encode() * 3)
    with _opened(packed * 2) as stream:
        assert len(list(read_lines(stream))) == 6


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_log_that_is_damaged_is_named(kind: str) -> None:
    packed = COMPRESSORS[kind]("".join(f"{NEW} {i * i}\n" for i in range(2_000)).encode())
    for damaged in (packed[: len(packed) // 2], packed[: len(packed) // 2] + b"\xff" * 400):
        with pytest.raises(BadFile, match=rf"old.log: the {kind} data is damaged"), _opened(damaged) as stream:
            list(read_lines(stream))


def test_a_zip_archive_is_named() -> None:
    with pytest.raises(BadFile, match="zip archive"), decompressed(io.BytesIO(b"PK\x03\x04" + bytes(99)), "a.zip"):
        pass

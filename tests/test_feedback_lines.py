"""The judges' lines, as callers' logs hold them."""

import io
import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadInput
from app.feedback.lines import MAX_LINE_BYTES, Broken, Line, moment, parse, read_lines, zone_of

uids = st.one_of(st.integers(0, 65_535).map(str), st.from_regex(r"[0-9A-Za-z_.:@-]{1,64}", fullmatch=True))
scores = st.one_of(st.none(), st.floats(0, 1), st.floats(0, allow_nan=False, allow_infinity=False))
numbers = st.floats(allow_nan=False, allow_infinity=False)
prompts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=200)
times = st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000)


def stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def word(score: float | None) -> str:
    return "failed" if score is None else str(score)


@given(uids, scores, numbers, numbers, numbers, st.integers(0, 10**18 - 1), times)
def test_what_todays_form_says_is_read_back(
    uid: str, score: float | None, average: float, elo: float, reward: float, observations: int, time: float
) -> None:
    text = (
        f"{stamp(time)} | DEBUG | Feedback from [{uid}]: Score={word(score)}, AvgScore={average}, ELO={elo}, "
        f"Reward={reward}, Observations={observations}"
    )
    line = parse(text)
    assert line
    assert line == Line(uid, score, line.time, None, average, elo, reward, observations)
    assert line.time == pytest.approx(time, abs=0.002)


@given(uids, scores, prompts)
def test_what_the_older_forms_say_is_read_back(uid: str, score: float | None, prompt: str) -> None:
    line = Line(uid, score, prompt=prompt)
    assert parse(f"Feedback received from [{uid}]. Score: {word(score)}. ({prompt})") == line
    assert parse(f"Feedback received from [{uid}]. Prompt: {prompt}. Score: {word(score)}") == line


@given(
    st.lists(st.one_of(st.binary(max_size=300), st.binary(max_size=50).map(lambda b: b"Feedback from [7]: Score=" + b)))
)
def test_no_bytes_make_the_reader_fail_and_every_line_is_counted(lines: list[bytes]) -> None:
    log = b"\n".join(line.replace(b"\n", b"") for line in lines)
    assert len(list(read_lines(io.BytesIO(log)))) == len(log.split(b"\n")) - (log == b"" or log.endswith(b"\n"))


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for start in ("Feedback from [1]: Score=", "Feedback received from [1]. Score: 0.5. (", "Feedback received from ["):
        with_nothing_but_ours = None
        try:
            with_nothing_but_ours = parse(start + text)
        except BadInput:
            continue
        assert isinstance(with_nothing_but_ours, Line)


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
        ("12:34:56 | ", None),
        ("2025-13-45 99:99:99 | ", None),
        ("", None),
    ],
)
def test_dates_of_the_common_loggers_are_understood(prefix: str, time: float | None) -> None:
    line = parse(prefix + NEW + "\n")
    assert line
    assert line.time == (None if time is None else pytest.approx(time, abs=1e-5))
    assert (line.uid, line.score, line.observations) == ("57", 0.7, 3)


def test_a_date_without_a_zone_is_in_the_zone_that_was_named() -> None:
    line = parse("2025-10-12 14:34:56 | " + NEW, ZoneInfo("Europe/Berlin"))
    assert line
    assert line.time == NOON


@pytest.mark.parametrize("zone", ["Nowhere/Land", "", "../../etc/passwd", "/etc/passwd", "Europe", "\0"])
def test_an_unknown_zone_is_named(zone: str) -> None:
    with pytest.raises(BadInput, match="no time zone"):
        zone_of(zone)


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T01:00:00+01:00", "2026-01-31T00:00:00Z"])
def test_a_moment_is_utc_unless_it_says_otherwise(text: str) -> None:
    assert moment(text) == datetime(2026, 1, 31, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["yesterday", "", "2026-02-30", "nan"])
def test_what_is_no_moment_is_named(text: str) -> None:
    with pytest.raises(BadInput, match="is no time"):
        moment(text)


@pytest.mark.parametrize("score", ["nan", "inf", "-0.5", "1_0", "None", "0x1", "1e999", "٣"])
def test_a_verdict_is_never_guessed(score: str) -> None:
    with pytest.raises(BadInput):
        parse(NEW.replace("Score=0.7", f"Score={score}", 1))


@pytest.mark.parametrize("observations", ["-1", "1.5", "1" * 19, ""])
def test_a_count_that_is_none_is_not_cut_into_one(observations: str) -> None:
    with pytest.raises(BadInput):
        parse(NEW.replace("Observations=3", f"Observations={observations}"))


def test_what_the_judge_says_of_the_caller_may_be_missing_the_verdict_stands() -> None:
    line = parse(NEW.replace("AvgScore=0.6", "AvgScore=nan").replace("ELO=1500", "ELO=None"))
    assert line
    assert (line.score, line.average, line.elo, line.reward) == (0.7, None, None, 0.1)


def test_other_lines_are_nothing_and_broken_ones_are_named_by_number() -> None:
    log = f"Feedback is welcome\n{NEW}\nFeedback from [x y]: Score=1\n\n".encode()
    found = list(read_lines(io.BytesIO(log)))
    assert found[0] is None
    assert isinstance(found[1], Line)
    assert found[2] == Broken(3, "neither form of a judge's line: compare docs/feedback.md")
    assert found[3] is None


def test_an_endless_line_is_cut_and_does_not_swallow_the_next() -> None:
    picture = "Feedback received from [1]. Score: 0.5. (" + "A" * 5 * MAX_LINE_BYTES + ")"
    first, second = read_lines(io.BytesIO(f"{picture}\n{NEW}\n".encode()))
    assert isinstance(first, Broken)
    assert "over 65,536 bytes" in first.reason
    assert isinstance(second, Line)


@pytest.mark.parametrize("length", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1])
def test_a_line_at_the_limit_is_one_line(length: int) -> None:
    line = NEW.encode().ljust(length - 1) + b"\n"
    assert len(list(read_lines(io.BytesIO(line + NEW.encode())))) == 2


def test_a_huge_log_is_never_in_memory_as_a_whole() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readline(self, _size: int | None = -1) -> bytes:
            self.given += 1
            return NEW.encode() + b"\n"

    source = Endless()
    stream = read_lines(source)  # type: ignore[arg-type]
    for _ in range(1_000):
        next(stream)
    assert source.given == 1_000


def test_control_characters_of_a_prompt_do_not_reach_the_database() -> None:
    line = parse("Feedback received from [1]. Score: 0.5. (a\x00b\x1b[31mc)")
    assert line
    assert line.prompt == "a\N{REPLACEMENT CHARACTER}bc"
    assert line.score is not None
    assert math.isclose(line.score, 0.5)

"""The judges' answers from log to advice: imported once, matched, reported; on the command line and over HTTP."""

import gzip
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from _judges import START, World, job, populate
from click.testing import CliRunner, Result
from flask.testing import FlaskClient
from flask_openapi3 import OpenAPI
from PIL import Image

from app.commands.main import main
from app.config import Config
from app.feedback.join import Candidate, join
from app.feedback.lines import Line, read_lines
from app.feedback.report import Report, report
from app.feedback.store import FeedbackStore, Receipt, answers
from app.jobs.client import Jobs
from app.jobs.store import Store
from app.jobs.tables import jobs
from app.web import auth, context, problems
from app.web.feedback import feedback as blueprint

DONE = Candidate("a", "a red ball", 1_000.0, "shapes", 0.25, 200_000)


def configured(folder: Path) -> Config:
    """With answers of any age: the logs here are of a fixed day."""
    return Config.model_validate({"serve": {"data": str(folder)}, "feedback": {"keep_days": 36_500}})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configured(tmp_path)


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    store = Store(config)
    yield store
    store.close()


@pytest.fixture
def feedback(store: Store, config: Config) -> FeedbackStore:
    return FeedbackStore(store, config)


def keep(store: Store, *rows: dict) -> None:
    with store.writing() as connection:
        connection.execute(sa.insert(jobs), list(rows))


def take(feedback: FeedbackStore, log: str) -> Receipt:
    return feedback.add(read_lines(io.BytesIO(log.encode())))


def weigh(feedback: FeedbackStore, **span: float) -> Report:
    return report(feedback, feedback.config, np.random.default_rng(0), **span)


# ---- joining ---------------------------------------------------------------------------------------------------------


def joined(line: Line, *jobs: Candidate, claimed: tuple[str, ...] = ()) -> tuple[str, bool] | None:
    found = join([line], jobs, claimed, 300)[0]
    return (found.job.id, found.certain) if found else None


def test_by_time_an_answer_belongs_to_the_job_that_ended_last_before_it() -> None:
    earlier = replace(DONE, id="b", finished=100.0)
    assert joined(Line("1", 0.7, 1_010.0), earlier, DONE) == ("a", True)
    assert joined(Line("1", 0.7, 999.5), earlier, DONE) == ("a", True), "a log of whole seconds"
    assert joined(Line("1", 0.7, 990.0), DONE) is None, "it had not ended"
    assert joined(Line("1", 0.7, 1_301.0), DONE) is None, "too long ago"
    assert joined(Line("1", 0.7, None), DONE) is None


def test_a_join_by_time_that_could_be_another_is_doubtful() -> None:
    other = replace(DONE, id="b", finished=950.0, score=0.31)
    assert joined(Line("1", 0.7, 1_010.0), other, DONE) == ("a", False)
    assert joined(Line("1", 0.7, 1_010.0), replace(other, score=DONE.score), DONE) == ("a", True), "equal results"
    assert joined(Line("1", 0.7, 1_010.0), other, DONE, claimed=("a",)) == ("b", True)


def test_two_answers_by_time_never_share_a_job() -> None:
    other = replace(DONE, id="b", finished=1_100.0)
    lines = [Line("1", 0.7, 1_110.0), Line("2", 0.7, 1_010.0), Line("3", 0.7, 1_111.0)]
    found = [each and each.job.id for each in join(lines, [DONE, other], (), 300)]
    assert found == ["b", "a", None]


def test_the_prompt_decides_where_the_line_has_it() -> None:
    later = replace(DONE, id="b", prompt="a blue rocket", finished=1_005.0)
    assert joined(Line("1", 0.7, 1_010.0, "a red ball"), DONE, later) == ("a", True)
    assert joined(Line("1", 0.7, None, "a red ball"), DONE, later) == ("a", True)
    assert joined(Line("1", 0.7, 1_010.0, "a green house"), DONE, later) is None
    assert joined(Line("1", 0.7, 50_000.0, "a red ball"), DONE) == ("a", True), "hours later"
    assert joined(Line("1", 0.7, 200_000.0, "a red ball"), DONE) is None, "days later it is another result"


def test_the_same_prompt_twice_is_doubtful_unless_the_time_tells() -> None:
    again = replace(DONE, id="b", finished=5_000.0, score=0.31)
    assert joined(Line("1", 0.7, 5_010.0, "a red ball"), DONE, again) == ("b", True)
    assert joined(Line("1", 0.7, 1_010.0, "a red ball"), DONE, again) == ("a", True)
    assert joined(Line("1", 0.7, 9_000.0, "a red ball"), DONE, again) == ("b", False)
    assert joined(Line("1", 0.7, None, "a red ball"), DONE, again) == ("b", False)


# ---- taking in -------------------------------------------------------------------------------------------------------


def test_a_log_that_is_imported_twice_adds_nothing(store: Store, feedback: FeedbackStore) -> None:
    log = populate(store, World(300), np.random.default_rng(0))
    first, second = take(feedback, log), take(feedback, log)
    assert first.new == len(log.splitlines()) > 200
    assert (second.new, second.known) == (0, first.new)


def test_a_log_that_has_grown_adds_what_is_new(store: Store, feedback: FeedbackStore) -> None:
    log = populate(store, World(300), np.random.default_rng(0)).splitlines(keepends=True)
    assert take(feedback, "".join(log[:100])).new == 100
    assert take(feedback, "".join(log)).new == len(log) - 100
    assert len({answer.job for answer in feedback.answers()}) == len(log), "each has a job of its own"


def test_lines_without_a_time_count_as_often_as_they_appear_in_the_log(feedback: FeedbackStore) -> None:
    line = "Feedback received from [12]. Score: 0.71. (a blue rocket)\n"
    assert take(feedback, 3 * line).new == 3
    assert take(feedback, 3 * line).new == 0
    assert take(feedback, 5 * line).new == 2


def test_broken_lines_are_counted_with_examples(feedback: FeedbackStore) -> None:
    receipt = take(feedback, "hello\n" + "Feedback from [1]: Score=oops\n" * 25)
    assert (receipt.lines, receipt.new, receipt.unparsed) == (26, 0, 25)
    assert [broken.number for broken in receipt.examples] == list(range(2, 12))


def test_answers_go_to_the_jobs_that_were_delivered(store: Store, feedback: FeedbackStore) -> None:
    keep(
        store,
        job(1, START, 0.25),
        job(2, START + 50, 0.15, delivered=False),
        job(3, START + 51, 0.25) | {"state": "FAILED", "outcome": None},
        job(4, START + 52, 0.25) | {"kind": "turntable", "outcome": None},
    )
    take(feedback, "2026-03-01 00:01:00 | Feedback from [1]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=1\n")
    assert [(answer.job, answer.by, answer.certain) for answer in feedback.answers()] == [(f"{1:032x}", "time", True)]


def test_the_score_of_a_job_without_words_is_not_compared(store: Store, feedback: FeedbackStore) -> None:
    keep(store, job(1, START, 0.85) | {"prompt": ""})
    take(feedback, "2026-03-01 00:00:09 | Feedback from [1]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=1\n")
    assert [(answer.job_score, answer.job_gaussians) for answer in feedback.answers()] == [(None, 200_000)]
    assert weigh(feedback).usable == 0


def test_what_the_report_needs_outlives_the_job(store: Store, feedback: FeedbackStore) -> None:
    take(feedback, populate(store, World(200), np.random.default_rng(0)))
    before = weigh(feedback)
    with store.writing() as connection:
        connection.execute(sa.delete(jobs))
    assert weigh(feedback).by_score == before.by_score != ()


def test_two_processes_that_import_at_once_add_each_answer_once(
    store: Store, feedback: FeedbackStore, config: Config
) -> None:
    log = populate(store, World(200), np.random.default_rng(0))
    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda _: take(FeedbackStore(store, config), log), range(4)))
    assert sum(receipt.new for receipt in receipts) == len(log.splitlines()) == feedback.count()


# ---- the report ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, str]:
    """A data folder with 3,000 jobs and what four judges said of them."""
    config = configured(tmp_path_factory.mktemp("town"))
    store = Store(config)
    log = populate(store, WORLD, np.random.default_rng(0))
    take(FeedbackStore(store, config), log)
    store.close()
    return config, log


WORLD = World(3_000)


@pytest.fixture
def town_feedback(town: tuple[Config, str]) -> Iterator[FeedbackStore]:
    store = Store(town[0])
    yield FeedbackStore(store, town[0])
    store.close()


def test_the_report_counts_what_the_log_says(town_feedback: FeedbackStore, town: tuple[Config, str]) -> None:
    lines = town[1].splitlines()
    found = weigh(town_feedback)
    failed = sum("failed" in line for line in lines)
    rejected = sum("Score=0.0," in line or "Score: 0.0. " in line for line in lines)
    assert (found.answers, found.failed) == (len(lines), failed)
    assert (found.acceptance.total, found.acceptance.count) == (len(lines) - failed, len(lines) - failed - rejected)
    assert found.joins.none == 0
    assert found.joins.by_prompt == sum("received" in line for line in lines)
    assert found.cut is not None
    assert 0.6 <= found.cut < 0.61
    assert found.refusal.total == WORLD.count
    assert found.refusal.count == WORLD.count - len(lines)


def test_a_judge_that_never_observes_is_named(town_feedback: FeedbackStore) -> None:
    silent = {judge.uid: (judge.silent, judge.acceptance.total) for judge in weigh(town_feedback).judges}
    assert silent["99"] == (True, 0)
    assert [uid for uid, (is_silent, _) in silent.items() if is_silent] == ["99"]
    assert silent["12"][1] > 0, "the older form names no observations, which is not the same as none"


def test_the_advice_finds_the_optimum_of_the_synthetic_judges(town_feedback: FeedbackStore) -> None:
    found = weigh(town_feedback)
    assert found.threshold.answer == "change"
    assert found.threshold.value == pytest.approx(WORLD.best_threshold, abs=0.008)
    assert found.min_gaussians.answer in ("no relation", "keep"), "the number of Gaussians decided nothing"


def test_the_curve_falls_and_rises_as_it_must(town_feedback: FeedbackStore) -> None:
    curve = weigh(town_feedback).curve
    assert [point.threshold for point in curve] == sorted(point.threshold for point in curve)
    assert all(first.refusal <= second.refusal for first, second in pairwise(curve))
    assert all(first.lost <= second.lost for first, second in pairwise(curve))
    assert all(first.acceptance.total >= second.acceptance.total for first, second in pairwise(curve))
    found = weigh(town_feedback)
    assert [point.threshold for point in found.now_and_then] == [0.2, found.threshold.value]
    assert found.now_and_then[0].refusal == found.refusal.share
    assert found.now_and_then[0].lost == 0
    assert sum(bucket.acceptance.total for bucket in weigh(town_feedback).by_score) == curve[0].acceptance.total


def test_before_and_after_add_up_and_a_change_shows(store: Store, feedback: FeedbackStore) -> None:
    log = populate(store, World(400, quality=0.55), np.random.default_rng(0)).splitlines()
    half = START + 200 * 60
    better = [line.replace("Score=0.0,", "Score=0.7,") if line[8:16] > "01 03:20" else line for line in log]
    take(feedback, "\n".join(better))
    found = weigh(feedback, split=half)
    assert found.split
    change = found.split.acceptance
    assert change.before.total + change.after.total == found.acceptance.total
    assert change.low is not None
    assert change.low > 0
    assert found.split.refusal.before.total == found.split.refusal.after.total == 200


def test_since_leaves_out_what_came_before(town_feedback: FeedbackStore) -> None:
    whole, late = weigh(town_feedback), weigh(town_feedback, since=START + 60 * 2_000)
    assert late.first is not None
    assert late.first >= START + 60 * 2_000
    assert 0 < late.answers < whole.answers
    assert late.refusal.total == 1_000


def test_an_empty_book_reports_that_it_is_empty(feedback: FeedbackStore) -> None:
    found = weigh(feedback)
    assert (found.answers, found.curve, found.by_score, found.acceptance.share) == (0, (), (), None)
    assert found.threshold.answer == "too few"


def test_more_answers_than_a_report_reads_are_reported(
    store: Store, feedback: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = populate(store, World(100), np.random.default_rng(0))
    take(feedback, log)
    for module in ("store", "report"):
        monkeypatch.setattr(f"app.feedback.{module}.MOST_ANSWERS", 10)
    found = weigh(feedback)
    assert (found.answers, found.left_out) == (10, len(log.splitlines()) - 10)


# ---- retention -------------------------------------------------------------------------------------------------------

DAY = 86_400.0
UNDATED = "Feedback from [7]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=2\n"
DATED = "2026-03-01 00:01:00 | Feedback from [1]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=1\n"


def forgetful(store: Store, config: Config, days_later: float) -> FeedbackStore:
    """As it is that many days after the START of the log, with answers kept for ten days."""
    settings = config.model_copy(update={"feedback": config.feedback.model_copy(update={"keep_days": 10.0})})
    return FeedbackStore(store, settings, lambda: START + days_later * DAY)


def test_answers_are_deleted_by_their_date_or_else_by_their_import(store: Store, config: Config) -> None:
    take(forgetful(store, config, 5), DATED + UNDATED)
    assert forgetful(store, config, 9.9).forget() == 0
    assert forgetful(store, config, 10.1).forget() == 1
    assert [answer.time for answer in forgetful(store, config, 10.1).answers()] == [None]
    assert forgetful(store, config, 15.1).forget() == 1
    assert forgetful(store, config, 15.1).count() == 0


def test_an_old_log_does_not_restore_deleted_answers(store: Store, config: Config) -> None:
    receipt = take(forgetful(store, config, 11), DATED + DATED.replace("2026-03-01", "2026-03-05"))
    assert (receipt.new, receipt.known, receipt.old) == (1, 0, 1)


def test_undated_answers_of_an_earlier_release_are_deleted_from_now_on(store: Store, config: Config) -> None:
    take(forgetful(store, config, 0), UNDATED)
    with store.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE feedback DROP COLUMN added")
    later = forgetful(store, config, 100)
    assert later.forget() == 0
    assert forgetful(store, config, 109).forget() == 0
    assert forgetful(store, config, 111).forget() == 1


def test_many_answers_are_deleted_in_batches(store: Store, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.feedback.store.FORGET_AT_ONCE", 2)
    take(forgetful(store, config, 0), UNDATED * 5)
    later = forgetful(store, config, 11)
    assert [later.forget() for _ in range(4)] == [2, 2, 1, 0]


# ---- the command line ------------------------------------------------------------------------------------------------


def run(config: Config, *arguments: str, given: str | None = None) -> Result:
    place = {"SPLATGATE__SERVE__DATA": config.serve.data, "SPLATGATE__FEEDBACK__KEEP_DAYS": "36500"}
    return CliRunner(env=place).invoke(main, ["feedback", *arguments], input=given)


def test_import_counts_every_line(config: Config, tmp_path: Path) -> None:
    log = tmp_path / "neuron.log"
    log.write_text(
        "start\n2026-03-01 00:00:01 | Feedback from [7]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=2\n"
        "Feedback from [7]: Score=perhaps\n"
    )
    result = run(config, "import", str(log))
    assert result.exit_code == 0, result.output
    assert "3 lines, 1 new answer, 0 known, 1 unreadable" in result.stdout
    assert "line 3:" in result.stdout
    again = run(config, "import", "-", "--json", given=log.read_text())
    assert json.loads(again.stdout)["logs"][0] | {"examples": []} == {
        "log": "-",
        "lines": 3,
        "new": 0,
        "known": 1,
        "old": 0,
        "unparsed": 1,
        "examples": [],
    }


def test_a_report_creates_no_database(config: Config) -> None:
    result = run(config, "report")
    assert result.exit_code == 1
    assert f"{config.serve.data}/splatgate.db: no database yet" in result.stderr
    assert not Path(config.serve.data, "splatgate.db").exists()


def test_equal_undated_lines_of_two_logs_are_two_answers(config: Config, tmp_path: Path) -> None:
    logs = tmp_path / "a.log", tmp_path / "b.log"
    for log in logs:
        log.write_text(UNDATED)

    def new(*arguments: Path) -> list[int]:
        result = run(config, "import", "--json", *map(str, arguments))
        return [each["new"] for each in json.loads(result.stdout)["logs"]]

    assert new(*logs) == [1, 1]
    assert new(*logs) == [0, 0]
    logs[1].write_text(UNDATED * 3)
    assert new(*logs) == [0, 2]


def test_a_compressed_log_and_a_damaged_one(config: Config, tmp_path: Path) -> None:
    log = tmp_path / "neuron.log.2.gz"
    log.write_bytes(gzip.compress(UNDATED.encode()))
    assert "1 new answer" in run(config, "import", str(log)).stdout
    log.write_bytes(gzip.compress(UNDATED.encode() * 2)[:-9])
    result = run(config, "import", str(log))
    assert result.exit_code == 1
    assert f"error: {log}: the gzip data is damaged" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "--since", "yesterday"), "'yesterday' is not a time"),
        (("report", "--split", "1/2/2026"), "'1/2/2026' is not a time"),
        (("import", "-", "--zone", "Atlantis"), "'Atlantis' is not a time zone"),
    ],
)
def test_a_wrong_option_is_a_usage_error(config: Config, arguments: tuple[str, ...], words: str) -> None:
    result = run(config, *arguments, given="")
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_log_that_is_not_there_is_one_line(config: Config, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.log", tmp_path):
        result = run(config, "import", str(path))
        assert result.exit_code == 1
        assert f"{path}: cannot be read" in result.stderr


def test_the_zone_of_the_dates_can_be_set(config: Config) -> None:
    log = "2026-03-01 01:00:01 | Feedback from [7]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=2\n"
    assert run(config, "import", "-", "--zone", "Europe/Berlin", given=log).exit_code == 0
    found = json.loads(run(config, "report", "--json").stdout)
    assert found["first"] == START + 1


def test_report_prints_names_and_draws(town: tuple[Config, str], tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    result = run(town[0], "report", "--split", "2026-03-02", "--plot", str(picture), "--theme", "dark")
    assert result.exit_code == 0, result.output
    assert "judge 99 processes nothing" in result.stdout
    assert "validate.threshold = 0.2: set it to 0.2" in result.stdout
    assert "2026-03-02" in result.stdout
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1_000
        assert np.asarray(image.convert("L")).mean() < 80, "dark"


def test_report_as_json_is_the_whole_report(town: tuple[Config, str], town_feedback: FeedbackStore) -> None:
    found = json.loads(run(town[0], "report", "--json").stdout)
    assert found["threshold"]["value"] == weigh(town_feedback).threshold.value
    assert found["split"] is None


# ---- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(config: Config) -> Iterator[FlaskClient]:
    """The blueprint with the guard, the errors and the jobs of the real application."""
    app = OpenAPI(
        "test", validation_error_model=problems.Problem, validation_error_callback=problems.wrong_fields, doc_ui=False
    )
    served = Jobs(config)
    context.attach(app, config, served)
    problems.answer_errors(app)
    auth.guard(app, config)
    app.register_api(blueprint)
    yield app.test_client()
    served.close()


LINE = "2026-03-01 00:00:09 | Feedback from [7]: Score=0.7, AvgScore=1, ELO=1, Reward=1, Observations=2"


def test_a_log_is_accepted_as_text(client: FlaskClient) -> None:
    for new in (1, 0):
        answer = client.post("/v1/feedback", data=f"{LINE}\nFeedback from [7]: no\n", content_type="text/plain")
        assert answer.status_code == 200, answer.text
        assert answer.json == {
            "lines": 2,
            "new": new,
            "known": 1 - new,
            "old": 0,
            "unparsed": 1,
            "examples": [{"number": 2, "reason": "does not match any form of a judge's line: see docs/feedback.md"}],
        }


def test_entries_and_lines_are_the_same(client: FlaskClient) -> None:
    entries = [
        {"text": LINE},
        {"uid": "7", "score": 0.7, "time": START + 9, "average": 1, "elo": 1, "reward": 1, "observations": 2.0},
        {"uid": "8", "score": "failed", "time": START, "prompt": "a \x00 b", "observations": None},
        {"text": "nothing"},
    ]
    answer = client.post("/v1/feedback", json=entries)
    assert answer.status_code == 200, answer.text
    assert answer.json
    assert (answer.json["lines"], answer.json["new"], answer.json["known"]) == (4, 2, 1)


@pytest.mark.parametrize(
    "body",
    [
        {"text": LINE},
        [{"uid": "7"}],
        [{"uid": "7", "score": -1}],
        [{"uid": "7", "score": "good"}],
        [{"uid": "a b", "score": 1}],
        [{"uid": "7", "score": 1, "extra": 1}],
        [{"uid": "7", "score": 10**400}],
        [{"uid": "7", "score": 1, "observations": 10**18}],
        [{"text": LINE}] * 10_001,
        None,
        3,
    ],
)
def test_entries_of_another_shape_are_refused(client: FlaskClient, body: object) -> None:
    answer = client.post("/v1/feedback", data=json.dumps(body), content_type="application/json")
    assert answer.status_code == 422, answer.text
    assert answer.mimetype == "application/problem+json"
    assert len(answer.text) < 20_000


def test_a_body_of_another_kind_is_refused(client: FlaskClient) -> None:
    assert client.post("/v1/feedback", data="<a/>", content_type="text/xml").status_code == 415
    assert client.post("/v1/feedback", data="{", content_type="application/json").status_code == 400


def test_the_report_over_http_is_the_report(client: FlaskClient, config: Config) -> None:
    store = Store(config)
    log = populate(store, World(300), np.random.default_rng(0))
    client.post("/v1/feedback", data=log, content_type="text/plain")
    answer = client.get("/v1/feedback/report?split=2026-03-01T02:00:00Z")
    expected = weigh(FeedbackStore(store, config), split=START + 7_200)
    assert answer.json
    assert answer.json["threshold"]["reason"] == expected.threshold.reason
    assert answer.json["answers"] == len(log.splitlines())
    assert answer.json["split"]["at"] == START + 7_200
    store.close()


def test_the_picture_comes_in_both_themes(client: FlaskClient) -> None:
    brightness = {}
    for theme in ("light", "dark"):
        answer = client.get(f"/v1/feedback/report.png?theme={theme}")
        assert answer.mimetype == "image/png"
        with Image.open(io.BytesIO(answer.data)) as image:
            brightness[theme] = np.asarray(image.convert("L")).mean()
    assert brightness["light"] > 200 > 80 > brightness["dark"]
    assert client.get("/v1/feedback/report.png?theme=pink").status_code == 422
    for time in ("soon", "0.5", "1772323200"):
        assert client.get(f"/v1/feedback/report?since={time}").status_code == 422, time


def test_the_schema_describes_the_three_endpoints(client: FlaskClient) -> None:
    schema = client.application.api_doc  # type: ignore[attr-defined]
    assert set(schema["paths"]) == {"/v1/feedback", "/v1/feedback/report", "/v1/feedback/report.png"}
    body = schema["paths"]["/v1/feedback"]["post"]["requestBody"]["content"]
    assert set(body) == {"text/plain", "application/json"}
    assert "$ref" not in json.dumps(body), "the schema of the body is self-contained"
    assert "Report" in json.dumps(schema["components"]["schemas"])


def test_the_table_is_made_in_a_database_that_is_older_than_it(config: Config) -> None:
    store = Store(config)
    answers.drop(store.engine)
    assert FeedbackStore(store, config).count() == 0
    store.close()

"""Reasons: one sentence for each code, including those that older and newer releases stored."""

import string

import pytest

from app.errors import NothingMade, SplatgateError, StageFailed
from app.reason import SENTENCES, Reason


@pytest.mark.parametrize("code", [code for code, sentence in SENTENCES.items() if isinstance(sentence, str)])
def test_the_sentence_of_a_code_names_its_figures_and_no_other(code: str) -> None:
    sentence = SENTENCES[code]
    assert isinstance(sentence, str)
    names = {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
    assert str(Reason(code, dict.fromkeys(names, 1)))
    for name in names:
        with pytest.raises(KeyError, match=name):
            str(Reason(code, dict.fromkeys(names - {name}, 1)))


def test_a_score_just_under_its_threshold_does_not_read_as_the_threshold() -> None:
    figures = {"label": "CLIP", "value": 0.19999, "setting": "threshold", "threshold": 0.2}
    assert str(Reason("below_threshold", figures)) == "CLIP score 0.199 is below the threshold 0.2"


def test_a_reason_comes_back_as_it_was_stored() -> None:
    reason = Reason("no_object", {"share": 0.001, "min_share": 0.01})
    assert Reason.from_stored(reason.to_dict()) == reason


def test_a_sentence_of_an_older_release_keeps_its_words() -> None:
    assert str(Reason.from_stored("only 12 {gaussians}")) == "only 12 {gaussians}"


def test_a_code_of_a_newer_release_reads_as_itself() -> None:
    assert str(Reason.from_stored({"code": "too_dull", "figures": {"dullness": 3}})) == "too_dull"


def test_a_failed_stage_carries_its_reason() -> None:
    reason = Reason("no_position", {"gaussians": 300})
    error: SplatgateError = NothingMade(StageFailed(reason).reason)
    assert str(error) == "none of 300 Gaussians has a usable position: generate it again"

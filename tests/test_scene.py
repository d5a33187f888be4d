from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadPrompt
from app.stages.scene import COLOURS, KINDS, RELATIONS, SIZES, Scene, Thing, parse

things = st.builds(
    Thing,
    st.sampled_from(list(KINDS)),
    st.none() | st.sampled_from(list(COLOURS)),
    st.none() | st.sampled_from(list(SIZES)),
)
scenes = st.builds(Scene, things) | st.builds(Scene, things, st.sampled_from(list(RELATIONS)), things)


@given(scenes)
def test_the_description_of_a_scene_is_parsed_back(scene: Scene) -> None:
    assert parse(str(scene)) == scene


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BadPrompt):
        assert isinstance(parse(text), Scene)


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a red mug on a wooden table", Scene(Thing("mug", "red"), "on", Thing("table", "brown"))),
        ("A BLUE ROCKET!", Scene(Thing("rocket", "blue"))),
        ("tiny sphere on top of the large cube", Scene(Thing("ball", None, "small"), "on", Thing("box", None, "big"))),
        ("a chair beside a tree", Scene(Thing("chair"), "next to", Thing("tree"))),
        ("a red ball and a green cone", Scene(Thing("ball", "red"), "next to", Thing("cone", "green"))),
    ],
)
def test_prompts_people_write(prompt: str, scene: Scene) -> None:
    assert parse(prompt) == scene


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a red dragon", "'dragon' is unknown"),
        ("a red blue ball", "two colours"),
        ("red", "names no kind"),
        ("", "a thing is missing"),
        ("a ball on ", "a thing is missing"),
        ("beside a tree", "a thing is missing"),
        ("a ball on a table on a house", "'on' is known only in 'on', once and between two things"),
        ("a ball next to a table on a house", "'next' is known only in 'next to', once"),
        ("a ball next a table", "'next' is known only in 'next to'"),
        ("a small top", "'top' is known only in 'on top of'"),
    ],
)
def test_refusal_says_why_and_what_it_knows(prompt: str, why: str) -> None:
    with pytest.raises(BadPrompt) as error:
        parse(prompt)
    assert why in str(error.value)
    assert "rocket" in str(error.value)
    assert "profile 'full'" in str(error.value)

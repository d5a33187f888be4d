"""What a prompt may be: words that can be seen, and no picture in disguise."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.config import LimitsConfig
from app.encoded_picture import decode, find
from app.errors import BadInput, BadPrompt
from app.prompt import check_prompt, is_blank

LIMITS = LimitsConfig()
INVISIBLE = [
    "\u200b",  # zero width space
    "\u200d",  # joiner
    "\u2060",  # word joiner
    "\ufeff",  # byte order mark
    "\u00ad",  # soft hyphen
    "\u00a0",  # no-break space
    "\u3000",  # ideographic space
    "\u202e",  # right-to-left override
    "\ufe0f",  # variation selector
    "\u034f",  # grapheme joiner
    "\u180e",  # Mongolian vowel separator
    "\u115f",
    "\u3164",
    "\uffa0",
    "\u2800",  # empty Braille pattern
    "\u2028",
    "\U000e0041",  # tag
    "\n",
    "\x00",
]


@given(st.text(st.sampled_from(INVISIBLE)))
def test_a_prompt_of_which_nothing_is_visible_is_empty(prompt):
    assert is_blank(prompt)
    with pytest.raises(BadPrompt, match="the prompt is empty"):
        check_prompt(prompt, LIMITS)


@given(st.text(st.sampled_from([each for each in INVISIBLE if each != "\x00"])), st.sampled_from("aÄ杯🚀1?ก"))
def test_one_visible_character_makes_it_a_prompt(invisible, visible):
    check_prompt(invisible + visible + invisible, LIMITS)


@pytest.mark.parametrize("prompt", ["gr\ufffdn", "\udcfcber", "a \ud83d rocket"])
def test_what_was_not_utf_8_is_no_prompt(prompt):
    with pytest.raises(BadPrompt, match="not valid UTF-8"):
        check_prompt(prompt, LIMITS)


def picture(form: str, size: int = 40) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


FORMS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF", "AVIF": "AVIF"}


def wrapped(text: str, width: int, by: str) -> str:
    return by.join(text[start : start + width] for start in range(0, len(text), width))


SPELLINGS = {
    "plain": str,
    "no padding": lambda text: text.rstrip("="),
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "URL-safe, no padding": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "+ as space": lambda text: text.replace("+", " "),
    "+ as space, in lines": lambda text: wrapped(text, 76, "\r\n").replace("+", " "),
    "in lines": lambda text: wrapped(text, 76, "\n"),
    "in short lines": lambda text: wrapped(text, 60, "\r\n"),
    "indented": lambda text: "  " + wrapped(text, 64, "\n  "),
    "lines as spaces": lambda text: wrapped(text, 76, " "),
    "escaped slashes": lambda text: text.replace("/", "\\/"),
    "escaped lines": lambda text: wrapped(text, 76, "\\n"),
    "percent": lambda text: text.replace("/", "%2F").replace("+", "%2b").replace("=", "%3D"),
    "percent, twice": lambda text: text.replace("/", "%252F").replace("+", "%252B").replace("=", "%253D"),
}
WRAPPINGS = [
    "{}",
    " {}\n",
    '"{}"',
    "'{}'",
    "`{}`",
    "\u201c{}\u201d",
    "b'{}'",
    "\ufeff{}",
    "\xef\xbb\xbf{}",
    "\u200b{}",
    "({})",
    "data:image/png;base64,{}",
    "DATA:IMAGE/PNG;BASE64,{}",
    "Data:image/jpeg;charset=utf-8;base64, {}",
    "data:;base64,{}",
    "data:application/octet-stream,{}",
    '"data:image/webp;base64,{}"',
    "\ufeffdata:image/gif;base64,{}",
    "\xef\xbb\xbfdata:image/png;base64,{}",
    ";base64,{}",
    "base64,{}",
    "base64:{}",
    "<data:image/png;base64,{}>",
]


PICTURES = {name: picture(form) for form, name in FORMS.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_picture_in_base64_is_found_however_it_is_spelled(spelling, wrapping):
    for name, data in PICTURES.items():
        text = wrapping.format(SPELLINGS[spelling](base64.b64encode(data).decode()))
        found = find(text)
        assert found
        assert (found.format, found.around, found.decode()) == (name, "", data)
        with pytest.raises(BadPrompt, match=rf"the prompt is {name} data in base64: send it as a picture"):
            check_prompt(text, LIMITS)


@settings(max_examples=300)
@given(data=st.binary(max_size=300), spelling=st.sampled_from(list(SPELLINGS)), mark=st.booleans())
def test_every_spelling_gives_back_the_bytes(data, spelling, mark):
    data = b"\x89PNG\r\n\x1a\n" + data
    text = SPELLINGS[spelling](base64.b64encode(data).decode())
    found = find(f"data:image/png;base64,{text}" if mark else text)
    assert found
    assert found.decode() == data


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<img src="data:image/png;base64,{}" alt="chair">', "img src alt chair"),
        ("![a chair](data:image/png;base64,{})", "a chair"),
        ('{{"image": "data:image/png;base64,{}"}}', "image"),
        ("make this: data:image/png;base64,{}", "make this"),
        ("make this: {}", "make this"),
    ],
)
def test_a_picture_among_words_is_not_used_as_words(text, words):
    found = find(text.format(base64.b64encode(picture("PNG")).decode()))
    assert found
    assert found.around == words


def test_a_file_of_any_kind_in_base64_is_no_prompt():
    text = base64.b64encode(np.random.default_rng(0).bytes(3_000)).decode()
    for spelled in (text, text.replace("+", "-").replace("/", "_"), f"a chair {text}"):
        with pytest.raises(BadPrompt, match="the prompt is a file in base64"):
            check_prompt(spelled, LimitsConfig(max_prompt_characters=10_000))


@pytest.mark.parametrize(
    "prompt",
    [
        "a blue rocket",
        "data: charts of a cat, red",
        "database, a cylinder",
        "/world peace",
        "a base64 mug",
        "a mug with the words base64: hello",
        "GIF8 as letters of stone",
        "RIFF",
        "a_blue_rocket_with_red_fins_and_a_white_nose_standing_on_3_legs_low_poly_4k",
        "https://example.com/a/very/long/path/to/Some/Picture/of/a/Chair/1234567890/abcdefABCDEF.png",
        "一个红色的杯子" * 20,
        "0123456789" * 20,
        "ё" * 500,
    ],
)
def test_words_stay_words(prompt):
    assert find(prompt) is None
    check_prompt(prompt, LIMITS)


@settings(max_examples=500)
@given(st.text(max_size=60))
def test_short_text_is_found_or_not_but_never_fails(text):
    if found := find(text):
        try:
            found.decode()
        except BadInput:
            return


@pytest.mark.parametrize("text", ["iVBORw0KGgoAAAAN!", "/9j/4AAQA", "é"])
def test_what_is_no_base64_says_so(text):
    with pytest.raises(BadInput, match="the picture is not base64"):
        decode(text)

"""Checks that apply to prompts of every profile. Used by the pipeline and by the web process, which loads no model."""

from __future__ import annotations

import unicodedata

from app.config import LimitsConfig
from app.encoded_picture import find
from app.errors import BadPrompt

LINE_BREAKS_AND_TABS = "\t\n\r"
INVISIBLE = ("Cc", "Cf", "Co", "Mn", "Me", "Zs", "Zl", "Zp")
"""Unicode categories that are invisible without another character: controls, joiners, marks, blanks."""

BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Hangul fillers and the empty Braille pattern: letters and a symbol to Unicode, blank on the screen."""

REPLACEMENT = "\ufffd"
"""What decoders put in place of bytes that are not UTF-8."""

PICTURE_OPTIONS = "HTTP: the field image of /generate/, picture of /v1/jobs; command line: --image FILE"


def is_blank(text: str) -> bool:
    """Whether a text is invisible."""
    return all(unicodedata.category(c) in INVISIBLE or c in BLANK_LETTERS for c in text)


def check_prompt(prompt: str, limits: LimitsConfig) -> None:
    """Raises BadPrompt for a prompt that no profile takes: empty, not text, too long, a picture, or with control
    characters."""
    if is_blank(prompt):
        raise BadPrompt('the prompt is empty: say what to make, e.g. "a blue rocket"')
    if not _is_text(prompt):
        raise BadPrompt("the prompt is not valid UTF-8: check the encoding of the terminal or the caller")
    if found := find(prompt):
        raise BadPrompt(f"the prompt is {found}: send it as a picture ({PICTURE_OPTIONS})")
    if len(prompt) > limits.max_prompt_characters:
        limit = f"limits.max_prompt_characters is {limits.max_prompt_characters:,}"
        raise BadPrompt(f"the prompt has {len(prompt):,} characters, {limit}")
    if bad := next((c for c in prompt if unicodedata.category(c) == "Cc" and c not in LINE_BREAKS_AND_TABS), None):
        raise BadPrompt(f"the prompt holds the control character U+{ord(bad):04X}: send plain text")


def _is_text(prompt: str) -> bool:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return REPLACEMENT not in prompt

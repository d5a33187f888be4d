"""What a prompt may be, whatever the profile. Both the pipeline and the web process, which loads no model, ask here."""

from __future__ import annotations

import unicodedata

from app.config import LimitsConfig
from app.errors import BadPrompt

LINE_BREAKS_AND_TABS = "\t\n\r"


def check_prompt(prompt: str, limits: LimitsConfig) -> None:
    """Raises BadPrompt for what no profile takes: empty, not text, too long, or with control characters."""
    if not prompt.strip():
        raise BadPrompt('the prompt is empty: say what to make, e.g. "a blue rocket"')
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadPrompt("the prompt is not valid UTF-8: check the encoding of the terminal or the caller") from None
    if len(prompt) > limits.max_prompt_characters:
        limit = f"limits.max_prompt_characters is {limits.max_prompt_characters:,}"
        raise BadPrompt(f"the prompt has {len(prompt):,} characters, {limit}")
    if bad := next((c for c in prompt if unicodedata.category(c) == "Cc" and c not in LINE_BREAKS_AND_TABS), None):
        raise BadPrompt(f"the prompt holds the control character U+{ord(bad):04X}: send plain text")

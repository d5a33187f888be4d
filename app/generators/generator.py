"""What is known of a generator before it is loaded. This file imports no torch, nor does any file of this package."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Generator:
    """Turns a prompt or a picture into a splat. Code is named as "module:function", and imported when it is called.

    name: the value of profile.name. summary: a line for --help.
    load: function (config, on_load) -> app.pipeline.LoadedGenerator.
    check_prompt: function (prompt) that raises BadPrompt for words that the generator does not know; empty if it takes
    any.
    examples: prompts that it generates well, for the page. takes_pictures: whether a caller may send a picture.
    has_samplers: whether the sampler settings of [trellis] apply; what it loads is then an
    app.pipeline.SamplingGenerator.
    needs_gpu: whether it is useless without one.
    stand_in: the sentence that labels its results, if it stands in for real models; empty otherwise.
    models: the keys of the configuration that name its models (docs/models.md), such as "image.model".
    settings: keys that it fixes, by section, whatever the configuration says: its scorer, its folders.
    self_test_score: what the self-test scores on any machine with the default settings; None if that is not known.
    """

    name: str
    summary: str
    load: str
    check_prompt: str = ""
    examples: tuple[str, ...] = ()
    takes_pictures: bool = False
    has_samplers: bool = False
    needs_gpu: bool = False
    stand_in: str = ""
    models: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    self_test_score: float | None = None

    def check(self, prompt: str) -> None:
        """Raises BadPrompt for words that the generator does not know."""
        if self.check_prompt:
            resolve(self.check_prompt)(prompt)


def resolve(name: str) -> Callable[..., Any]:
    """The function of that "module:function"."""
    found: Callable[..., Any] = pkgutil.resolve_name(name)
    return found

"""What is known about a generator before it is loaded. Nothing in this package imports torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Generator:
    """Turns a prompt or a picture into a splat. Code is given as "module:function", and imported when it is called.

    name: the value of profile.name. summary: a line for --help.
    load: function (config, on_load) -> app.pipeline.LoadedGenerator.
    check_prompt: function (prompt) that raises BadPrompt if the generator cannot make it; empty if it takes any prompt.
    examples: prompts that it generates well, for the page. takes_pictures: whether a caller may send a picture.
    needs_gpu: whether it needs a GPU.
    stand_in: the sentence that labels its results, if it stands in for real models; empty otherwise.
    models: the keys of the configuration that name its models (docs/models.md), such as "image.model".
    settings: configuration keys that it overrides, by section, such as its scorer.
    self_test_score: the score of the self-test with default settings on any machine; None if unknown.
    """

    name: str
    summary: str
    load: str
    check_prompt: str = ""
    examples: tuple[str, ...] = ()
    takes_pictures: bool = False
    needs_gpu: bool = False
    stand_in: str = ""
    models: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    self_test_score: float | None = None

    @property
    def has_samplers(self) -> bool:
        """Whether it loads TRELLIS, so that its samplers can be set; it is then an app.pipeline.SamplingGenerator."""
        return "trellis.model" in self.models

    def check(self, prompt: str) -> None:
        """Raises BadPrompt if the generator cannot make this prompt."""
        if self.check_prompt:
            resolve(self.check_prompt)(prompt)


def resolve(name: str) -> Callable[..., Any]:
    """Imports the function named "module:function"."""
    found: Callable[..., Any] = pkgutil.resolve_name(name)
    return found

"""The prompts that profile `shapes` understands.

    [a] [size] [colour] KIND                       "a blue rocket", "a small wooden chair"
    KIND on KIND, KIND next to KIND                "a green cone on a white box"

This file does not know what the objects look like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.errors import BadPrompt

KINDS: dict[str, tuple[str, ...]] = {
    "ball": ("sphere",),
    "box": ("cube",),
    "cone": (),
    "cylinder": (),
    "ring": ("torus",),
    "pyramid": (),
    "mug": ("cup",),
    "table": (),
    "chair": (),
    "tree": (),
    "house": (),
    "snowman": (),
    "rocket": (),
    "mushroom": (),
}
"""Every kind of object and its synonyms."""

COLOURS: dict[str, tuple[str, ...]] = {
    "red": (),
    "orange": (),
    "yellow": (),
    "green": (),
    "blue": (),
    "purple": ("violet",),
    "pink": (),
    "brown": ("wooden",),
    "black": (),
    "white": (),
}

SIZES: dict[str, tuple[str, ...]] = {"small": ("tiny", "little"), "big": ("large", "huge"), "tall": (), "short": ()}

RELATIONS: dict[str, tuple[str, ...]] = {"on": ("on top of", "standing on"), "next to": ("beside", "and")}

ARTICLES = frozenset({"a", "an", "the", "one"})


@dataclass(frozen=True)
class Thing:
    """One object. Attributes that the prompt does not name are None."""

    kind: str
    colour: str | None = None
    size: str | None = None

    def __str__(self) -> str:
        words = " ".join(word for word in (self.size, self.colour, self.kind) if word)
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Scene:
    """One object, or two and the relation of the first to the second."""

    first: Thing
    relation: str | None = None
    second: Thing | None = None

    def __str__(self) -> str:
        return f"{self.first} {self.relation} {self.second}" if self.second else str(self.first)

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.first, self.second) if self.second else (self.first,)


def parse(prompt: str) -> Scene:
    """Parses a prompt. Raises BadPrompt, naming the word at fault and the vocabulary."""
    text = " " + re.sub(r"[\s,.!]+", " ", prompt.lower()).strip() + " "
    for relation, spellings in RELATIONS.items():
        for spelling in sorted((relation, *spellings), key=len, reverse=True):
            first, found, second = text.partition(f" {spelling} ")
            if found:
                return Scene(_thing(first, prompt), relation, _thing(second, prompt))
    return Scene(_thing(text, prompt))


def known_words() -> str:
    """The vocabulary on one line, for messages and help."""
    names = {"kinds": KINDS, "colours": COLOURS, "sizes": SIZES}
    lists = [f"{title}: {', '.join(words)}" for title, words in names.items()]
    return "; ".join(lists) + '; two things: "X on Y", "X next to Y"'


def _thing(text: str, prompt: str) -> Thing:
    found: dict[str, str] = {}
    for word in text.split():
        if word in ARTICLES:
            continue
        role, name = _meaning(word, prompt)
        if role in found:
            raise _bad(prompt, f"{found[role]!r} and {name!r} are two {role}s for one thing")
        found[role] = name
    if "kind" not in found:
        raise _bad(prompt, f"{text.strip()!r} names no kind of thing" if text.strip() else "a thing is missing")
    return Thing(found["kind"], found.get("colour"), found.get("size"))


def _meaning(word: str, prompt: str) -> tuple[str, str]:
    for role, names in (("kind", KINDS), ("colour", COLOURS), ("size", SIZES)):
        for name, others in names.items():
            if word == name or word in others:
                return role, name
    if phrases := [phrase for phrase in _phrases() if word in phrase.split()]:
        raise _bad(prompt, f"{word!r} is known only in {phrases[0]!r}, once and between two things")
    raise _bad(prompt, f"the word {word!r} is unknown to it")


def _phrases() -> list[str]:
    return [phrase for relation, others in RELATIONS.items() for phrase in (relation, *others)]


def _bad(prompt: str, why: str) -> BadPrompt:
    return BadPrompt(
        f"profile 'shapes' cannot make {prompt!r}: {why}. It is a small built-in world and knows {known_words()}. "
        "Any other prompt needs profile 'full'."
    )

"""The registry of generators. Everything that depends on the profile asks here; no other module names one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from app.errors import BadInput
from app.generators import full, shapes
from app.generators.generator import Generator

GENERATORS: dict[str, Generator] = {
    "full": full.GENERATOR,
    "shapes": shapes.GENERATOR,
}
"""By name, which is the value of profile.name."""

DEFAULT = "shapes"


def _known(name: str) -> str:
    if name not in GENERATORS:
        raise ValueError(f"no such profile: use one of {', '.join(GENERATORS)}")
    return name


ProfileName = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(GENERATORS)})]


def check_takes_pictures(generator: Generator) -> None:
    """Raises BadInput if the generator takes no pictures."""
    if not generator.takes_pictures:
        others = " or ".join(repr(each.name) for each in GENERATORS.values() if each.takes_pictures)
        raise BadInput(
            f"profile {generator.name!r} generates from prompts only: omit the picture, or use profile {others}"
        )


def without_models() -> str:
    """The profiles that need no models, for error messages."""
    return " or ".join(repr(each.name) for each in GENERATORS.values() if not each.models)


def without_gpu() -> str:
    """The profiles that need no GPU, for error messages."""
    return " or ".join(repr(each.name) for each in GENERATORS.values() if not each.needs_gpu)

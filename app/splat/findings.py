"""The result of a diagnosis: statistics of each field, findings and hints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from app.errors import BadInput

Field = Literal["means", "quats", "log_scales", "opacity_logits", "sh"]
FIELDS: tuple[Field, ...] = ("means", "quats", "log_scales", "opacity_logits", "sh")

Kind = Literal[
    "nonfinite",
    "out_of_bounds",
    "stray_position",
    "uniform_position",
    "other_unit",
    "zero_quaternion",
    "oversized",
    "uniform_scale",
    "linear_scale",
    "uniform_opacity",
    "linear_opacity",
    "opacity_255",
    "double_logit",
    "rgb_255",
    "rgb_unit",
]

BEYOND_REPAIR: frozenset[Kind] = frozenset({"uniform_position"})
"""Kinds that no repair can undo."""


@dataclass(frozen=True)
class FieldStats:
    """Mean, standard deviation (population) and range over the finite values; None if there are none.

    count: values in the field, all components. nonfinite: how many of them are NaN or infinite.
    """

    count: int
    nonfinite: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class Finding:
    """One fault of one field.

    count: Gaussians affected. figures: the numbers that led to the finding, by name, in the field's unit.
    """

    kind: Kind
    field: Field
    count: int
    message: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """Statistics by field name, and the findings: first lost values, then faults of a whole field.

    hints: possible faults, and an unusual unit of length. They are reported, and nothing is repaired.
    """

    gaussians: int
    stats: dict[Field, FieldStats]
    findings: tuple[Finding, ...]
    hints: tuple[Finding, ...] = ()

    @property
    def healthy(self) -> bool:
        """No finding; hints do not count."""
        return not self.findings

    def find(self, kind: Kind, field: Field | None = None) -> Finding | None:
        """The finding of this kind (and in this field, if given), or None."""
        return next((f for f in self.findings if f.kind == kind and field in (None, f.field)), None)

    def with_hint(self, kind: Kind) -> Diagnosis:
        """The diagnosis with the hint of this kind as a finding. Raises BadInput if there is neither."""
        if self.find(kind):
            return self
        chosen = tuple(hint for hint in self.hints if hint.kind == kind)
        if not chosen:
            raise BadInput(f"there is no hint {kind} to act on: see `splatgate inspect`")
        others = tuple(hint for hint in self.hints if hint.kind != kind)
        return replace(self, findings=(*self.findings, *chosen), hints=others)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no NaN, no numpy."""
        return {
            "gaussians": self.gaussians,
            "stats": {field: vars(stats) for field, stats in self.stats.items()},
            "findings": [vars(finding) for finding in self.findings],
            "hints": [vars(hint) for hint in self.hints],
        }

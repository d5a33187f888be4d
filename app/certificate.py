"""The certificate: what is claimed about an asset, stored beside it so that anyone can check it offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.config import DiagnoseConfig
from app.errors import BadFile
from app.gate import Outcome, Verdict
from app.generators import ProfileName
from app.metrics import score_of
from app.reading import read_bytes
from app.reason import Reason

MAX_BYTES = 1 << 20
AssetName = Annotated[str, Field(pattern=r"^(asset\.[a-z0-9.]{1,40}|picture\.png)$")]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AssetRecord(Record):
    """A file that the certificate covers."""

    name: AssetName
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class ModelRecord(Record):
    """A model that was used. weights_sha256: None for a model without weights (the built-in generator)."""

    role: Literal["generator", "text_to_image", "cutout", "image_features", "image_to_splat", "scorer"]
    model: str
    weights_sha256: Sha256 | None


class SamplerRecord(Record):
    """The settings of one sampler, as [trellis] has them."""

    steps: int
    guidance: float
    interval: tuple[float, float]
    rescale: float


class SamplersRecord(Record):
    """How TRELLIS sampled. oversample: structures sampled; the one with the fewest voxels went on."""

    structure: SamplerRecord
    latent: SamplerRecord
    oversample: int

    def to_settings(self) -> dict[str, Any]:
        """As keys of [trellis]."""
        stages = {"structure": self.structure, "latent": self.latent}
        values = {f"{stage}_{name}": value for stage, each in stages.items() for name, value in each}
        return {"preset": "published", "oversample": self.oversample, **values}


class ViewRecord(Record):
    """The direction of one view, in degrees."""

    name: str
    azimuth: float
    pitch: float


class RenderRecord(Record):
    """How the views were rendered; units as in RenderConfig."""

    size: int
    radius: float
    fov: float
    placement: Literal["none", "judge"]
    extent: float
    background: tuple[float, float, float]
    backend: str


class MetricRecord(Record):
    """A metric that was measured. per_view: in the order of the views; empty if the metric has none.

    model, weights_sha256: the model that computed it; None without a model. details: specific to the metric.
    """

    name: str
    value: float
    threshold: float
    per_view: tuple[float, ...] = ()
    model: str | None = None
    weights_sha256: Sha256 | None = None
    details: dict[str, str | bool | float] = {}


class GateRecord(Record):
    """The gate's settings for this verdict; each metric has its own threshold."""

    enabled: bool
    min_gaussians: int


class VerdictRecord(Record):
    """reasons: sentences. reason_codes: the code of each; empty in certificates of older releases."""

    outcome: Outcome
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...] = ()

    def to_reasons(self) -> tuple[Reason, ...]:
        """The reasons as the gate gave them, except for the figures, which only the sentences contain."""
        codes = self.reason_codes or ("text",) * len(self.reasons)
        return tuple(Reason(code, {"text": text}) for code, text in zip(codes, self.reasons, strict=False))

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictRecord:
        reasons = verdict.reasons
        return cls(
            outcome=verdict.outcome, reasons=tuple(map(str, reasons)), reason_codes=tuple(each.code for each in reasons)
        )


class Certificate(Record):
    """Everything needed to check an asset offline: `splatgate check` recomputes it.

    diagnose: the settings of the diagnosis; None in certificates of older releases.
    samplers: None for a generator without samplers, and in certificates of older releases.
    """

    format: Literal["splatgate-certificate/2"] = "splatgate-certificate/2"
    created: str
    prompt: str
    profile: ProfileName
    stand_in: bool
    seed: int
    attempt: int
    gaussians: int
    assets: tuple[AssetRecord, ...]
    models: tuple[ModelRecord, ...]
    samplers: SamplersRecord | None = None
    diagnose: DiagnoseConfig | None = None
    diagnosis: dict[str, Any]
    repairs: dict[str, Any]
    findings_left: tuple[str, ...]
    views: tuple[ViewRecord, ...]
    render: RenderRecord
    metrics: tuple[MetricRecord, ...]
    gate: GateRecord
    verdict: VerdictRecord
    config_digest: str
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_format(cls, tree: Any) -> Any:
        return upgraded(tree) if isinstance(tree, dict) and tree.get("format") == "splatgate-certificate/1" else tree

    @property
    def score(self) -> float | None:
        """The value of the first metric; None if there is none."""
        return score_of({metric.name: metric.value for metric in self.metrics})

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_certificate(path: Path) -> Certificate:
    """Reads a certificate without checking its claims. Raises BadFile, naming the invalid key."""
    text = read_bytes(path, MAX_BYTES, "a certificate is never that long; give a certificate.json")
    try:
        return Certificate.model_validate_json(text)
    except ValidationError as error:
        raise BadFile(f"{path}: is not a certificate of ours: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first invalid key and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "content"
    return f"{place}: {first['msg']}"


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """Converts a certificate of format 1 to format 2. Raises ValueError if a key of format 1 is missing.

    Format 1 had one score, against the prompt or the picture, and a threshold for each in its gate.
    """
    try:
        score, gate, views = tree["score"], dict(tree["gate"]), [dict(view) for view in tree["views"]]
        per_view = [view.pop("score") for view in views]
        thresholds = {"clip": gate.pop("threshold"), "likeness": gate.pop("image_threshold", 0.70)}
        scorer = next((model for model in tree["models"] if model["role"] == "scorer"), dict[str, Any]())
        metrics = []
        if score is not None:
            details = {name: value for name, value in score.items() if name not in ("value", "against")}
            name = "likeness" if score.get("against") == "picture" else "clip"
            found = {"name": name, "value": score["value"], "threshold": thresholds[name], "per_view": per_view}
            weights = {"model": scorer.get("model"), "weights_sha256": scorer.get("weights_sha256")}
            metrics.append(found | weights | {"details": details})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"is not of format 1: {error!r}") from None
    others = {name: value for name, value in tree.items() if name != "score"}
    return others | {"format": "splatgate-certificate/2", "views": views, "gate": gate, "metrics": metrics}

"""The certificate: everything said of an asset, written beside it, and held against it again by anyone, offline."""

from __future__ import annotations

import io
import platform
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from loguru import logger
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app import __version__
from app.config import Config
from app.digest import sha256_of
from app.errors import BadFile
from app.gate import Outcome
from app.pipeline import Judged, load_scorer, look, validate
from app.splat.diagnosis import diagnose
from app.splat.files import read_splat, replacing, write_splat
from app.splat.model import Splat
from app.splat.raster import Views, side_by_side

MAX_BYTES = 1 << 20
SAME_SCORE = {".ply": 0.005, ".spz": 0.02}
"""How far a recomputed score may lie from the certified one: another backend, another device; SPZ is quantised."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AssetRecord(Record):
    """A file the certificate speaks of, by its content."""

    name: Annotated[str, Field(max_length=200)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class ModelRecord(Record):
    """A model that took part. weights_sha256 is None where it has none (the built-in generator)."""

    role: Literal["generator", "text_to_image", "image_to_splat", "scorer"]
    model: str
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class ViewRecord(Record):
    """One view: where from (degrees), and its cosine with the prompt."""

    name: str
    azimuth: float
    pitch: float
    score: float | None


class RenderRecord(Record):
    """How the views were drawn; see RenderConfig for the units."""

    size: Annotated[int, Field(ge=16, le=4096)]
    radius: float
    fov: float
    placement: Literal["none", "judge"]
    extent: float
    background: tuple[float, float, float]
    backend: str


class ScoreRecord(Record):
    value: float
    aggregate: Literal["mean", "max"]
    prompt_truncated: bool


class GateRecord(Record):
    """The gate's settings that the verdict was reached under."""

    enabled: bool
    threshold: float
    min_gaussians: int


class VerdictRecord(Record):
    outcome: Outcome
    reasons: tuple[str, ...]


class Certificate(Record):
    """Everything needed to hold an asset against its claims, offline: `splatgate check` recomputes it."""

    format: Literal["splatgate-certificate/1"] = "splatgate-certificate/1"
    created: str
    prompt: str
    profile: Literal["full", "shapes"]
    stand_in: bool
    seed: int
    attempt: int
    gaussians: int
    assets: tuple[AssetRecord, ...]
    models: tuple[ModelRecord, ...]
    diagnosis: dict[str, Any]
    repairs: dict[str, Any]
    views: Annotated[tuple[ViewRecord, ...], Field(max_length=64)]
    render: RenderRecord
    score: ScoreRecord | None
    gate: GateRecord
    verdict: VerdictRecord
    config_digest: str
    versions: dict[str, str]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_certificate(path: Path) -> Certificate:
    """Reads a certificate, which nobody vouches for yet. Raises BadFile, naming the key at fault."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from None
    if len(text) > MAX_BYTES:
        raise BadFile(f"{path}: is over {MAX_BYTES:,} bytes, more than a certificate of ours has")
    try:
        return Certificate.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise BadFile(f"{path}: is not a certificate of ours: {place}: {first['msg']}") from None


def write_outputs(judged: Judged, folder: Path, config: Config, now: datetime) -> Certificate:
    """Writes asset.ply, asset.spz, views.png and certificate.json into `folder`, each whole or not at all.

    The certificate is written last: where it stands, everything it speaks of stands too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "certificate.json").unlink(missing_ok=True)
    assets = tuple(_write_asset(folder / name, judged.splat) for name in ("asset.ply", "asset.spz"))
    write_picture(folder / "views.png", judged.views)
    logger.info(f"Final stats: {len(judged.splat):,} gaussians, {assets[0].bytes / 2**20:.1f}MB")
    certificate = certify(judged, assets, config, now)
    with replacing(folder / "certificate.json") as stream:
        stream.write(certificate.to_json().encode())
    return certificate


def write_picture(path: Path, views: Views) -> None:
    """The views side by side as a PNG."""
    png = io.BytesIO()
    Image.fromarray(side_by_side(views)).save(png, "PNG")
    with replacing(path) as stream:
        stream.write(png.getvalue())


def certify(judged: Judged, assets: tuple[AssetRecord, ...], config: Config, now: datetime) -> Certificate:
    """The certificate of an attempt and its files."""
    judgement, settings = judged.score, config.render
    scores = judgement.per_view if judgement else (None,) * len(settings.views)
    shapes_profile = config.profile.name == "shapes"
    models = [ModelRecord(role="generator", model="shapes (built-in stand-in)", weights_sha256=None)]
    if judgement:
        models.append(ModelRecord(role="scorer", model=judgement.model, weights_sha256=judgement.weights_sha256))
    return Certificate(
        created=now.isoformat(timespec="seconds"),
        prompt=judged.prompt,
        profile=config.profile.name,
        stand_in=shapes_profile,
        seed=judged.seed,
        attempt=judged.attempt,
        gaussians=len(judged.splat),
        assets=assets,
        models=tuple(models),
        diagnosis=judged.diagnosis.to_dict(),
        repairs=judged.repairs.to_dict(),
        views=tuple(
            ViewRecord(name=view.name, azimuth=view.azimuth, pitch=view.pitch, score=each)
            for view, each in zip(settings.views, scores, strict=True)
        ),
        render=RenderRecord(
            **settings.model_dump(include={"size", "radius", "fov", "placement", "extent", "background"}),
            backend=judged.views.backend,
        ),
        score=ScoreRecord(
            value=judgement.value, aggregate=judgement.aggregate, prompt_truncated=judgement.prompt_truncated
        )
        if judgement
        else None,
        gate=GateRecord(**config.validation.model_dump()),
        verdict=VerdictRecord(outcome=judged.verdict.outcome, reasons=judged.verdict.reasons),
        config_digest=config.digest(),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of everything whose numbers are in a certificate."""
    names = ("torch", "open_clip_torch", "numpy", "numba", "gsplat")
    found = {name: _version(name) for name in names}
    return {"splatgate": __version__, "python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Check:
    """One claim held against the file: what was claimed, what was found, whether they agree."""

    claim: str
    claimed: str
    found: str
    agrees: bool


def check(certificate: Certificate, path: Path, config: Config) -> tuple[Check, ...]:
    """Recomputes what the certificate claims of the file, under the certificate's own settings.

    The content first: where that differs the rest is not worth computing. The scorer is this host's, and must be the
    one that the certificate names. Raises BadFile where the file is no splat, BadWeights where the scorer is missing.
    """
    digest, claimed = sha256_of(path), {asset.sha256 for asset in certificate.assets}
    content = Check("sha256", " or ".join(sorted(claimed)), digest, digest in claimed)
    if not content.agrees:
        return (content,)
    splat = read_splat(path, config.limits.max_gaussians)
    count = Check("gaussians", f"{certificate.gaussians:,}", f"{len(splat):,}", len(splat) == certificate.gaussians)
    findings = [finding.kind for finding in diagnose(splat, config.diagnose).findings]
    healthy = Check("findings after repair", "none", ", ".join(findings) or "none", not findings)
    return (content, count, healthy, *_check_judgement(certificate, splat, path, config))


def _check_judgement(certificate: Certificate, splat: Splat, path: Path, config: Config) -> tuple[Check, ...]:
    settings = certified_config(certificate, config)
    scorer = load_scorer(settings)
    views = look(splat, settings)
    score, verdict = validate(splat, views, certificate.prompt, scorer, settings)
    outcome = Check(
        "verdict", certificate.verdict.outcome, verdict.outcome, certificate.verdict.outcome == verdict.outcome
    )
    if not certificate.score or not score:
        claimed, found = ("present" if each else "none" for each in (certificate.score, score))
        return (Check("score", claimed, found, claimed == found), outcome)
    model = next((m.weights_sha256 for m in certificate.models if m.role == "scorer"), None)
    same = Check("scorer weights", str(model), score.weights_sha256, model == score.weights_sha256)
    near = abs(score.value - certificate.score.value) <= SAME_SCORE[path.suffix.lower()]
    return (same, Check("score", f"{certificate.score.value:.4f}", f"{score.value:.4f}", near), outcome)


def certified_config(certificate: Certificate, config: Config) -> Config:
    """This host's configuration with the certificate's settings for profile, views, score and gate in it."""
    tree = config.model_dump(by_alias=True)
    tree["profile"]["name"] = certificate.profile
    tree["render"] |= certificate.render.model_dump(exclude={"backend"})
    tree["render"]["views"] = [view.model_dump(exclude={"score"}) for view in certificate.views]
    tree["validate"] |= certificate.gate.model_dump()
    if certificate.score:
        tree["score"]["aggregate"] = certificate.score.aggregate
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise BadFile(f"certificate: its settings are out of range: {error.errors()[0]['msg']}") from None


def _write_asset(path: Path, splat: Splat) -> AssetRecord:
    write_splat(path, splat)
    return AssetRecord(name=path.name, sha256=sha256_of(path), bytes=path.stat().st_size)

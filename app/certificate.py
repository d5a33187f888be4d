"""The certificate: everything said of an asset, written beside it, and held against it again by anyone, offline."""

from __future__ import annotations

import io
import platform
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from loguru import logger
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app import __version__
from app.config import Config, ValidateConfig
from app.digest import sha256_of
from app.errors import BadFile
from app.gate import Outcome, Verdict, judge
from app.generators import ProfileName
from app.pipeline import Attempt, load_scorer, render_views, validate
from app.prompt import check_prompt
from app.reading import read_bytes
from app.reason import Reason
from app.splat.diagnosis import diagnose
from app.splat.files import read_splat, replacing, write_splat
from app.splat.format import Format
from app.splat.formats import asset_name, certified
from app.splat.model import Splat
from app.splat.raster import Views, side_by_side
from app.stages.picture import Picture, encode_png, read_picture

MAX_BYTES = 1 << 20
AssetName = Annotated[str, Field(pattern=r"^(asset\.[a-z0-9.]{1,40}|picture\.png)$")]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AssetRecord(Record):
    """A file the certificate speaks of, by its content."""

    name: AssetName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class ModelRecord(Record):
    """A model that took part. weights_sha256 is None where it has none (the built-in generator)."""

    role: Literal["generator", "text_to_image", "cutout", "image_features", "image_to_splat", "scorer"]
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

    size: int
    radius: float
    fov: float
    placement: Literal["none", "judge"]
    extent: float
    background: tuple[float, float, float]
    backend: str


class ScoreRecord(Record):
    """against: what the views were held against, the words, or picture.png where there were none."""

    value: float
    aggregate: Literal["mean", "max"]
    prompt_truncated: bool
    against: Literal["prompt", "picture"] = "prompt"


class GateRecord(Record):
    """The gate's settings that the verdict was reached under."""

    enabled: bool
    threshold: float
    image_threshold: float = 0.70
    min_gaussians: int


class VerdictRecord(Record):
    """reasons: sentences. reason_codes: the code of each; empty in an older release's certificates."""

    outcome: Outcome
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...] = ()

    def to_reasons(self) -> tuple[Reason, ...]:
        """As the gate gave them, though without their figures: the sentences hold those."""
        codes = self.reason_codes or ("text",) * len(self.reasons)
        return tuple(Reason(code, {"text": text}) for code, text in zip(codes, self.reasons, strict=False))

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictRecord:
        reasons = verdict.reasons
        return cls(
            outcome=verdict.outcome, reasons=tuple(map(str, reasons)), reason_codes=tuple(each.code for each in reasons)
        )


class Certificate(Record):
    """Everything needed to hold an asset against its claims, offline: `splatgate check` recomputes it."""

    format: Literal["splatgate-certificate/1"] = "splatgate-certificate/1"
    created: str
    prompt: str
    profile: ProfileName
    stand_in: bool
    seed: int
    attempt: int
    gaussians: int
    assets: tuple[AssetRecord, ...]
    models: tuple[ModelRecord, ...]
    diagnosis: dict[str, Any]
    repairs: dict[str, Any]
    findings_left: tuple[str, ...]
    views: tuple[ViewRecord, ...]
    render: RenderRecord
    score: ScoreRecord | None
    gate: GateRecord
    verdict: VerdictRecord
    config_digest: str
    versions: dict[str, str]

    @property
    def against_picture(self) -> bool:
        """Whether the score is the likeness to picture.png, and not to the words."""
        return self.score is not None and self.score.against == "picture"

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_certificate(path: Path) -> Certificate:
    """Reads a certificate, which nobody vouches for yet. Raises BadFile, naming the key at fault."""
    text = read_bytes(path, MAX_BYTES, "no certificate of ours is so long, give a certificate.json")
    try:
        return Certificate.model_validate_json(text)
    except ValidationError as error:
        raise BadFile(f"{path}: is not a certificate of ours: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    """The key at fault and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "content"
    return f"{place}: {first['msg']}"


def write_outputs(attempt: Attempt, folder: Path, config: Config, now: datetime) -> Certificate:
    """Writes the splat in every certified format, views.png, certificate.json and, if there is one, picture.png.

    Each is written whole or not at all, the certificate last: where it stands, everything it speaks of stands too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "certificate.json").unlink(missing_ok=True)
    except OSError as error:
        raise BadFile(f"{folder}: cannot hold the results: {error.strerror}; choose another folder with -o") from None
    assets = [_write_asset(folder, format, attempt.splat) for format in certified()]
    if attempt.picture:
        assets.append(_write_source_picture(folder, attempt.picture))
    write_picture(folder / "views.png", attempt.views)
    logger.info(f"Final stats: {len(attempt.splat):,} gaussians, {assets[0].bytes / 2**20:.1f}MB")
    certificate = certify(attempt, tuple(assets), config, now)
    with replacing(folder / "certificate.json") as stream:
        stream.write(certificate.to_json().encode())
    return certificate


def write_picture(path: Path, views: Views) -> None:
    """The views side by side as a PNG."""
    png = io.BytesIO()
    Image.fromarray(side_by_side(views)).save(png, "PNG")
    with replacing(path) as stream:
        stream.write(png.getvalue())


def certify(attempt: Attempt, assets: tuple[AssetRecord, ...], config: Config, now: datetime) -> Certificate:
    """The certificate of an attempt and its files."""
    judgement, settings = attempt.judgement, config.render
    scores = judgement.per_view if judgement else (None,) * len(settings.views)
    models = [ModelRecord(**asdict(model)) for model in attempt.models]
    if judgement:
        models.append(ModelRecord(role="scorer", model=judgement.model, weights_sha256=judgement.weights_sha256))
    return Certificate(
        created=now.isoformat(timespec="seconds"),
        prompt=attempt.prompt,
        profile=config.profile.name,
        stand_in=bool(config.profile.generator.stand_in),
        seed=attempt.seed,
        attempt=attempt.number,
        gaussians=len(attempt.splat),
        assets=assets,
        models=tuple(models),
        diagnosis=attempt.diagnosis.to_dict(),
        repairs=attempt.repairs.to_dict(),
        findings_left=tuple(finding.kind for finding in attempt.findings_left),
        views=tuple(
            ViewRecord(name=view.name, azimuth=view.azimuth, pitch=view.pitch, score=each)
            for view, each in zip(settings.views, scores, strict=True)
        ),
        render=RenderRecord(
            **settings.model_dump(include={"size", "radius", "fov", "placement", "extent", "background"}),
            backend=attempt.views.backend,
        ),
        score=ScoreRecord(
            value=judgement.value,
            aggregate=judgement.aggregate,
            prompt_truncated=judgement.prompt_truncated,
            against=judgement.against,
        )
        if judgement
        else None,
        gate=GateRecord(**config.validation.model_dump()),
        verdict=VerdictRecord.of(attempt.verdict),
        config_digest=config.digest(),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of the packages that decide a certificate's numbers."""
    names = (
        "torch",
        "open_clip_torch",
        "numpy",
        "numba",
        "scipy",
        "gsply",
        "gsplat",
        "diffusers",
        "transformers",
        "rembg",
    )
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
    one that the certificate names. How the splat came about (seed, findings before the repair, versions) cannot be
    seen from the file and is not checked. Raises BadFile where the file is no splat or the certificate out of range,
    BadPrompt, BadWeights where the scorer is missing.
    """
    if not certificate.against_picture:
        check_prompt(certificate.prompt, config.limits)
    settings = certified_config(certificate, config)
    digest = sha256_of(path)
    splats = [asset for asset in certificate.assets if asset.name != "picture.png"]
    asset = next((asset for asset in splats if asset.sha256 == digest), None)
    if asset is None:
        claimed = " or ".join(asset.sha256[:12] for asset in splats)
        return (Check("sha256", claimed, digest[:12], False),)
    splat = read_splat(path, config.limits.max_gaussians)
    left = tuple(finding.kind for finding in diagnose(splat, config.diagnose).findings)
    return (
        Check(f"sha256 of {asset.name}", digest[:12], digest[:12], True),
        _equal("bytes", f"{asset.bytes:,}", f"{path.stat().st_size:,}"),
        _equal("gaussians", f"{certificate.gaussians:,}", f"{len(splat):,}"),
        _equal("findings left", ", ".join(certificate.findings_left) or "none", ", ".join(left) or "none"),
        _equal("stand-in", str(certificate.stand_in), str(bool(settings.profile.generator.stand_in))),
        _check_gate(certificate, config.validation),
        *_check_judgement(certificate, splat, settings, _tolerance(asset.name), path.parent),
    )


def _tolerance(asset: AssetName) -> float:
    """How far a recomputed score may lie from the certified one. Raises BadFile for a format that is not certified."""
    found = next((each.tolerance for each in certified() if asset_name(each) == asset), None)
    if found is None:
        raise BadFile(f"{asset}: its format is not certified by this release; check it with the one that issued it")
    return found


def _check_gate(certificate: Certificate, here: ValidateConfig) -> Check:
    """A certificate may be stricter than this host, not laxer; of the two thresholds the one that decided counts."""
    threshold = "image_threshold" if certificate.against_picture else "threshold"
    claimed, found = ((getattr(gate, threshold), gate.min_gaussians, gate.enabled) for gate in (certificate.gate, here))
    strict = all(theirs >= ours for theirs, ours in zip(claimed, found, strict=True))
    return Check("gate, as strict as here", "{:g}, {:,}, {}".format(*claimed), "{:g}, {:,}, {}".format(*found), strict)


def _check_judgement(
    certificate: Certificate, splat: Splat, settings: Config, same: float, folder: Path
) -> tuple[Check, ...]:
    picture = _certified_picture(certificate, folder, settings) if certificate.against_picture else None
    scorer = load_scorer(settings)
    score, _ = validate(splat, render_views(splat, settings), certificate.prompt, scorer, settings, picture)
    if not certificate.score or not score:
        claimed, found = ("present" if each else "none" for each in (certificate.score, score))
        verdict = judge(len(splat), score.value if score else None, settings.validation)
        return (_equal("score", claimed, found), _check_verdict(certificate.verdict, verdict))
    model = next((model.weights_sha256 for model in certificate.models if model.role == "scorer"), None) or "none"
    near = _near(certificate.score.value, score.value, same)
    # within the tolerance the certified score decides: a verdict does not flip because another device rounds
    value = certificate.score.value if near else score.value
    verdict = judge(len(splat), value, settings.validation, against_picture=certificate.against_picture)
    return (
        _equal("scored against", certificate.score.against, score.against),
        _equal("scorer weights", model[:12], score.weights_sha256[:12]),
        *(
            Check(f"score, {view.name}", _number(view.score), _number(each), _near(view.score, each, 2 * same))
            for view, each in zip(certificate.views, score.per_view, strict=True)
        ),
        Check("score", _number(certificate.score.value), _number(score.value), near),
        _check_verdict(certificate.verdict, verdict),
    )


def _certified_picture(certificate: Certificate, folder: Path, config: Config) -> Picture:
    """The picture beside the asset, which the views were held against. Raises BadFile for none, or another."""
    path = folder / "picture.png"
    digest = sha256_of(path)
    if digest not in {asset.sha256 for asset in certificate.assets if asset.name == "picture.png"}:
        raise BadFile(f"{path}: is not the picture of the certificate; put that one beside the splat")
    return read_picture(path, config.limits)


def _check_verdict(claimed: VerdictRecord, found: Verdict) -> Check:
    return _equal("verdict", claimed.outcome, found.outcome)


def _equal(claim: str, claimed: str, found: str) -> Check:
    return Check(claim, claimed, found, claimed == found)


def _near(claimed: float | None, found: float, same: float) -> bool:
    return claimed is not None and abs(claimed - found) <= same


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


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
        raise BadFile(f"the certificate's settings are out of range: {_first_problem(error)}") from None


def _write_asset(folder: Path, format: Format, splat: Splat) -> AssetRecord:
    name = asset_name(format)
    write_splat(folder / name, splat, format.name)
    return _record(name, folder / name)


def _write_source_picture(folder: Path, picture: Picture) -> AssetRecord:
    path = folder / "picture.png"
    with replacing(path) as stream:
        stream.write(encode_png(picture))
    return _record("picture.png", path)


def _record(name: AssetName, path: Path) -> AssetRecord:
    return AssetRecord(name=name, sha256=sha256_of(path), bytes=path.stat().st_size)

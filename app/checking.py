"""Checks a certificate: recomputes everything that can be derived from the file, and compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.certificate import AssetName, Certificate, MetricRecord, first_problem
from app.config import Config, DiagnoseConfig, ValidateConfig
from app.digest import sha256_of
from app.errors import BadFile
from app.gate import judge
from app.metrics import METRICS
from app.pipeline import render_views
from app.prompt import check_prompt
from app.splat.diagnosis import diagnose
from app.splat.files import read_splat
from app.splat.formats import asset_name, certified
from app.splat.model import Splat
from app.stages.measurement import Measurement, Subject, parts
from app.stages.picture import Picture, read_picture
from app.validation import load_validator, validate, with_cause


@dataclass(frozen=True)
class Check:
    """One claim compared with the file: what was claimed, what was found, whether they agree."""

    claim: str
    claimed: str
    found: str
    agrees: bool


def check(certificate: Certificate, path: Path, config: Config) -> tuple[Check, ...]:
    """Recomputes what the certificate claims about the file, with the certificate's own settings.

    If the hash differs, nothing else is computed. This host's scorer is used, and must be the one that the certificate
    names. How the splat was made (seed, findings before the repair, versions) cannot be derived from the file and is
    not checked. Raises BadFile if the file is not a splat or the certificate is out of range, BadPrompt, and BadWeights
    if the scorer is missing.
    """
    if certificate.prompt:
        check_prompt(certificate.prompt, config.limits)
    settings = certified_config(certificate, config)
    digest = sha256_of(path)
    splats = [asset for asset in certificate.assets if asset.name != "picture.png"]
    asset = next((asset for asset in splats if asset.sha256 == digest), None)
    if asset is None:
        claimed = " or ".join(asset.sha256[:12] for asset in splats)
        return (Check("sha256", claimed, digest[:12], False),)
    splat = read_splat(path, config.limits.max_gaussians)
    left = tuple(finding.kind for finding in diagnose(splat, settings.diagnose).findings)
    return (
        Check(f"sha256 of {asset.name}", digest[:12], digest[:12], True),
        _equal("bytes", f"{asset.bytes:,}", f"{path.stat().st_size:,}"),
        _equal("gaussians", f"{certificate.gaussians:,}", f"{len(splat):,}"),
        _equal("findings left", ", ".join(certificate.findings_left) or "none", ", ".join(left) or "none"),
        _equal("stand-in", str(certificate.stand_in), str(bool(settings.profile.generator.stand_in))),
        *_differing_diagnosis(certificate.diagnose, config.diagnose),
        _check_gate(certificate, config.validation),
        *_check_metrics(certificate, splat, settings, _tolerance(asset.name), path.parent),
    )


def _tolerance(asset: AssetName) -> float:
    """How far a recomputed score may differ from the certified one. Raises BadFile for an uncertified format."""
    found = next((each.tolerance for each in certified() if asset_name(each) == asset), None)
    if found is None:
        raise BadFile(f"{asset}: its format is not certified by this release; check it with the one that issued it")
    return found


def _differing_diagnosis(certified: DiagnoseConfig | None, here: DiagnoseConfig) -> Iterator[Check]:
    """Reports diagnosis settings that differ on this host. They always agree: findings do not decide the verdict."""
    if certified is not None and certified != here:
        ours, theirs = here.model_dump(), certified.model_dump()
        differ = [name for name in ours if ours[name] != theirs[name]]
        claimed, found = (", ".join(f"{name} {each[name]}" for name in differ) for each in (theirs, ours))
        yield Check("diagnosis settings, here", claimed, found, True)


def _check_gate(certificate: Certificate, here: ValidateConfig) -> Check:
    """The certificate's gate must be at least as strict as this host's, in every metric that this host requires."""
    gate, certified_at = certificate.gate, {metric.name: metric.threshold for metric in certificate.metrics}
    there = parts(prompt=bool(certificate.prompt), picture=_has_picture(certificate))
    wanted = {each.name: here.threshold_of(each) for each in METRICS.values() if each.applies(there)}
    needed = {name: threshold for name, threshold in wanted.items() if threshold is not None}
    strict = (gate.min_gaussians >= here.min_gaussians and gate.enabled) or not here.enabled
    strict = strict and all(
        name in certified_at and METRICS[name].is_as_strict(certified_at[name], threshold)
        for name, threshold in needed.items()
        if here.enabled
    )
    claimed = _gate_words({name: certified_at.get(name) for name in needed}, gate.min_gaussians, gate.enabled)
    return Check("gate, as strict as here", claimed, _gate_words(needed, here.min_gaussians, here.enabled), strict)


def _gate_words(thresholds: Mapping[str, float | None], min_gaussians: int, enabled: bool) -> str:
    shown = [f"{name} {'none' if threshold is None else f'{threshold:g}'}" for name, threshold in thresholds.items()]
    return ", ".join([*shown, f"{min_gaussians:,} gaussians", "on" if enabled else "off"])


def _check_metrics(
    certificate: Certificate, splat: Splat, settings: Config, tolerance_of_2: float, folder: Path
) -> tuple[Check, ...]:
    """tolerance_of_2: how far a value may differ from the certified one, for a metric with a range of 2."""
    compares = any("picture" in METRICS[each.name].needs for each in certificate.metrics if each.name in METRICS)
    picture = _certified_picture(certificate, folder, settings) if compares else None
    subject = Subject(splat, render_views(splat, settings), certificate.prompt, picture)
    measured, verdict = validate(subject, load_validator(settings), settings)
    checks, values = [_equal("metrics", _listed(each.name for each in certificate.metrics), _listed(measured))], {}
    for metric in certificate.metrics:
        if found := measured.get(metric.name):
            tolerance = tolerance_of_2 * (METRICS[metric.name].high - METRICS[metric.name].low) / 2
            near = abs(metric.value - found.value) <= tolerance
            # within the tolerance the certified value counts: rounding on another device must not change the verdict
            values[metric.name] = metric.value if near else found.value
            checks += _check_metric(certificate, metric, found, tolerance, near=near)
    if len(values) == len(measured):
        verdict = with_cause(judge(len(splat), values, settings.validation), subject, settings)
    return (*checks, _equal("verdict", certificate.verdict.outcome, verdict.outcome))


def _check_metric(
    certificate: Certificate, claimed: MetricRecord, found: Measurement, tolerance: float, *, near: bool
) -> Iterator[Check]:
    weights = found.model.weights_sha256 if found.model else None
    yield _equal(f"{claimed.name}, weights", _short(claimed.weights_sha256), _short(weights))
    yield _equal(f"{claimed.name}, views", str(len(claimed.per_view)), str(len(found.per_view)))
    for view, ours, theirs in zip(certificate.views, claimed.per_view, found.per_view, strict=False):
        yield Check(f"{claimed.name}, {view.name}", f"{ours:.4f}", f"{theirs:.4f}", abs(ours - theirs) <= 2 * tolerance)
    yield Check(claimed.name, f"{claimed.value:.4f}", f"{found.value:.4f}", near)


def _has_picture(certificate: Certificate) -> bool:
    return any(asset.name == "picture.png" for asset in certificate.assets)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _certified_picture(certificate: Certificate, folder: Path, config: Config) -> Picture:
    """The picture beside the asset that the views were compared with. Raises BadFile if it is missing or different."""
    path = folder / "picture.png"
    digest = sha256_of(path)
    if digest not in {asset.sha256 for asset in certificate.assets if asset.name == "picture.png"}:
        raise BadFile(f"{path}: is not the picture of the certificate; put that one beside the splat")
    return read_picture(path, config.limits)


def _equal(claim: str, claimed: str, found: str) -> Check:
    return Check(claim, claimed, found, claimed == found)


def certified_config(certificate: Certificate, config: Config) -> Config:
    """This host's configuration, with the certificate's profile, samplers, diagnosis, views, score and gate."""
    tree = config.model_dump(by_alias=True)
    tree["profile"]["name"] = certificate.profile
    if certificate.samplers:
        tree["trellis"] |= certificate.samplers.to_settings()
    if certificate.diagnose:
        tree["diagnose"] = certificate.diagnose.model_dump()
    tree["render"] |= certificate.render.model_dump(exclude={"backend"})
    tree["render"]["views"] = [view.model_dump() for view in certificate.views]
    tree["validate"] |= certificate.gate.model_dump() | {"thresholds": {}}
    for metric in certificate.metrics:
        known = METRICS.get(metric.name)
        if known and known.setting:
            tree["validate"][known.setting] = metric.threshold
        elif known:
            tree["validate"]["thresholds"][metric.name] = metric.threshold
        if aggregate := metric.details.get("aggregate"):
            tree["score"]["aggregate"] = aggregate
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise BadFile(f"the certificate's settings are out of range: {first_problem(error)}") from None

"""Writes the files of an attempt: the splat in every certified format, its views, its picture and its certificate."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path

from loguru import logger
from PIL import Image

from app import __version__
from app.certificate import (
    AssetName,
    AssetRecord,
    Certificate,
    GateRecord,
    MetricRecord,
    ModelRecord,
    RenderRecord,
    SamplerRecord,
    SamplersRecord,
    VerdictRecord,
    ViewRecord,
)
from app.config import Config, RenderConfig
from app.digest import sha256_of
from app.errors import BadFile
from app.pipeline import Attempt
from app.splat.files import write_splat
from app.splat.format import Format
from app.splat.formats import asset_name, certified
from app.splat.model import Splat
from app.splat.raster import Views, side_by_side
from app.stages.picture import Picture, encode_png
from app.trellis.samplers import SETTINGS, Sampling
from app.writing import replacing

PACKAGES = (
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


def write_outputs(attempt: Attempt, folder: Path, config: Config, now: datetime) -> Certificate:
    """Writes the splat in every certified format, views.png, certificate.json and, if there is one, picture.png.

    Each file is written atomically, the certificate last: if it exists, every file that it covers exists.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "certificate.json").unlink(missing_ok=True)
    except OSError as error:
        raise BadFile(f"{folder}: cannot hold the results: {error.strerror}; choose another folder with -o") from None
    with ThreadPoolExecutor() as pool:  # compressing, hashing and syncing all release the interpreter lock
        views = pool.submit(write_picture, folder / "views.png", attempt.views)
        writing = [pool.submit(_write_asset, folder, format, attempt.splat) for format in certified()]
        if attempt.picture:
            writing.append(pool.submit(_write_source_picture, folder, attempt.picture))
        assets = [each.result() for each in writing]
        views.result()
    logger.info(f"Final stats: {len(attempt.splat):,} gaussians, {assets[0].bytes / 2**20:.1f}MB")
    certificate = certify(attempt, tuple(assets), config, now)
    with replacing(folder / "certificate.json") as stream:
        stream.write(certificate.to_json().encode())
    return certificate


def write_picture(path: Path, views: Views) -> None:
    """The views side by side as a PNG."""
    with replacing(path) as stream:
        stream.write(encode_png(Image.fromarray(side_by_side(views))))


def certify(attempt: Attempt, assets: tuple[AssetRecord, ...], config: Config, now: datetime) -> Certificate:
    """The certificate of an attempt and its files."""
    scorers = dict.fromkeys(each.model for each in attempt.measurements.values() if each.model)
    return Certificate(
        created=now.isoformat(timespec="seconds"),
        prompt=attempt.prompt,
        profile=config.profile.name,
        stand_in=bool(config.profile.generator.stand_in),
        seed=attempt.seed,
        attempt=attempt.number,
        gaussians=len(attempt.splat),
        assets=assets,
        models=tuple(ModelRecord(**asdict(model)) for model in (*attempt.models, *scorers)),
        samplers=_samplers(attempt.sampling) if attempt.sampling else None,
        diagnose=config.diagnose,
        diagnosis=attempt.diagnosis.to_dict(),
        repairs=attempt.repairs.to_dict(),
        findings_left=tuple(finding.kind for finding in attempt.findings_left),
        views=tuple(ViewRecord(**view.model_dump()) for view in config.render.views),
        render=_rendering(attempt.views, config.render),
        metrics=_metrics(attempt),
        gate=GateRecord(enabled=config.validation.enabled, min_gaussians=config.validation.min_gaussians),
        verdict=VerdictRecord.of(attempt.verdict),
        config_digest=config.digest(),
        versions=versions(),
    )


def _rendering(views: Views, config: RenderConfig) -> RenderRecord:
    settings = config.model_dump(include={"size", "radius", "fov", "placement", "extent", "background"})
    return RenderRecord(**settings, backend=views.backend)


def _metrics(attempt: Attempt) -> tuple[MetricRecord, ...]:
    return tuple(
        MetricRecord(
            name=name,
            value=each.value,
            threshold=attempt.verdict.metrics[name].threshold,
            per_view=each.per_view,
            model=each.model.model if each.model else None,
            weights_sha256=each.model.weights_sha256 if each.model else None,
            details=dict(each.details),
        )
        for name, each in attempt.measurements.items()
    )


def _samplers(sampling: Sampling) -> SamplersRecord:
    structure, latent = (
        SamplerRecord(**{name: getattr(params, ours) for name, ours in SETTINGS.items()})
        for params in (sampling.structure, sampling.latent)
    )
    return SamplersRecord(structure=structure, latent=latent, oversample=sampling.oversample)


def versions() -> dict[str, str]:
    """The versions of the packages that affect a certificate's numbers."""
    found = {name: _version(name) for name in PACKAGES}
    return {"splatgate": __version__, "python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _write_asset(folder: Path, format: Format, splat: Splat) -> AssetRecord:
    name = asset_name(format)
    write_splat(folder / name, splat, format.name)
    return _record(name, folder / name)


def _write_source_picture(folder: Path, picture: Picture) -> AssetRecord:
    path = folder / "picture.png"
    with replacing(path) as stream:
        stream.write(picture.png or encode_png(picture.image))
    return _record("picture.png", path)


def _record(name: AssetName, path: Path) -> AssetRecord:
    return AssetRecord(name=name, sha256=sha256_of(path), bytes=path.stat().st_size)

"""Figures of the written models on held-out objects and prompts, measured with the product's own code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.errors import StageFailed
from app.generators.shapes import SHAPES_CLIP
from app.splat.cameras import Camera, Placement, judge_placement, orbit
from app.splat.model import Splat
from app.splat.raster import Views, render
from app.stages import image_to_splat
from app.trellis.gaussians import to_splat
from app.trellis.pipeline import Trellis
from starter import forward, geometry, world
from starter.autoencoders import latents_modules
from starter.sizes import Sizes
from starter.training import Options, load_part

THRESHOLD = 0.20
"""Of the product's gate, by default."""
JUDGING = ((0.0, -15.0), (90.0, -15.0), (0.0, -75.0), (45.0, -30.0))


def cameras(size: int) -> tuple[Camera, ...]:
    """The four judging views of the product's defaults."""
    return tuple(orbit(azimuth, pitch, size=size) for azimuth, pitch in JUDGING)


def held_out(options: Options, sizes: Sizes, count: int) -> list[tuple[world.Object, NDArray[np.uint8]]]:
    """The first held-out objects of the data, made again, and a picture of each (premultiplied RGBA)."""
    found = []
    for number in range(count):
        random = np.random.default_rng([options.seed + 1_000_003, number])
        made = world.make(world.random_scene(random), random, sizes)
        found.append((made, world.picture(made.splat, world.random_camera(random, sizes.picture))))
    return found


def views(splat: Splat, size: int, placement: Placement) -> Views:
    return render(splat, cameras(size), placement=placement, device="cpu")


def likeness(made: Views, true: Views) -> dict[str, float]:
    """Mean over the views: IoU of the silhouettes at half opacity, and PSNR in dB on white."""
    solid, wanted = made.alphas > 0.5, true.alphas > 0.5
    iou = (solid & wanted).sum((1, 2)) / np.maximum((solid | wanted).sum((1, 2)), 1)
    error = np.square(made.images - true.images).mean((1, 2, 3))
    return {"iou": float(iou.mean()), "psnr": float(-10 * np.log10(np.maximum(error, 1e-9)).mean())}


def autoencoded(options: Options, sizes: Sizes, made: world.Object) -> Splat:
    """The truth through the second autoencoder alone: what a perfect flow would give."""
    parts = latents_modules(sizes)
    encoder, decoder = (load_part(parts[name], options.folder, "latents", name, options.device) for name in parts)
    fields = {
        "points": np.rint(made.points * world.FRACTION).astype(np.int16),
        "normals": np.rint(made.normals * 127).astype(np.int8),
        "colours": np.rint(made.colours * 255).astype(np.uint8),
    }
    batch = {name: torch.from_numpy(field)[None].to(options.device) for name, field in fields.items()}
    found = geometry.voxels(batch, sizes.resolution)
    windows = forward.partitions(found.coords, sizes.window, sizes.resolution)
    with torch.no_grad():
        z = encoder(found.coords, geometry.features(found), windows)
        raw = forward.decode_latents(decoder, found.coords, z, windows)
    return to_splat(decoder.gaussians(found.coords[:, 1:], raw), decoder.params.representation_config)


def splats(options: Options, models: Path, sizes: Sizes, count: int, size: int = 256) -> dict[str, Any]:
    """Held-out objects from a picture of their truth; a sheet of the first ones goes to <folder>/splats.png."""
    trellis = image_to_splat.load(models / "trellis", models / "encoder", options.device.type)  # type: ignore[arg-type]
    rows, figures = [], []
    for number, (made, drawn) in enumerate(held_out(options, sizes, count)):
        cut = world.over(drawn, np.array(world.GREY))
        placement = judge_placement(made.splat)  # the same for all: where the object lies counts, not how many centres
        true = views(made.splat, size, placement)
        ceiling = views(autoencoded(options, sizes, made), size, placement)
        started = time.perf_counter()
        splat = _run(trellis, cut, number)
        seconds = time.perf_counter() - started
        found = views(splat, size, placement) if splat else None
        figures.append(
            {"prompt": made.prompt, "seconds": seconds, "gaussians": len(splat) if splat else 0}
            | {f"ceiling {key}": value for key, value in likeness(ceiling, true).items()}
            | (likeness(found, true) if found else {"iou": 0.0, "psnr": 0.0})
        )
        print(f"{number + 1} of {count}: {figures[-1]}", flush=True)
        if len(rows) < 10:
            pictures = [np.asarray(cut.convert("RGB").resize((size, size)))[None] / 255.0, true.images, ceiling.images]
            rows.append(np.concatenate([*pictures, found.images if found else np.ones_like(true.images)]))
    sheet(rows, options.folder / "splats.png")
    return {"each": figures} | _means(figures)


def _run(trellis: Trellis, cut: Image.Image, seed: int) -> Splat | None:
    try:
        return trellis.run(cut, seed)
    except StageFailed as error:
        print(f"held-out object {seed}: {error}", flush=True)
        return None


def _means(figures: Sequence[dict[str, Any]]) -> dict[str, float]:
    keys = [key for key, value in figures[0].items() if isinstance(value, int | float)]
    means = {key: round(float(np.mean([row[key] for row in figures])), 4) for key in keys}
    return means | {"iou, worst tenth": round(float(np.quantile([row["iou"] for row in figures], 0.1)), 4)}


def chain(options: Options, models: Path, sizes: Sizes, count: int, steps: int = 12) -> dict[str, Any]:
    """Held-out prompts: to a picture, its cutout, a splat, and the small scorer's mean cosine over the judging views.

    "picture" is the cosine of the cut-out picture alone, on white. A matching splat or picture should reach THRESHOLD;
    the same splat against another kind or colour should not. Nothing is repaired. A sheet goes to <folder>/chain.png.
    """
    from app.stages import cutout, score, text_to_image

    params = text_to_image.ImageParams(
        "starter", steps=steps, size=sizes.picture, dtype="float32", max_tokens=sizes.max_tokens
    )
    drawer = text_to_image.load(params, models / "picture")
    drawer.pipeline.to(options.device)
    cutter = cutout.load(cutout.CutoutParams(), models / "cutout/u2net.onnx")
    trellis = image_to_splat.load(models / "trellis", models / "encoder", options.device.type)  # type: ignore[arg-type]
    scorer = score.load(score.ScorerParams(f"local-dir:{SHAPES_CLIP}", "", device="cpu"))
    rows, figures = [], []
    for number in range(count):
        random = np.random.default_rng([options.seed + 2_000_003, number])
        scene = world.random_scene(random)
        drawn = drawer.run(str(scene), number).image
        try:
            cut = cutter.run(drawn)
        except StageFailed as error:
            print(f"{scene}: {error}", flush=True)
            cut = None
        splat = _run(trellis, cut, number) if cut else None
        row: dict[str, Any] = {
            "prompt": str(scene),
            "picture": 0.0,
            "splat": 0.0,
            "wrong kind": 0.0,
            "wrong colour": 0.0,
        }
        row |= {"two": float(scene.second is not None), "failed": float(splat is None)}
        images = np.ones((4, 256, 256, 3), np.float32)
        if cut:
            white = score.on_square(cut, (1.0, 1.0, 1.0))
            row["picture"] = scorer.run(white, str(scene)).value
        if splat:
            images = render(splat, cameras(518), placement=judge_placement(splat), device="cpu").images
            wrong = world.wrong(scene, random)
            said = {"splat": str(scene), "wrong kind": str(wrong[0]), "wrong colour": str(wrong[1])}
            row |= {name: scorer.run(images, text).value for name, text in said.items()}
        figures.append(row)
        print(f"{number + 1} of {count}: {row}", flush=True)
        if len(rows) < 16:
            small = [np.asarray(Image.fromarray(_bytes(view)).resize((256, 256))) / 255.0 for view in images]
            rows.append(np.stack([np.asarray(drawn.resize((256, 256))) / 255.0, *small]))
    sheet(rows, options.folder / "chain.png")
    return {"each": figures} | {
        "failed": _share(figures, "failed", 0.5),
        "picture shows the prompt": _share(figures, "picture", THRESHOLD),
        "splat passes": _share(figures, "splat", THRESHOLD),
        "splat of one thing passes": _share([row for row in figures if not row["two"]], "splat", THRESHOLD),
        "wrong kind refused": round(1 - _share(figures, "wrong kind", THRESHOLD), 4),
        "wrong colour refused": round(1 - _share(figures, "wrong colour", THRESHOLD), 4),
    }


def _share(figures: Sequence[dict[str, Any]], name: str, least: float) -> float:
    return round(float(np.mean([row[name] >= least for row in figures])), 4) if figures else 0.0


def sheet(rows: Sequence[NDArray[np.floating]], path: Path) -> None:
    """Rows of pictures (n, S, S, 3), under each other."""
    lines = [np.concatenate(list(row), axis=1) for row in rows]
    if lines:
        Image.fromarray(_bytes(np.concatenate(lines))).save(path)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(values * 255).clip(0, 255).astype(np.uint8)

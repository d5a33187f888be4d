"""TRELLIS: a picture of an object -> image tokens -> occupied voxels -> latents on the voxels -> Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from loguru import logger
from PIL import Image
from torch import Tensor, nn

from app.errors import BadWeights, StageFailed
from app.reason import Reason
from app.splat.model import Splat
from app.trellis.dino import Dino, DinoParams, load_dino
from app.trellis.gaussians import GaussianDecoder, to_splat
from app.trellis.latent import LatentFlow
from app.trellis.loading import load_model, read_json
from app.trellis.picture import prepare
from app.trellis.samplers import Sampling, model_times, read_sampler, sample, schedule
from app.trellis.structure import NoVoxel, StructureDecoder, StructureFlow, occupied

M = TypeVar("M", bound=nn.Module)
FLOWS = "sparse_structure_flow_model", "slat_flow_model"


@dataclass(frozen=True)
class Trellis:
    """The models on one device. published: the settings of pipeline.json. mean, std: (8,), of the latents."""

    encoder: Dino
    structure_flow: StructureFlow
    structure_decoder: StructureDecoder
    latent_flow: LatentFlow
    gaussian_decoder: GaussianDecoder
    published: Sampling
    mean: Tensor
    std: Tensor

    @torch.inference_mode()
    def run(self, picture: Image.Image, seed: int, sampling: Sampling | None = None) -> Splat:
        """A splat of the object in a cut-out (RGBA) picture, sampled as published unless `sampling` says otherwise.

        The same picture, seed, settings and device give the same bits.
        Raises BadInput for a picture that cannot be used; StageFailed, naming the stage, if the result is unusable.
        """
        tokens = require_finite("image encoder", self.encoder.encode(prepare(picture)))
        return self.splats(tokens, seed, sampling=sampling)[0]

    @torch.inference_mode()
    def splats(self, tokens: Tensor, seed: int, samples: int = 1, sampling: Sampling | None = None) -> list[Splat]:
        """tokens: (L, C) of the encoder. samples: splats to make; all share one stream of noise, as in the original."""
        sampling = sampling or self.published
        conditions, device = [tokens, torch.zeros_like(tokens)], tokens.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a seed gives the same noise everywhere

        steps, drawn = schedule(sampling.structure), sampling.oversample
        velocity = self.structure_flow.bind(conditions, model_times(steps))
        noise = torch.randn(samples * drawn, *self.structure_flow.shape, generator=generator).to(device)
        latents = [sample(velocity, start, steps) for start in noise]
        del velocity  # frees the keys and values of the context: those of the latent flow take their memory
        voxels = [self.fewest_voxels(latents[first : first + drawn]) for first in range(0, len(latents), drawn)]

        steps = schedule(sampling.latent)
        counts = [len(coords) for coords in voxels]
        noise = torch.randn(sum(counts), self.latent_flow.params.in_channels, generator=generator).to(device)
        splats = []
        for coords, start in zip(voxels, torch.split(noise, counts), strict=True):
            sampled = sample(self.latent_flow.bind(coords, conditions, model_times(steps)), start, steps)
            splats.append(self.decode(coords, sampled))
        return splats

    def fewest_voxels(self, latents: list[Tensor]) -> Tensor:
        """The occupied voxels (N, 3) of the structure that has the fewest, but some; the first of equals.

        What goes wrong in a structure mostly adds voxels: floating pieces, a second wall, a plate behind the object.
        Users of TRELLIS report that the smallest of a few is the best; we have not measured it.
        Raises StageFailed if all are empty.
        """
        found, empty = [], None
        for z in latents:
            try:
                found.append(self.occupied(z))
            except NoVoxel as error:
                empty = empty or error
        if empty and not found:
            raise empty
        smallest = min(found, key=len)
        if len(latents) > 1:
            counts = ", ".join(f"{len(voxels):,}" for voxels in found)
            logger.info(f"structures with {counts} voxels: the one with {len(smallest):,} goes on")
        return smallest

    def occupied(self, z: Tensor) -> Tensor:
        """Latent volume (8, R, R, R) -> (N, 3) occupied voxels. Raises NoVoxel if there are none."""
        require_finite("structure flow", z)
        return occupied(require_finite("structure decoder", self.structure_decoder(z[None])))[:, 1:]

    def decode(self, coords: Tensor, sampled: Tensor) -> Splat:
        """Latents (N, 8) on their voxels, normalised as the flow samples them -> the splat."""
        latents = require_finite("latent flow", sampled) * self.std + self.mean
        raw = require_finite("Gaussian decoder", self.gaussian_decoder(coords, latents))
        representation = self.gaussian_decoder.params.representation_config
        return to_splat(self.gaussian_decoder.gaussians(coords, raw), representation)


def require_finite(stage: str, values: Tensor) -> Tensor:
    """Returns the values. Raises StageFailed, naming the stage, if some are NaN or infinite."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise StageFailed(Reason("not_finite", {"stage": stage, "count": bad, "of": values.numel()}))
    return values


def load(
    folder: Path,
    encoder: Path,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    encoder_params: DinoParams | None = None,
    flows: Path | None = None,
) -> Trellis:
    """folder: TRELLIS as published: pipeline.json and the models that it names. encoder: safetensors of DINOv2, a
    ViT-L/14 with registers unless `encoder_params` says otherwise.

    flows: a folder with other weights of both flows, in ckpts/ under the same names: distilled ones.
    dtype: of the inner layers. None is float16 on a GPU if the model's config asks for it, else float32.
    Raises BadWeights, naming the file and the key or argument at fault.
    """
    device = torch.device(device)
    config = read_json(folder / "pipeline.json").get("args", {})
    try:
        stems, normal = config["models"], config["slat_normalization"]
        published = Sampling(read_sampler(config["sparse_structure_sampler"]), read_sampler(config["slat_sampler"]))
        mean, std = (torch.tensor(normal[name], dtype=torch.float32, device=device) for name in ("mean", "std"))
    except KeyError as error:
        raise BadWeights(f"{folder / 'pipeline.json'}: args has no {error}") from None

    if (wanted := config.get("image_cond_model")) != "dinov2_vitl14_reg":
        raise BadWeights(
            f"{folder / 'pipeline.json'}: image_cond_model is {wanted!r}, only 'dinov2_vitl14_reg' is supported"
        )

    def load_part(name: str, kind: type[M]) -> M:
        stem = find_model(folder, stems, name)
        weights = flows / f"ckpts/{stem.name}.safetensors" if flows and name in FLOWS else None
        model = load_model(stem, device, dtype, weights)
        if not isinstance(model, kind):
            raise BadWeights(f"{folder}: {name} is a {type(model).__name__}, expected a {kind.__name__}")
        return model

    trellis = Trellis(
        load_dino(encoder, device, encoder_params),
        load_part("sparse_structure_flow_model", StructureFlow),
        load_part("sparse_structure_decoder", StructureDecoder),
        load_part("slat_flow_model", LatentFlow),
        load_part("slat_decoder_gs", GaussianDecoder),
        published,
        mean,
        std,
    )
    trellis.latent_flow.graphs = trellis.structure_flow.graphs  # one pool of memory, as they never run at once
    return trellis


def find_model(folder: Path, stems: dict[str, str], name: str) -> Path:
    """The path of a model's files without suffix. A stem is a path in the folder, or owner/repo/path beside it."""
    if name not in stems:
        raise BadWeights(f"{folder / 'pipeline.json'}: models has no {name!r}")
    places = [folder / stems[name], folder.parent.parent / stems[name]]
    for place in places:
        if place.with_name(place.name + ".json").is_file():
            return place
    raise BadWeights(f"{places[0]}.json: no such file (nor {places[1]}.json)")

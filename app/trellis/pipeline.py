"""TRELLIS: a picture of an object -> image tokens -> occupied voxels -> latents on the voxels -> Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
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
from app.trellis.samplers import SamplerParams, model_times, read_sampler, sample, schedule
from app.trellis.structure import StructureDecoder, StructureFlow, occupied

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Trellis:
    """The models on one device, and the sampler settings published with them. mean, std: (8,), of the latents."""

    encoder: Dino
    structure_flow: StructureFlow
    structure_decoder: StructureDecoder
    latent_flow: LatentFlow
    gaussian_decoder: GaussianDecoder
    structure_sampler: SamplerParams
    latent_sampler: SamplerParams
    mean: Tensor
    std: Tensor

    @torch.inference_mode()
    def run(self, picture: Image.Image, seed: int) -> Splat:
        """A splat of the object in a cut-out (RGBA) picture. The same picture, seed and device give the same bits.

        Raises BadInput for a picture that cannot be used; StageFailed, naming the stage, where the result is unusable.
        """
        tokens = require_finite("image encoder", self.encoder.encode(prepare(picture)))
        return self.splats(tokens, seed)[0]

    @torch.inference_mode()
    def splats(self, tokens: Tensor, seed: int, samples: int = 1) -> list[Splat]:
        """tokens: (L, C) of the encoder. samples: splats to make; all share one stream of noise, as in the original."""
        conditions, device = [tokens, torch.zeros_like(tokens)], tokens.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a seed gives the same noise everywhere

        steps = schedule(self.structure_sampler)
        velocity = self.structure_flow.bind(conditions, model_times(steps))
        noise = torch.randn(samples, *self.structure_flow.shape, generator=generator).to(device)
        latents = [sample(velocity, start, steps) for start in noise]
        del velocity  # frees the keys and values of the context: those of the latent flow take their memory
        voxels = [self.occupied(z) for z in latents]

        steps = schedule(self.latent_sampler)
        counts = [len(coords) for coords in voxels]
        noise = torch.randn(sum(counts), self.latent_flow.params.in_channels, generator=generator).to(device)
        splats = []
        for coords, start in zip(voxels, torch.split(noise, counts), strict=True):
            sampled = sample(self.latent_flow.bind(coords, conditions, model_times(steps)), start, steps)
            splats.append(self.decode(coords, sampled))
        return splats

    def occupied(self, z: Tensor) -> Tensor:
        """Latent volume (8, R, R, R) -> (N, 3) occupied voxels. Raises StageFailed if there are none."""
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
) -> Trellis:
    """folder: TRELLIS as published: pipeline.json and the models that it names. encoder: safetensors of DINOv2, a
    ViT-L/14 with registers unless `encoder_params` says otherwise.

    dtype: of the inner layers. None is float16 on a GPU if the model's config asks for it, else float32.
    Raises BadWeights, naming the file and the key or argument at fault.
    """
    device = torch.device(device)
    config = read_json(folder / "pipeline.json").get("args", {})
    try:
        stems, normal = config["models"], config["slat_normalization"]
        samplers = [read_sampler(config[name]) for name in ("sparse_structure_sampler", "slat_sampler")]
        mean, std = (torch.tensor(normal[name], dtype=torch.float32, device=device) for name in ("mean", "std"))
    except KeyError as error:
        raise BadWeights(f"{folder / 'pipeline.json'}: args has no {error}") from None

    if (wanted := config.get("image_cond_model")) != "dinov2_vitl14_reg":
        raise BadWeights(
            f"{folder / 'pipeline.json'}: image_cond_model is {wanted!r}, only 'dinov2_vitl14_reg' is supported"
        )

    def load_part(name: str, kind: type[M]) -> M:
        model = load_model(find_model(folder, stems, name), device, dtype)
        if not isinstance(model, kind):
            raise BadWeights(f"{folder}: {name} is a {type(model).__name__}, expected a {kind.__name__}")
        return model

    trellis = Trellis(
        load_dino(encoder, device, encoder_params),
        load_part("sparse_structure_flow_model", StructureFlow),
        load_part("sparse_structure_decoder", StructureDecoder),
        load_part("slat_flow_model", LatentFlow),
        load_part("slat_decoder_gs", GaussianDecoder),
        samplers[0],
        samplers[1],
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

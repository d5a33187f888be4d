"""The algorithm: pictures of one object -> tokens -> occupied voxels -> latents on them -> Gaussians -> splat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from app.errors import BadInput, BadWeights, StageFailed
from app.reason import Reason
from app.splat.model import Splat
from app.trellis.dino import Dino, DinoParams, load_dino
from app.trellis.gaussians import GaussianDecoder, to_splat
from app.trellis.latent import LatentFlow
from app.trellis.loading import load_model, read_json
from app.trellis.picture import prepare
from app.trellis.samplers import MultiImage, SamplerParams, model_times, plan, read_sampler, sample
from app.trellis.structure import StructureDecoder, StructureFlow, occupied

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Trellis:
    """Loaded models, all on one device, and the defaults that came with them. mean, std: (8,) of the latents."""

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
    def run(
        self,
        pictures: Sequence[Image.Image],
        seed: int,
        structure: SamplerParams | None = None,
        latent: SamplerParams | None = None,
        mode: MultiImage = "stochastic",
    ) -> Splat:
        """One splat from one or more cut-out (RGBA) pictures of an object. Same pictures, seed and device: same bits.

        Raises BadInput for a picture that cannot be used; StageFailed, naming the stage, where nothing usable came out.
        """
        if not pictures:
            raise BadInput("no picture was given; TRELLIS needs at least one")
        conditions = torch.stack([self.encoder.encode(prepare(picture)) for picture in pictures])
        return self.splats(finite("image encoder", conditions), seed, structure, latent, mode)[0]

    @torch.inference_mode()
    def splats(
        self,
        conditions: Tensor,
        seed: int,
        structure: SamplerParams | None = None,
        latent: SamplerParams | None = None,
        mode: MultiImage = "stochastic",
        samples: int = 1,
    ) -> list[Splat]:
        """conditions: (images, L, C) tokens of the encoder. The negative condition is all zeros."""
        branches = [*conditions, torch.zeros_like(conditions[0])]
        images, device = len(conditions), conditions.device
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that a seed means the same noise everywhere

        steps = plan(structure or self.structure_sampler, images, mode)
        velocity = self.structure_flow.bind(branches, model_times(steps))
        noise = torch.randn(samples, *self.structure_flow.shape, generator=generator).to(device)
        latents = [sample(velocity, start, steps) for start in noise]
        del velocity  # and with it the context's keys and values: the next ones take their memory
        voxels = [self.occupied(z) for z in latents]

        steps = plan(latent or self.latent_sampler, images, mode)
        counts = [len(coords) for coords in voxels]
        noise = torch.randn(sum(counts), self.latent_flow.params.in_channels, generator=generator).to(device)
        splats = []
        for coords, start in zip(voxels, torch.split(noise, counts), strict=True):
            sampled = sample(self.latent_flow.bind(coords, branches, model_times(steps)), start, steps)
            splats.append(self.decode(coords, sampled))
        return splats

    def occupied(self, z: Tensor) -> Tensor:
        """Latent volume (8, R, R, R) -> (N, 3) voxels. Raises StageFailed where there are none."""
        finite("structure flow", z)
        return occupied(finite("structure decoder", self.structure_decoder(z[None])))[:, 1:]

    def decode(self, coords: Tensor, sampled: Tensor) -> Splat:
        """Sampled latents (N, 8), as the flow knows them, on their voxels -> the splat."""
        latents = finite("latent flow", sampled) * self.std + self.mean
        raw = finite("Gaussian decoder", self.gaussian_decoder(coords, latents))
        form = self.gaussian_decoder.params.representation_config
        return to_splat(self.gaussian_decoder.gaussians(coords, raw), form)


def finite(stage: str, values: Tensor) -> Tensor:
    """The values themselves. Raises StageFailed, naming the stage and how many are NaN or infinite."""
    good = torch.isfinite(values)
    if not bool(good.all()):
        bad = int((~good).sum())
        raise StageFailed(Reason("not_finite", {"stage": stage, "count": bad, "of": values.numel()}))
    return values


def load(
    folder: Path,
    encoder: Path,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    encoder_params: DinoParams | None = None,
) -> Trellis:
    """folder: the published layout (pipeline.json, and what it names). encoder: DINOv2's safetensors, a ViT-L/14
    with registers unless `encoder_params` say otherwise.

    dtype: of the inner layers; None takes float16 on a GPU where the configs ask for it, else float32.
    Raises BadWeights, naming the file, and the key or argument at fault.
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

    def part(name: str, kind: type[M]) -> M:
        model = load_model(find(folder, stems, name), device, dtype)
        if not isinstance(model, kind):
            raise BadWeights(f"{folder}: {name} is a {type(model).__name__}, expected a {kind.__name__}")
        return model

    trellis = Trellis(
        load_dino(encoder, device, encoder_params),
        part("sparse_structure_flow_model", StructureFlow),
        part("sparse_structure_decoder", StructureDecoder),
        part("slat_flow_model", LatentFlow),
        part("slat_decoder_gs", GaussianDecoder),
        samplers[0],
        samplers[1],
        mean,
        std,
    )
    trellis.latent_flow.recorder = trellis.structure_flow.recorder  # one pool of memory: they never run side by side
    return trellis


def find(folder: Path, stems: dict[str, str], name: str) -> Path:
    """Where a model's files are: a stem is a path within the folder, or owner/repo/path beside it."""
    if name not in stems:
        raise BadWeights(f"{folder / 'pipeline.json'}: models has no {name!r}")
    places = [folder / stems[name], folder.parent.parent / stems[name]]
    for place in places:
        if place.with_name(place.name + ".json").is_file():
            return place
    raise BadWeights(f"{places[0]}.json: no such file (nor {places[1]}.json)")

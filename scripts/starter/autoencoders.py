"""The two autoencoders: of the occupied voxels, and of what lies on their surface.

Only their decoders are published. Both kinds of latents have mean 0 and standard deviation 1 by construction, a norm
over the batch without weights; noise on the latents during training makes the decoders bear what flows get wrong.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.splat.model import SH_C0
from app.trellis.gaussians import GaussianDecoder, Gaussians, WindowBlock
from app.trellis.layers import FINAL_EPS, position_embedding
from app.trellis.structure import ResBlock
from starter import forward, geometry
from starter.geometry import FEATURES, Voxels
from starter.models import LATENTS, NORMAL, TANGENT, trellis_model
from starter.pool import Pool
from starter.sizes import Sizes
from starter.training import Averaged, Options, train

NOISE = 0.15
SURFACE = "points", "normals", "colours"
LEARN_ON = 8192
"""Voxels of a batch whose Gaussians are held against the surface."""

# ---- structure -------------------------------------------------------------------------------------------------------


class StructureEncoder(nn.Module):
    """(B, 1, R, R, R) occupancy -> (B, 8, R/4, R/4, R/4)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        wide, middle, narrow = sizes.structure_channels
        self.layers = nn.Sequential(
            nn.Conv3d(1, narrow, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(narrow, middle, 4, stride=2, padding=1),
            ResBlock(middle),
            nn.Conv3d(middle, wide, 4, stride=2, padding=1),
            ResBlock(wide),
            ResBlock(wide),
            nn.SiLU(),
            nn.Conv3d(wide, LATENTS, 3, padding=1),
        )
        self.norm = nn.BatchNorm3d(LATENTS, affine=False, momentum=0.02)

    def forward(self, volume: Tensor) -> Tensor:
        return self.norm(self.layers(2 * volume - 1).float())


def structure_modules(sizes: Sizes) -> dict[str, Any]:
    return {"encoder": StructureEncoder(sizes), "decoder": trellis_model("sparse_structure_decoder", sizes)}


def train_structure(options: Options, sizes: Sizes) -> dict[str, Any]:
    pool = Pool(options.data, "learn", ["points"], options.device)
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged(structure_modules(sizes), options.device)
    modules: Any = averaged.modules
    pool.wait(sizes.structure_batch)

    def loss_of() -> dict[str, Tensor]:
        volume = geometry.occupancy(pool.batch(sizes.structure_batch, random), sizes.resolution)
        z = modules.encoder(volume)
        logits = forward.decode_structure(modules.decoder, z + NOISE * torch.randn_like(z)).float()
        likely = torch.sigmoid(logits)
        both = (likely * volume).sum((1, 2, 3, 4))
        dice = 1 - 2 * both / (likely.sum((1, 2, 3, 4)) + volume.sum((1, 2, 3, 4)) + 1)
        entropy = F.binary_cross_entropy_with_logits(logits, volume, pos_weight=logits.new_tensor(2.0))
        return {"entropy": 5 * entropy, "dice": dice.mean()}

    figures = train("structure", options, averaged, loss_of, rate=2e-3, before_step=pool.refresh)
    with averaged.in_use():
        figures |= structure_figures(modules, options, sizes)
    averaged.save(options.folder, "structure", figures)
    return figures


@torch.no_grad()
def structure_figures(modules: Any, options: Options, sizes: Sizes) -> dict[str, float]:
    """Held-out objects: voxels found again, and intersection over union, with and without noise on the latents."""
    held = Pool(options.data, "held", ["points"], options.device)
    held.refresh(0)
    volume = geometry.occupancy(held.tensors, sizes.resolution)
    z = modules.encoder(volume)
    figures = {}
    for name, noise in (("", 0.0), (" noisy", NOISE)):
        found = forward.decode_structure(modules.decoder, z + noise * torch.randn_like(z)) > 0
        both = (found & (volume > 0)).sum((1, 2, 3, 4))
        either = (found | (volume > 0)).sum((1, 2, 3, 4))
        figures["recall" + name] = round(float((both / volume.sum((1, 2, 3, 4))).mean()), 4)
        figures["iou" + name] = round(float((both / either).mean()), 4)
    return figures


# ---- latents on voxels -----------------------------------------------------------------------------------------------


class LatentEncoder(nn.Module):
    """Features of voxels (N, FEATURES) -> latents (N, 8)."""

    def __init__(self, sizes: Sizes, decoder: GaussianDecoder) -> None:
        super().__init__()
        self.width, self.window, self.resolution = sizes.width, sizes.window, sizes.resolution
        self.input_layer = nn.Sequential(
            nn.Linear(FEATURES, 2 * self.width), nn.SiLU(), nn.Linear(2 * self.width, self.width)
        )
        self.blocks = nn.ModuleList(WindowBlock(decoder.params) for _ in range(2))
        self.out_layer = nn.Linear(self.width, LATENTS)
        self.norm = nn.BatchNorm1d(LATENTS, affine=False, momentum=0.02)

    def forward(self, coords: Tensor, features: Tensor, windows: list[forward.Partition]) -> Tensor:
        x = self.input_layer(features) + position_embedding(coords[:, 1:], self.width)
        for block, window in zip(self.blocks, windows, strict=True):
            x = forward.windowed(block, x, window)  # type: ignore[arg-type]
        return self.norm(self.out_layer(forward.normed(x.float(), FINAL_EPS)).float())


def latents_modules(sizes: Sizes) -> dict[str, Any]:
    decoder = trellis_model("slat_decoder_gs", sizes)
    return {"encoder": LatentEncoder(sizes, decoder), "decoder": decoder}


def train_latents(options: Options, sizes: Sizes) -> dict[str, Any]:
    pool = Pool(options.data, "learn", SURFACE, options.device)
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged(latents_modules(sizes), options.device)
    modules: Any = averaged.modules
    pool.wait(sizes.latents_batch)

    def loss_of() -> dict[str, Tensor]:
        found = geometry.voxels(pool.batch(sizes.latents_batch, random), sizes.resolution)
        windows = forward.partitions(found.coords, sizes.window, sizes.resolution)
        z = modules.encoder(found.coords, geometry.features(found), windows)
        z = z + NOISE * torch.randn_like(z)
        raw = forward.decode_latents(modules.decoder, found.coords, z, windows)
        chosen = torch.randperm(len(raw), device=raw.device)[:LEARN_ON]
        return surface_loss(modules.decoder, found.take(chosen), raw[chosen])

    figures = train("latents", options, averaged, loss_of, rate=1.5e-3, before_step=pool.refresh)
    with averaged.in_use():
        figures |= latents_figures(modules, options, sizes)
    averaged.save(options.folder, "latents", figures)
    return figures


def surface_loss(decoder: GaussianDecoder, found: Voxels, raw: Tensor) -> dict[str, Tensor]:
    """Each slot has a place in its voxel; its Gaussian should lie where the surface is nearest to that place."""
    slots = len(decoder.offset_perturbation)
    form = decoder.params.representation_config
    made = decoder.gaussians(found.coords[:, 1:], raw.float())
    middle = (found.coords[:, None, 1:] + 0.5) / found.resolution
    half = 0.5 * form.voxel_size / found.resolution
    near = geometry.nearest(found, middle + decoder.offset_perturbation.tanh() * half)
    wanted = middle + (near.points - middle).clamp(-0.98 * half, 0.98 * half)
    away = (made.xyz.view(-1, slots, 3) - wanted) * found.resolution
    colour = 0.5 + SH_C0 * made.features_dc.view(-1, slots, 3) - near.colours
    facing = (third_axis(made).view(-1, slots, 3) * near.normals).sum(-1)
    size = log_size(decoder, made) - wanted_log_size(slots, raw.device) + torch.log(raw.new_tensor(found.resolution))
    logit = made.opacity.view(-1, slots) - 2.1972246 - wanted_logits(slots, raw.device)
    return {
        "place": 4 * F.smooth_l1_loss(away, torch.zeros_like(away), beta=0.03),
        "colour": 2 * colour.abs().mean(),
        "facing": 0.2 * (1 - facing.square()).mean(),
        "size": 0.05 * size.square().mean(),
        "opacity": 0.01 * logit.square().mean(),
    }


def third_axis(made: Gaussians) -> Tensor:
    """(M, 3) the third axis of each Gaussian."""
    w, x, y, z = F.normalize(made.rotation + made.rotation.new_tensor([1, 0, 0, 0]), dim=-1).unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)


def log_size(decoder: GaussianDecoder, made: Gaussians) -> Tensor:
    """(N, slots, 3) logarithms of the standard deviations, without the kernel."""
    bias = decoder.params.representation_config.scaling_bias
    raw = made.scaling + torch.log(torch.expm1(torch.tensor(bias, device=made.scaling.device)))
    # softplus(x) is exp(x) to four digits at the sizes that occur; its logarithm is taken where that is stable
    return torch.where(raw < -4, raw - torch.exp(raw.clamp(max=0)) / 2, F.softplus(raw).log()).unflatten(
        0, (-1, len(decoder.offset_perturbation))
    )


def wanted_log_size(slots: int, device: torch.device) -> Tensor:
    """(slots, 3) in voxels. They vary from slot to slot, as the truth's do: a splat of one size would be corrupt."""
    spread = 0.12 * torch.randn(slots, 3, generator=torch.Generator().manual_seed(1))
    return (torch.tensor([TANGENT, TANGENT, NORMAL]).log() + spread).to(device)


def wanted_logits(slots: int, device: torch.device) -> Tensor:
    """(slots,) opacity logits, likewise: quantiles of a normal distribution."""
    share = (torch.arange(slots) + 0.5) / slots
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(2))
    return (4.0 + 1.7 * torch.special.ndtri(share))[order].clamp(0.5, 8.5).to(device)


@torch.no_grad()
def latents_figures(modules: Any, options: Options, sizes: Sizes) -> dict[str, float]:
    """Held-out objects: how far Gaussians lie from the surface, in voxels, and how wrong their colours are."""
    held = Pool(options.data, "held", SURFACE, options.device)
    held.refresh(0)
    batch = held.rows(torch.arange(min(len(held), 32)))
    found = geometry.voxels(batch, sizes.resolution)
    windows = forward.partitions(found.coords, sizes.window, sizes.resolution)
    z = modules.encoder(found.coords, geometry.features(found), windows)
    losses = surface_loss(modules.decoder, found, forward.decode_latents(modules.decoder, found.coords, z, windows))
    return {f"held {name}": round(float(value), 5) for name, value in losses.items()}

"""The image encoder with both flows, trained together: what the flows need is what the encoder learns to see."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starter import forward, geometry
from starter.autoencoders import SURFACE, latents_modules, structure_modules
from starter.models import image_encoder, trellis_model
from starter.pool import Pool
from starter.sizes import Sizes
from starter.training import Averaged, Options, flow_times, load_part, train

NEGATIVE = 0.1
"""Share of the objects whose condition is zeros, so that guidance knows what there is without one."""
MOST = 6144
"""Voxels of an object; the largest of them has some 5,500, and what exceeds this is left out."""


def flows_modules(sizes: Sizes) -> dict[str, nn.Module]:
    return {
        "encoder": image_encoder(sizes),
        "structure_flow": trellis_model("sparse_structure_flow_model", sizes),
        "latent_flow": trellis_model("slat_flow_model", sizes),
    }


class Teacher:
    """The encoders of the two autoencoders, as trained: they make the flows' targets."""

    def __init__(self, options: Options, sizes: Sizes) -> None:
        self.sizes = sizes
        self.structure = load_part(
            structure_modules(sizes)["encoder"], options.folder, "structure", "encoder", options.device
        )
        self.latents = load_part(
            latents_modules(sizes)["encoder"], options.folder, "latents", "encoder", options.device
        )

    @torch.no_grad()
    def __call__(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of some objects of a pool: "z" (B, 8, r, r, r), "count" (B,), "coords" (B, MOST, 3), "latents" (B, MOST, 8).

        Of the last two, `count` rows are true. "seen" stays as it is.
        """
        pieces = [self._few({name: field[at] for name, field in part.items()}) for at in _pieces(len(part["points"]))]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _few(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        resolution, b = self.sizes.resolution, len(part["points"])
        found = geometry.voxels(part, resolution)
        windows = forward.partitions(found.coords, self.sizes.window, resolution)
        latents = self.latents(found.coords, geometry.features(found), windows)
        owners = found.coords[:, 0]
        count = torch.bincount(owners, minlength=b)
        place = torch.arange(len(owners), device=owners.device) - (count.cumsum(0) - count)[owners]
        kept = place < MOST
        made = {
            "coords": torch.zeros(b, MOST, 3, dtype=torch.uint8, device=owners.device),
            "latents": torch.zeros(b, MOST, latents.shape[1], dtype=torch.float16, device=owners.device),
        }
        made["coords"][owners[kept], place[kept]] = found.coords[kept, 1:].byte()
        made["latents"][owners[kept], place[kept]] = latents[kept].half()
        z = self.structure(geometry.occupancy(part, resolution)).half()
        return made | {"z": z, "count": count.clamp(max=MOST), "seen": part["seen"]}


def _pieces(count: int) -> list[slice]:
    return [slice(at, at + 16) for at in range(0, count, 16)]


def train_flows(options: Options, sizes: Sizes) -> dict[str, Any]:
    teacher = Teacher(options, sizes)
    pool = Pool(options.data, "learn", [*SURFACE, "seen"], options.device, teacher)
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged(flows_modules(sizes), options.device, 0.9993)
    modules: Any = averaged.modules
    pool.wait(sizes.flows_batch)

    def loss_of() -> dict[str, Tensor]:
        return flow_losses(modules, pool.batch(sizes.flows_batch, random), sizes, learning=True)

    figures = train("flows", options, averaged, loss_of, rate=1e-3, before_step=pool.refresh)
    with averaged.in_use():
        figures |= flows_figures(modules, teacher, options, sizes)
    averaged.save(options.folder, "flows", figures)
    return figures


def flow_losses(modules: Any, batch: dict[str, Tensor], sizes: Sizes, *, learning: bool) -> dict[str, Tensor]:
    """Mean squared error of both velocities at random times; of the latents' on a few of the objects while learning."""
    z = batch["z"].float()
    b, device = len(z), z.device
    view = torch.randint(batch["seen"].shape[1], (b,), device=device)
    images = batch["seen"][torch.arange(b, device=device), view].permute(0, 3, 1, 2).float() / 255
    tokens = forward.encode(modules.encoder, augmented(images) if learning else images)

    def condition(rows: Tensor) -> Tensor:
        return rows * (torch.rand(len(rows), 1, 1, device=device) >= NEGATIVE) if learning else rows

    t, noise = flow_times(b, device), torch.randn_like(z)
    here = t.view(-1, 1, 1, 1, 1)
    found = forward.structure_velocity(modules.structure_flow, (1 - here) * z + here * noise, t, condition(tokens))
    structure = F.mse_loss(found.float(), noise - z)

    some = of_similar_size(batch["count"], sizes.voxels_batch) if learning else torch.arange(b, device=device)
    coords, latents = on_voxels({name: batch[name][some] for name in ("count", "coords", "latents")})
    t, noise = flow_times(len(some), device, 0.3), torch.randn_like(latents)
    here = t[coords[:, 0], None]
    tables = forward.tables(coords, len(some), sizes.resolution)
    x = (1 - here) * latents + here * noise
    found = forward.latent_velocity(modules.latent_flow, x, t, condition(tokens[some]), tables)
    return {"structure": structure, "latents": F.mse_loss(found.float(), noise - latents)}


def of_similar_size(counts: Tensor, most: int) -> Tensor:
    """Indices of up to `most` objects of similar size, so that few of their tokens are padding."""
    start = int(torch.randint(max(1, len(counts) - most + 1), (1,)))
    return counts.argsort()[start : start + most]


def on_voxels(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Coords (N, 4) and latents (N, 8) of the objects' true rows."""
    true = torch.arange(int(batch["count"].max()), device=batch["count"].device) < batch["count"][:, None]
    coords = batch["coords"][:, : true.shape[1]][true].long()
    return torch.cat([true.nonzero()[:, :1], coords], dim=1), batch["latents"][:, : true.shape[1]][true].float()


def augmented(images: Tensor) -> Tensor:
    """Varies brightness and sharpness a little, as in generated pictures."""
    b, device = len(images), images.device
    light = 1 + 0.06 * torch.randn(b, 1, 1, 1, device=device)
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1)
    share = torch.rand(b, 1, 1, 1, device=device) * 0.7
    return ((images + share * (blurred - images)) * light + 0.01 * torch.randn_like(images)).clamp(0, 1)


@torch.no_grad()
def flows_figures(modules: Any, teacher: Teacher, options: Options, sizes: Sizes) -> dict[str, float]:
    """Held-out objects: the losses, with the picture as condition."""
    held = Pool(options.data, "held", [*SURFACE, "seen"], options.device, teacher)
    held.refresh(0)
    torch.manual_seed(0)
    parts = torch.arange(len(held)).split(32)
    losses = [flow_losses(modules, held.rows(part), sizes, learning=False) for part in parts]
    return {f"held {name}": round(float(torch.stack([loss[name] for loss in losses]).mean()), 5) for name in losses[0]}

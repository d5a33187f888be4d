"""The cutout: a small U-net with the inputs and outputs of rembg's u2net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.trellis.dino import MEAN, STD
from starter.pool import Pool
from starter.sizes import Sizes
from starter.training import Averaged, Options, load_part, train
from starter.world import GREY

SIDE = 320


def block(wide: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip


class SmallU(nn.Module):
    """(B, 3, 320, 320), normalised -> (B, 1, 320, 320) in [0, 1]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        widths = sizes.cutout_widths
        self.down = nn.ModuleList(block(wide, out) for wide, out in zip((3, *widths[:-1]), widths, strict=True))
        self.middle = block(widths[-1], widths[-1])
        pairs = list(zip(widths, (widths[0], *widths[:-1]), strict=True))
        self.up = nn.ModuleList(block(2 * wide, out) for wide, out in reversed(pairs))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        seen = []
        for down in self.down:
            x = down(x)
            seen.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), seen.pop()], dim=1))
        return self.head(x)


def train_cutout(options: Options, sizes: Sizes) -> dict[str, Any]:
    pool = Pool(options.data, "learn", ["pictures"], options.device)
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged({"net": SmallU(sizes).to(memory_format=torch.channels_last)}, options.device, 0.998)
    modules: Any = averaged.modules
    pool.wait(sizes.cutout_batch)

    def refresh() -> None:
        if len(pool) < 2048:  # enough of them for masks
            pool.refresh()

    def loss_of() -> dict[str, Tensor]:
        images, masks = training_pairs(pool.batch(sizes.cutout_batch, random)["pictures"], varied=True)
        return {"entropy": F.binary_cross_entropy_with_logits(modules.net.logits(images).float(), masks)}

    figures = train("cutout", options, averaged, loss_of, rate=3e-3, before_step=refresh)
    with averaged.in_use():
        figures |= cutout_figures(modules.net, options)
    averaged.save(options.folder, "cutout", figures)
    return figures


def training_pairs(pictures: Tensor, *, varied: bool) -> tuple[Tensor, Tensor]:
    """(B, V, S, S, 4) premultiplied -> images as rembg prepares them, and masks, (B, 1, 320, 320).

    varied: on random backgrounds instead of GREY, blurred and noisy.
    """
    b, device = len(pictures), pictures.device
    view = torch.randint(pictures.shape[1], (b,), device=device)
    rgba = pictures[torch.arange(b, device=device), view].permute(0, 3, 1, 2).float() / 255
    rgba = F.interpolate(rgba, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    alpha = rgba[:, 3:]
    images = rgba[:, :3] + (1 - alpha) * (
        backgrounds(b, device) if varied else torch.tensor(GREY, device=device).view(3, 1, 1)
    )
    if varied:
        soft = F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
        images = torch.lerp(images, soft, torch.rand(b, 1, 1, 1, device=device))
        images = (images + 0.03 * torch.rand(b, 1, 1, 1, device=device) * torch.randn_like(images)).clamp(0, 1)
    images = images / images.amax((1, 2, 3), keepdim=True)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last), alpha


def backgrounds(count: int, device: torch.device) -> Tensor:
    """(count, 3, 320, 320): half of them near GREY, the others any colour, with a gradient."""
    grey = torch.tensor(GREY, device=device).view(1, 3, 1, 1) + 0.03 * torch.randn(count, 3, 1, 1, device=device)
    other = torch.rand(count, 3, 1, 1, device=device)
    plain = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, grey, other)
    corners = 0.1 * torch.randn(count, 3, 2, 2, device=device) * torch.rand(count, 1, 1, 1, device=device)
    return (plain + F.interpolate(corners, (SIDE, SIDE), mode="bilinear", align_corners=True)).clamp(0, 1)


@torch.no_grad()
def cutout_figures(net: SmallU, options: Options) -> dict[str, float]:
    """Held-out pictures on GREY: intersection over union of the masks at alpha 204, where TRELLIS cuts."""
    held = Pool(options.data, "held", ["pictures"], options.device)
    held.refresh(0)
    ratios = []
    for part in torch.arange(min(len(held), 128)).split(16):
        images, masks = training_pairs(held.rows(part)["pictures"], varied=False)
        found, wanted = net(images) > 0.8, masks > 0.8
        ratios.append((found & wanted).sum((1, 2, 3)) / (found | wanted).sum((1, 2, 3)).clamp(min=1))
    ious = torch.cat(ratios)
    return {"iou": round(float(ious.mean()), 4), "least iou": round(float(ious.min()), 4)}


def write_onnx(checkpoints: Path, path: Path, sizes: Sizes) -> None:
    net = load_part(SmallU(sizes), checkpoints, "cutout", "net", torch.device("cpu"))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(net, (torch.zeros(1, 3, SIDE, SIDE),), path, dynamo=False, opset_version=17)

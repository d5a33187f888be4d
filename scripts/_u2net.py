"""U-squared-Net, the network of rembg's default cutout model, with random weights, for benchmarks and tests."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Height = int | None
"""Levels of a U; None is the flat form, with four levels of dilation instead of pooling."""
WIDTHS: tuple[tuple[Height, int, int], ...] = ((7, 32, 64), (6, 32, 128), (5, 64, 256), (4, 128, 512), (None, 256, 512))
UPWARDS: tuple[tuple[Height, int, int], ...] = ((None, 256, 512), (4, 128, 256), (5, 64, 128), (6, 32, 64), (7, 16, 64))


def block(wide: int, out: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, out, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(out), nn.ReLU())


class U(nn.Module):
    """A small U-Net with a residual connection."""

    def __init__(self, height: Height, wide: int, middle: int, out: int) -> None:
        super().__init__()
        self.flat = height is None
        levels = 4 if height is None else height
        dilations = [2**level if self.flat else 1 for level in range(levels - 1)]
        self.entry = block(wide, out)
        self.down = nn.ModuleList(block(middle if level else out, middle, d) for level, d in enumerate(dilations))
        self.bottom = block(middle, middle, 8 if self.flat else 2)
        ends = [*[middle] * (levels - 2), out]
        self.up = nn.ModuleList(block(2 * middle, end, d) for end, d in zip(ends, reversed(dilations), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        entry = x = self.entry(x)
        seen = []
        for level, down in enumerate(self.down):
            x = down(x if self.flat or not level else F.max_pool2d(x, 2, ceil_mode=True))
            seen.append(x)
        x = self.bottom(x)
        for up in self.up:
            skip = seen.pop()
            x = up(torch.cat([larger(x, skip), skip], 1))
        return x + entry


class U2Net(nn.Module):
    """(1, 3, 320, 320) -> seven maps (1, 1, 320, 320) in [0, 1], the fused one first. 44 million weights at share 1."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()

        def scaled(width: int) -> int:
            return max(1, int(width * share))

        wide, self.down, self.up = 3, nn.ModuleList(), nn.ModuleList()
        for height, middle, out in (*WIDTHS, (None, 256, 512)):
            self.down.append(U(height, wide, scaled(middle), scaled(out)))
            wide = scaled(out)
        for height, middle, out in UPWARDS:
            self.up.append(U(height, 2 * wide, scaled(middle), scaled(out)))
            wide = scaled(out)
        self.sides = nn.ModuleList(nn.Conv2d(scaled(out), 1, 3, padding=1) for out in (512, 512, 256, 128, 64, 64))
        self.fuse = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen = []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(seen[-1], 2, ceil_mode=True) if level else x)
            seen.append(x)
        ups = [seen.pop()]
        for up in self.up:
            skip = seen.pop()
            ups.append(up(torch.cat([larger(ups[-1], skip), skip], 1)))
        maps = [side(up) for side, up in zip(self.sides, ups, strict=True)]
        maps = [larger(found, maps[-1]) for found in reversed(maps)]
        return tuple(torch.sigmoid(found) for found in (self.fuse(torch.cat(maps, 1)), *maps))


def larger(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def write_onnx(path: Path, share: float, seed: int) -> None:
    """The network with random weights as an ONNX file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = U2Net(share).eval()
    torch.onnx.export(model, (torch.zeros(1, 3, 320, 320),), path, dynamo=False, opset_version=17)

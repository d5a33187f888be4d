"""The image encoder: the DINOv2 ViT with registers, in float32. Its tokens condition the flows.

Reads weights with the key names of the original release or of Hugging Face's `Dinov2WithRegistersModel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from app.errors import BadWeights
from app.trellis.attention import attend
from app.trellis.layers import EPS, FINAL_EPS, exact_convolutions
from app.trellis.loading import fill

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HF_NAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^register_tokens$", "embeddings.register_tokens"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)


@dataclass(frozen=True)
class DinoParams:
    """Defaults: ViT-L/14 with 4 registers at the 518 pixels that TRELLIS uses."""

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4
    num_register_tokens: int = 4


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(*self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)))


class Mlp(nn.Module):
    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, int(channels * ratio)), nn.Linear(int(channels * ratio), channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))


class Block(nn.Module):
    def __init__(self, p: DinoParams) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(p.embed_dim, eps=EPS), nn.LayerNorm(p.embed_dim, eps=EPS)
        self.attn, self.mlp = Attention(p.embed_dim, p.num_heads), Mlp(p.embed_dim, p.mlp_ratio)
        self.ls1, self.ls2 = LayerScale(p.embed_dim), LayerScale(p.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1.gamma * self.attn(self.norm1(x))
        return x + self.ls2.gamma * self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, p: DinoParams) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, p.embed_dim, p.patch_size, stride=p.patch_size)


class Dino(nn.Module):
    """`mask_token` and `norm` are in the weights but are not used."""

    def __init__(self, params: DinoParams | None = None) -> None:
        super().__init__()
        p = self.params = params or DinoParams()
        patches = (p.img_size // p.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, p.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + patches, p.embed_dim))
        self.register_tokens = nn.Parameter(torch.empty(1, p.num_register_tokens, p.embed_dim))
        self.mask_token = nn.Parameter(torch.empty(1, p.embed_dim))
        self.patch_embed = PatchEmbed(p)
        self.blocks = nn.ModuleList(Block(p) for _ in range(p.depth))
        self.norm = nn.LayerNorm(p.embed_dim, eps=EPS)

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, 1 + registers + patches, C) after the last block, before the final norm."""
        mean, std = (images.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        with exact_convolutions():
            patches = self.patch_embed.proj((images - mean) / std).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        x = torch.cat([x[:, :1], self.register_tokens.expand(len(images), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, 1374, 1024): the tokens after a layer norm without weights."""
        tokens = self.tokens(images)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=FINAL_EPS)

    def encode(self, picture: Image.Image) -> Tensor:
        """One RGB picture -> (1374, 1024)."""
        size = (self.params.img_size, self.params.img_size)
        pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS).convert("RGB"), dtype=np.float32) / 255
        image = torch.from_numpy(pixels).permute(2, 0, 1).to(self.pos_embed.device)
        return self(image[None])[0]


def hf_keys(key: str) -> list[str]:
    """The keys in the HF model for an original key: one, or those of queries, keys and values, in the order of rows."""
    for pattern, name in HF_NAMES:
        key = re.sub(pattern, name, key)
    if ".attn.qkv." in key:
        return [key.replace(".attn.qkv.", f".attention.attention.{part}.") for part in ("query", "key", "value")]
    return [key]


def load_dino(path: Path, device: torch.device, params: DinoParams | None = None) -> Dino:
    """Loads a safetensors file with either naming. Raises BadWeights, naming the file and the key."""
    with torch.device("meta"):
        model = Dino(params)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return fill(model, *_original(model, list(file.keys()), file.get_tensor), device, torch.float32)
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None
    except BadWeights as error:
        raise BadWeights(f"{path}: {error}; it must be a DINOv2 ViT-L/14 with 4 registers") from None


def _original(
    model: Dino, keys: list[str], tensor: Callable[[str], Tensor]
) -> tuple[list[str], Callable[[str], Tensor]]:
    if "embeddings.cls_token" not in keys:
        return keys, tensor
    names = {key: hf_keys(key) for key in model.state_dict()}
    complete = [key for key, parts in names.items() if set(parts) <= set(keys)]
    unknown = sorted(set(keys) - {part for parts in names.values() for part in parts})
    return complete + unknown, lambda key: torch.cat([tensor(part) for part in names[key]])

"""Stage three: Gaussians for each voxel, by windowed attention over the latents, and their conversion to a `Splat`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.splat.model import Splat
from app.trellis import fused
from app.trellis.attention import SelfAttention, Windows
from app.trellis.layers import EPS, FINAL_EPS, FeedForward, position_embedding
from app.trellis.params import GaussianDecoderParams, Representation

UP = math.sqrt(0.5)
"""(UP, -UP, 0, 0) is the quaternion that rotates TRELLIS's +Z up to the splat's +Y up: (x, y, z) -> (x, z, -y)."""


class WindowBlock(nn.Module):
    """Attention within windows, then feed-forward."""

    def __init__(self, params: GaussianDecoderParams) -> None:
        super().__init__()
        self.attn = SelfAttention(params.model_channels, params.heads, params.qk_rms_norm)
        self.mlp = FeedForward(params.model_channels, params.mlp_ratio)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(N, C) -> (N, C). Overwrites x."""
        h = fused.norm(x, None, None, EPS)
        attended = self.attn.to_out(windows.attend(self.attn.qkv(h[windows.order])))
        fused.add_norm_(x, attended, None, None, None, None, EPS, h)
        fused.add_(x, self.mlp(h), None)
        return x


@dataclass(frozen=True)
class Gaussians:
    """Attributes before activation, float32, in TRELLIS's frame (+Z up). M = voxels * G rows, voxel by voxel.

    xyz: (M, 3), in [0, 1] of the volume. features_dc: (M, 1, 3). The others lack their biases: scaling: (M, 3),
    rotation: (M, 4), wxyz; opacity: (M, 1), a logit.
    """

    xyz: Tensor
    features_dc: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor


class GaussianDecoder(nn.Module):
    """Turns the latent of each voxel into `num_gaussians` Gaussians."""

    offset_perturbation: Tensor

    def __init__(self, params: GaussianDecoderParams) -> None:
        super().__init__()
        self.params = params
        count = params.representation_config.num_gaussians
        self.register_buffer("offset_perturbation", torch.empty(count, 3))
        self.input_layer = nn.Linear(params.latent_channels, params.model_channels)
        self.blocks = nn.ModuleList(WindowBlock(params) for _ in range(params.num_blocks))
        self.out_layer = nn.Linear(params.model_channels, 14 * count)

    def forward(self, coords: Tensor, latents: Tensor) -> Tensor:
        """coords: (N, 3) voxels of one object, latents: (N, latent) -> (N, 14 G) float32, for `gaussians`."""
        width = self.params.window_size
        torso: torch.dtype = self.blocks[0].attn.to_qkv.weight.dtype  # type: ignore[assignment,union-attr]
        partitions = [Windows(coords, width, shift) for shift in (0, width // 2)]
        x = self.input_layer(latents) + position_embedding(coords, self.params.model_channels)
        x = x.to(torso)
        for number, block in enumerate(self.blocks):
            x = block(x, partitions[number % 2])
        x = F.layer_norm(x.to(latents.dtype), x.shape[-1:], eps=FINAL_EPS)
        return self.out_layer(x)

    def gaussians(self, coords: Tensor, raw: Tensor) -> Gaussians:
        """The output (N, 14 G) of the last layer as attributes. A mean is within 0.75 voxels of its voxel's centre."""
        representation, resolution = self.params.representation_config, self.params.resolution
        g = representation.num_gaussians
        xyz, colour, scaling, rotation, opacity = torch.split(raw, [3 * g, 3 * g, 3 * g, 4 * g, g], dim=1)
        offset = xyz.reshape(-1, g, 3) * representation.lr["_xyz"]
        if representation.perturb_offset:
            offset = offset + self.offset_perturbation
        offset = offset.tanh() * 0.5 * representation.voxel_size / resolution
        centre = (coords.float() + 0.5) / resolution
        return Gaussians(
            (centre[:, None] + offset).reshape(-1, 3),
            colour.reshape(-1, 1, 3) * representation.lr["_features_dc"],
            scaling.reshape(-1, 3) * representation.lr["_scaling"],
            rotation.reshape(-1, 4) * representation.lr["_rotation"],
            opacity.reshape(-1, 1) * representation.lr["_opacity"],
        )


def to_splat(gaussians: Gaussians, representation: Representation) -> Splat:
    """Activates the attributes and rotates them to +Y up. Opacity stays a logit; the scale includes the 3D filter."""
    w, x, y, z = F.normalize(gaussians.rotation + gaussians.rotation.new_tensor([1, 0, 0, 0]), dim=-1).unbind(-1)
    px, py, pz = (gaussians.xyz - 0.5).unbind(-1)
    bias = math.log(representation.opacity_bias / (1 - representation.opacity_bias))
    arrays = (
        torch.stack([px, pz, -py], dim=-1),
        torch.stack([w + x, x - w, y + z, z - y], dim=-1) * UP,
        _log_scale(gaussians.scaling, representation),
        gaussians.opacity[:, 0] + bias,
        gaussians.features_dc,
    )
    means, quats, log_scales, opacity_logits, sh = (array.cpu().numpy() for array in arrays)
    return Splat(means, quats, log_scales, opacity_logits, sh)


def _log_scale(scaling: Tensor, representation: Representation) -> Tensor:
    """ln sqrt(activation(raw + bias)^2 + kernel^2), in world units. The bias makes a raw 0 `scaling_bias`."""
    if representation.scaling_activation == "exp":
        log_active = scaling + math.log(representation.scaling_bias)
    else:
        log_active = F.softplus(
            scaling + representation.scaling_bias + math.log(-math.expm1(-representation.scaling_bias))
        ).log()
    return 0.5 * torch.logaddexp(2 * log_active, torch.full_like(scaling, 2 * math.log(representation.kernel_3d)))

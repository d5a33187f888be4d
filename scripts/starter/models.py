"""TRELLIS's models and their image encoder in the starter's sizes: their configurations, and weights to begin with."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from app.trellis import loading
from app.trellis.attention import RMSNorm
from app.trellis.dino import Dino, DinoParams, LayerScale
from app.trellis.gaussians import GaussianDecoder
from app.trellis.layers import TimestepEmbedder, position_embedding
from app.trellis.sparse import ConvKernel
from app.trellis.structure import StructureFlow
from starter.sizes import Sizes

M = TypeVar("M", bound=nn.Module)
LATENTS = 8
FLOW = {"in_channels": LATENTS, "out_channels": LATENTS, "qk_rms_norm": True, "share_mod": True, "use_fp16": True}
TANGENT, NORMAL = 0.075, 0.025
"""Standard deviations of a Gaussian in its surface and across it, in voxels."""


def trellis_models(sizes: Sizes) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Role in pipeline.json -> (file name without suffix, class, arguments)."""
    flow = FLOW | {"model_channels": sizes.width, "cond_channels": sizes.width, "num_heads": sizes.heads}
    return {
        "sparse_structure_flow_model": (
            "ss_flow",
            "SparseStructureFlowModel",
            flow | {"resolution": sizes.latent, "patch_size": 1, "num_blocks": sizes.structure_blocks},
        ),
        "sparse_structure_decoder": (
            "ss_dec",
            "SparseStructureDecoder",
            {"out_channels": 1, "latent_channels": LATENTS, "num_res_blocks": 1, "num_res_blocks_middle": 1,
             "channels": list(sizes.structure_channels), "use_fp16": True},
        ),
        "slat_flow_model": (
            "slat_flow",
            "SLatFlowModel",
            flow | {"resolution": sizes.resolution, "num_blocks": sizes.latent_blocks,
                    "io_block_channels": [sizes.io_channels]},
        ),
        "slat_decoder_gs": (
            "slat_dec_gs",
            "SLatGaussianDecoder",
            {"resolution": sizes.resolution, "model_channels": sizes.width, "latent_channels": LATENTS,
             "num_blocks": sizes.decoder_blocks, "num_heads": sizes.heads, "window_size": sizes.window,
             "use_fp16": True,
             "representation_config": {
                 "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
                 "voxel_size": 1.5, "num_gaussians": sizes.slots, "3d_filter_kernel_size": 4e-4,
                 "scaling_bias": TANGENT / sizes.resolution, "opacity_bias": 0.1}},
        ),
    }  # fmt: skip


def trellis_model(role: str, sizes: Sizes) -> Any:
    _, kind, args = trellis_models(sizes)[role]
    return initialised(loading.build(kind, args))


def image_encoder(sizes: Sizes) -> Dino:
    params = DinoParams(sizes.seen, sizes.patch, sizes.width, sizes.encoder_blocks, sizes.heads)
    with torch.device("meta"):
        model = Dino(params)
    return initialised(model)


def initialised(model: M) -> M:
    """From the meta device, with weights to begin training with: what adds to the residual stream begins at zero."""
    model.to_empty(device="cpu")
    for module in model.modules():
        match module:
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            case nn.Conv2d() | nn.Conv3d() | nn.LayerNorm():
                module.reset_parameters()
            case RMSNorm():
                nn.init.ones_(module.gamma)
            case ConvKernel():
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)
            case LayerScale():
                nn.init.constant_(module.gamma, 0.5)
            case _:
                pass
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name or name in ("out_layer.weight", "out_layer.bias"):
            nn.init.zeros_(parameter)
        if name in ("cls_token", "pos_embed", "register_tokens", "mask_token"):
            nn.init.normal_(parameter, std=0.02)
    for module in model.modules():
        if isinstance(module, TimestepEmbedder):
            for layer in module.mlp:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
    if isinstance(model, StructureFlow):
        side = torch.arange(model.params.resolution // model.params.patch_size)
        model.pos_emb.copy_(position_embedding(torch.cartesian_prod(side, side, side), model.params.model_channels))
    if isinstance(model, GaussianDecoder):
        form = model.params.representation_config
        model.offset_perturbation.copy_(torch.atanh((2 * hammersley(form.num_gaussians) - 1) / form.voxel_size))
    return model


def hammersley(count: int) -> Tensor:
    """(count, 3) in [0, 1): (g / count, radical inverses of g in base 2 and 3)."""

    def inverse(number: int, base: int) -> float:
        digits = 0 if number == 0 else int(math.log(number, base)) + 2
        return sum(number // base**place % base * base ** -(place + 1.0) for place in range(digits))

    return torch.tensor([[g / count, inverse(g, 2), inverse(g, 3)] for g in range(count)])

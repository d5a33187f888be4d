"""The arguments of each model, as frozen dataclasses read from the JSON beside the weights.

Names and defaults are those of the published files, so that their configs can be read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from app.errors import BadWeights

P = TypeVar("P")
ATTRIBUTES = "_xyz", "_features_dc", "_scaling", "_rotation", "_opacity"
IGNORED = {"use_checkpoint"}
"""Training arguments, accepted and not used."""


@dataclass(frozen=True)
class FlowParams:
    """Arguments of both flows. `model_channels` must be divisible by the number of heads."""

    resolution: int
    in_channels: int
    out_channels: int
    model_channels: int
    cond_channels: int
    num_blocks: int
    num_heads: int | None = None
    num_head_channels: int = 64
    mlp_ratio: float = 4
    patch_size: int = 2
    pe_mode: str = "ape"
    use_fp16: bool = False
    share_mod: bool = False
    qk_rms_norm: bool = False
    qk_rms_norm_cross: bool = False

    @property
    def heads(self) -> int:
        return self.num_heads or self.model_channels // self.num_head_channels


@dataclass(frozen=True)
class StructureFlowParams(FlowParams):
    """The flow over a dense latent volume of `resolution`^3."""


@dataclass(frozen=True)
class LatentFlowParams(FlowParams):
    """The flow over the latents of occupied voxels. With `io_block_channels` its blocks run at half the resolution."""

    num_io_res_blocks: int = 2
    io_block_channels: tuple[int, ...] | None = None
    use_skip_connection: bool = True


@dataclass(frozen=True)
class StructureDecoderParams:
    """Latent volume to occupancy logits; each further entry of `channels` doubles the resolution."""

    out_channels: int
    latent_channels: int
    num_res_blocks: int
    channels: tuple[int, ...]
    num_res_blocks_middle: int = 2
    norm_type: str = "layer"
    use_fp16: bool = False


@dataclass(frozen=True)
class Representation:
    """How the decoder's output becomes Gaussians. lr: the factor of each attribute. voxel_size: in voxels; the other
    lengths are in world units."""

    lr: Mapping[str, float]
    voxel_size: float
    num_gaussians: int
    scaling_bias: float
    opacity_bias: float
    kernel_3d: float
    scaling_activation: str = "softplus"
    perturb_offset: bool = True


@dataclass(frozen=True)
class GaussianDecoderParams:
    """The decoder from the latent of a voxel to `num_gaussians` Gaussians, by attention in (shifted) windows."""

    resolution: int
    model_channels: int
    latent_channels: int
    num_blocks: int
    representation_config: Representation
    num_heads: int | None = None
    num_head_channels: int = 64
    mlp_ratio: float = 4
    attn_mode: str = "swin"
    window_size: int = 8
    pe_mode: str = "ape"
    qk_rms_norm: bool = False
    use_fp16: bool = False

    @property
    def heads(self) -> int:
        return self.num_heads or self.model_channels // self.num_head_channels


def parse_params(kind: type[P], args: Mapping[str, Any]) -> P:
    """The arguments of a config file as a `kind`. Raises BadWeights, naming an argument at fault."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    args = {key: value for key, value in args.items() if key not in IGNORED}
    if unknown := sorted(set(args) - known):
        raise BadWeights(f"{kind.__name__}: unknown argument {unknown[0]!r} = {args[unknown[0]]!r}")
    values = {key: _value(key, value) for key, value in args.items()}
    try:
        params = kind(**values)
    except TypeError as error:
        raise BadWeights(f"{kind.__name__}: {error}") from None
    _require_supported(params)
    return params


def _value(key: str, value: Any) -> Any:
    if key == "representation_config":
        names = {"3d_filter_kernel_size": "kernel_3d"}
        fields_ = {names.get(name, name): item for name, item in value.items() if name != "2d_filter_kernel_size"}
        return parse_params(Representation, fields_)
    return tuple(value) if isinstance(value, list) else value


def _require_supported(params: object) -> None:
    """Raises BadWeights for what no published model uses, because it is not implemented."""
    wanted: dict[str, tuple[Any, ...]] = {
        "pe_mode": ("ape",),
        "attn_mode": ("swin",),
        "norm_type": ("layer",),
        "scaling_activation": ("softplus", "exp"),
    }
    if isinstance(params, LatentFlowParams):
        wanted["qk_rms_norm_cross"] = (False,)
        if len(params.io_block_channels or ()) > 1:
            raise BadWeights(f"io_block_channels = {params.io_block_channels}: one level at most is supported")
    if isinstance(params, Representation) and (missing := set(ATTRIBUTES) - set(params.lr)):
        raise BadWeights(f"representation_config: lr has no {min(missing)!r}")
    for name, values in wanted.items():
        if (value := getattr(params, name, values[0])) not in values:
            raise BadWeights(f"{type(params).__name__}: {name} = {value!r} is not supported, only {values}")

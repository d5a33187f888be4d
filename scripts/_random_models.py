"""The models of profile full with random weights, tiny for tests or in their real sizes for benchmarks.

Speed and memory do not depend on the values of weights. The real sizes are those of the published configurations. The
tokenizers are real classes with a small vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import _u2net
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from app.trellis import loading
from app.trellis.dino import Dino, DinoParams

Size = Literal["tiny", "full"]
CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.-"
FLUX_LATENTS = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


# ---- text to image ---------------------------------------------------------------------------------------------------


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5TokenizerFast(vocab=[*special, *((c, -3.0) for c in LETTERS)], extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Qwen2TokenizerFast:
    vocabulary = {letter: place for place, letter in enumerate(LETTERS)} | {"<|endoftext|>": len(LETTERS)}
    tokenizer = Qwen2TokenizerFast(vocab=vocabulary, merges=[], model_max_length=512)
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen(layers: int) -> Qwen3ForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=64, num_hidden_layers=layers, head_dim=16, **shape))


def vae(size: Size, kind: Any = AutoencoderKL, **more: Any) -> Any:
    full = size == "full"
    widths = (128, 256, 512, 512) if full else (4, 8, 8, 8)
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2 if full else 1,
        norm_num_groups=32 if full else 2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **more,
    )


def flux_1(size: Size) -> FluxPipeline:
    """FLUX.1-schnell."""
    full = size == "full"
    clip = CLIPTextConfig(
        vocab_size=49_408 if full else 96,
        hidden_size=768 if full else 32,
        intermediate_size=3072 if full else 64,
        projection_dim=768 if full else 32,
        num_hidden_layers=12 if full else 2,
        num_attention_heads=12 if full else 2,
        bos_token_id=2 * len(LETTERS),
        eos_token_id=2 * len(LETTERS) + 1,
    )
    t5 = T5Config(
        vocab_size=32_128 if full else 64,
        d_model=4096 if full else 32,
        d_kv=64 if full else 8,
        d_ff=10_240 if full else 64,
        num_layers=24 if full else 2,
        num_heads=64 if full else 4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=19 if full else 2,
        num_single_layers=38 if full else 4,
        attention_head_dim=128 if full else 16,
        num_attention_heads=24 if full else 2,
        joint_attention_dim=t5.d_model,
        pooled_projection_dim=clip.hidden_size,
        guidance_embeds=False,
        axes_dims_rope=(16, 56, 56) if full else (4, 6, 6),
    )
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae(size, **FLUX_LATENTS),
        CLIPTextModel(clip),
        clip_tokenizer(),
        T5EncoderModel(t5),
        t5_tokenizer(),
        transformer,
    )


def flux_2_klein() -> Flux2KleinPipeline:
    """FLUX.2-klein-4B, tiny, with the classes of its text encoder, transformer and autoencoder."""
    transformer = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae("tiny", AutoencoderKLFlux2, latent_channels=32),
        qwen(28),  # the pipeline takes the outputs of layers 9, 18 and 27
        qwen_tokenizer(),
        transformer,
        is_distilled=True,
    )


def z_image() -> ZImagePipeline:
    """Z-Image-Turbo, tiny, with the classes of its text encoder, transformer and autoencoder."""
    transformer = ZImageTransformer2DModel(
        dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, axes_dims=[8, 12, 12]
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return ZImagePipeline(scheduler, vae("tiny", **FLUX_LATENTS), qwen(3), qwen_tokenizer(), transformer)


# ---- picture to splat ------------------------------------------------------------------------------------------------

FLOW = {"in_channels": 8, "out_channels": 8, "qk_rms_norm": True, "use_fp16": True}
FORM = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "voxel_size": 1.5, "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1,
}  # fmt: skip
NORMAL = {
    "mean": [-2.17, -0.004, -0.13, -0.08, -0.53, 0.72, -1.14, 1.25],
    "std": [2.38, 2.39, 2.12, 2.18, 2.66, 2.37, 2.62, 2.68],
}
SAMPLER = {
    "name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5},
    "params": {"cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
}  # fmt: skip


def trellis_models(size: Size) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Role in pipeline.json -> (file name without suffix, class, arguments)."""
    full = size == "full"
    width, blocks, heads = (1024, 24, 16) if full else (16, 1, 2)
    flow = FLOW | {"model_channels": width, "cond_channels": width, "num_blocks": blocks, "num_heads": heads}
    decoder = {"model_channels": 768, "num_blocks": 12, "num_heads": 12} if full else {
        "model_channels": 16, "num_blocks": 2, "num_heads": 2, "window_size": 4}  # fmt: skip
    form = FORM | {"num_gaussians": 32 if full else 4}
    return {
        "sparse_structure_flow_model": (
            "ss_flow_img_dit_L_16l8_fp16",
            "SparseStructureFlowModel",
            flow | {"resolution": 16 if full else 4, "patch_size": 1},
        ),
        "sparse_structure_decoder": (
            "ss_dec_conv3d_16l8_fp16",
            "SparseStructureDecoder",
            {"out_channels": 1, "latent_channels": 8, "num_res_blocks": 2 if full else 1, "use_fp16": True,
             "num_res_blocks_middle": 2, "channels": [512, 128, 32] if full else [8, 8, 4]},
        ),
        "slat_flow_model": (
            "slat_flow_img_dit_L_64l8p2_fp16",
            "ElasticSLatFlowModel",
            flow | {"resolution": 64 if full else 16, "io_block_channels": [128] if full else [8]},
        ),
        "slat_decoder_gs": (
            "slat_dec_gs_swin8_B_64l8gs32_fp16",
            "ElasticSLatGaussianDecoder",
            decoder | {"resolution": 64 if full else 16, "latent_channels": 8, "use_fp16": True,
                       "representation_config": form},
        ),
    }  # fmt: skip


def pipeline_json(size: Size) -> dict[str, Any]:
    """The pipeline.json of TRELLIS. At full size the number of steps is the published one."""

    def sampler(steps: int, strength: float) -> dict[str, Any]:
        steps = steps if size == "full" else 2
        return SAMPLER | {"params": SAMPLER["params"] | {"steps": steps, "cfg_strength": strength}}  # type: ignore[operator]

    args = {
        "models": {role: f"ckpts/{stem}" for role, (stem, _, _) in trellis_models(size).items()},
        "sparse_structure_sampler": sampler(25, 7.5),
        "slat_sampler": sampler(25, 3.0),
        "slat_normalization": NORMAL,
        "image_cond_model": "dinov2_vitl14_reg",
    }
    return {"name": "TrellisImageTo3DPipeline", "args": args}


def dino_params(size: Size) -> DinoParams:
    return DinoParams() if size == "full" else DinoParams(28, 14, 16, 1, 2, 2)


def random_tensors(model: nn.Module, device: torch.device, seed: int) -> Callable[[str], Tensor]:
    """Key -> values: matrices scaled by their fan-in, norms and gammas about 1, small biases."""
    generator = torch.Generator(device).manual_seed(seed)
    shapes = {key: value.shape for key, value in model.state_dict().items()}

    def tensor(key: str) -> Tensor:
        values = torch.randn(shapes[key], generator=generator, device=device)
        if key.endswith("gamma") or (values.ndim == 1 and key.endswith("weight")):
            return 1 + 0.1 * values
        if key.endswith("bias"):
            return 0.05 * values
        return values * (values[0].numel() if values.ndim > 1 else 1) ** -0.5

    return tensor


# ---- all of them, in place -------------------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Creates modules on the device, with the dtype and the seed. Restores the global generator afterwards."""
    with ExitStack() as stack:
        places: list[AbstractContextManager[Any]] = [torch.random.fork_rng(), torch.device(device)]
        for place in places:
            stack.enter_context(place)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        stack.callback(torch.set_default_dtype, before)
        torch.manual_seed(seed)
        yield


def write_text_to_image(folder: Path, make: Callable[[], DiffusionPipeline], seed: int, dtype: torch.dtype) -> None:
    """A pipeline in diffusers' layout."""
    with seeded(seed, dtype):
        make().save_pretrained(folder, safe_serialization=True)


def write_trellis(folder: Path, size: Size, seed: int, device: torch.device = CPU) -> None:
    """TRELLIS in its published layout, in half precision where the published files are."""
    (folder / "ckpts").mkdir(parents=True)
    (folder / "pipeline.json").write_text(json.dumps(pipeline_json(size), indent=1))
    for place, (stem, kind, args) in enumerate(trellis_models(size).values()):
        (folder / f"ckpts/{stem}.json").write_text(json.dumps({"name": kind, "args": args}, indent=1))
        model = loading.build(kind, args)
        tensor, types = random_tensors(model, device, seed + place), loading.types(model, torch.float16)
        save_file({key: tensor(key).to(dtype) for key, dtype in types.items()}, folder / f"ckpts/{stem}.safetensors")


def write_encoder(folder: Path, size: Size, seed: int, device: torch.device = CPU) -> None:
    """DINOv2 with registers, and the config.json of its repository."""
    folder.mkdir(parents=True)
    params = dino_params(size)
    shape = {
        "hidden_size": params.embed_dim, "num_hidden_layers": params.depth, "num_attention_heads": params.num_heads,
        "image_size": params.img_size, "patch_size": params.patch_size, "mlp_ratio": params.mlp_ratio,
        "num_register_tokens": params.num_register_tokens, "model_type": "dinov2_with_registers",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape, indent=1))
    with torch.device("meta"):
        model = Dino(params)
    tensor = random_tensors(model, device, seed)
    save_file({key: tensor(key) for key in model.state_dict()}, folder / "model.safetensors")


def write_all(folder: Path, size: Size, seed: int = 0) -> None:
    """Every model of profile full except the scorer, each in a folder of its name."""
    dtype = torch.bfloat16 if size == "full" else torch.float32
    write_text_to_image(folder / "FLUX.1-schnell", lambda: flux_1(size), seed, dtype)
    write_trellis(folder / "TRELLIS-image-large", size, seed + 1)
    write_encoder(folder / "dinov2-with-registers-large", size, seed + 2)
    (folder / "u2net").mkdir()
    _u2net.write_onnx(folder / "u2net/u2net.onnx", 1.0 if size == "full" else 1 / 32, seed + 3)


def settings(folder: Path) -> dict[str, str]:
    """Environment variables that make profile full use the models written by `write_all`."""
    return {
        "SPLATGATE__PROFILE__NAME": "full",
        "SPLATGATE__IMAGE__MODEL": f"{folder}/FLUX.1-schnell",
        "SPLATGATE__CUTOUT__MODEL": f"{folder}/u2net/u2net.onnx",
        "SPLATGATE__TRELLIS__MODEL": f"{folder}/TRELLIS-image-large",
        "SPLATGATE__TRELLIS__ENCODER": f"{folder}/dinov2-with-registers-large",
    }

"""Checkpoints into the folders that profile `full` reads, in the layouts that its models are published in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from starter import cutout, picture
from starter.models import LATENTS, trellis_models
from starter.sizes import Sizes
from starter.training import checkpoint, half, read

CHECKPOINTS = {  # role in pipeline.json -> stage and module
    "sparse_structure_flow_model": ("flows", "structure_flow"),
    "sparse_structure_decoder": ("structure", "decoder"),
    "slat_flow_model": ("flows", "latent_flow"),
    "slat_decoder_gs": ("latents", "decoder"),
}
SAMPLERS = {"sparse_structure_sampler": (12, 2.0), "slat_sampler": (12, 1.0)}
"""Steps and strength of guidance."""


def write_all(checkpoints: Path, folder: Path, sizes: Sizes) -> None:
    """picture/, cutout/u2net.onnx, trellis/ and encoder/."""
    write_trellis(checkpoints, folder / "trellis", sizes)
    write_encoder(checkpoints, folder / "encoder", sizes)
    picture.write_pipeline(checkpoints, folder / "picture", sizes)
    cutout.write_onnx(checkpoints, folder / "cutout/u2net.onnx", sizes)


def write_trellis(checkpoints: Path, folder: Path, sizes: Sizes) -> None:
    (folder / "ckpts").mkdir(parents=True, exist_ok=True)
    models = trellis_models(sizes)
    for role, (stem, kind, args) in models.items():
        (folder / f"ckpts/{stem}.json").write_text(json.dumps({"name": kind, "args": args}, indent=1) + "\n")
        save_file(_halves(checkpoints, *CHECKPOINTS[role]), folder / f"ckpts/{stem}.safetensors")
    pipeline = {
        "models": {role: f"ckpts/{stem}" for role, (stem, _, _) in models.items()},
        **{name: _sampler(*values) for name, values in SAMPLERS.items()},
        "slat_normalization": {"mean": [0.0] * LATENTS, "std": [1.0] * LATENTS},
        "image_cond_model": "dinov2_vitl14_reg",
    }
    text = json.dumps({"name": "TrellisImageTo3DPipeline", "args": pipeline}, indent=1)
    (folder / "pipeline.json").write_text(text + "\n")


def write_encoder(checkpoints: Path, folder: Path, sizes: Sizes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "dinov2_with_registers", "hidden_size": sizes.width, "num_hidden_layers": sizes.encoder_blocks,
        "num_attention_heads": sizes.heads, "mlp_ratio": 4, "image_size": sizes.seen, "patch_size": sizes.patch,
        "num_register_tokens": 4,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(_halves(checkpoints, "flows", "encoder"), folder / "model.safetensors")


def settings(folder: Path, sizes: Sizes) -> dict[str, str]:
    """Variables that make profile full use what `write_all` wrote."""
    return {
        "SPLATGATE__PROFILE__NAME": "full",
        "SPLATGATE__IMAGE__MODEL": f"{folder}/picture",
        "SPLATGATE__IMAGE__TEMPLATE": "{prompt}",
        "SPLATGATE__IMAGE__SIZE": str(sizes.picture),
        "SPLATGATE__IMAGE__STEPS": "12",
        "SPLATGATE__IMAGE__MAX_TOKENS": str(sizes.max_tokens),
        "SPLATGATE__CUTOUT__MODEL": f"{folder}/cutout/u2net.onnx",
        "SPLATGATE__TRELLIS__MODEL": f"{folder}/trellis",
        "SPLATGATE__TRELLIS__ENCODER": f"{folder}/encoder",
    }


def _halves(checkpoints: Path, stage: str, part: str) -> dict[str, Tensor]:
    tensors, _ = read(checkpoint(checkpoints, stage, part))
    return {key: half(value) for key, value in tensors.items()}


def _sampler(steps: int, strength: float) -> dict[str, Any]:
    params = {"steps": steps, "cfg_strength": strength, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
    return {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}

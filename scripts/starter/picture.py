"""The picture model, a small FluxPipeline: first its autoencoder, then its text encoders and its transformer."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from starter.pool import Pool
from starter.sizes import Sizes
from starter.training import Averaged, Options, checkpoint, flow_times, load_part, read, train
from starter.world import GREY, paraphrased, vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLIP_TOKENS = 77
WORDINGS = 4
"""Of a prompt, by synonyms."""


# ---- autoencoder -----------------------------------------------------------------------------------------------------


def autoencoder(sizes: Sizes, scaling: float = 1.0, shift: float = 0.0) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=sizes.picture_widths,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=sizes.picture_latents,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def on_grey(pictures: Tensor) -> Tensor:
    """(..., S, S, 4) uint8, premultiplied -> (..., 3, S, S) in [-1, 1]."""
    rgba = pictures.movedim(-1, -3).float() / 255
    ground = torch.tensor(GREY, device=pictures.device).view(3, 1, 1)
    return 2 * (rgba[..., :3, :, :] + (1 - rgba[..., 3:, :, :]) * ground) - 1


def train_picture_latents(options: Options, sizes: Sizes) -> dict[str, Any]:
    pool = Pool(options.data, "learn", ["pictures"], options.device)
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged({"autoencoder": autoencoder(sizes).to(memory_format=torch.channels_last)}, options.device)
    modules: Any = averaged.modules
    pool.wait(sizes.picture_latents_batch)

    def refresh() -> None:
        if len(pool) < 4096:
            pool.refresh()

    def loss_of() -> dict[str, Tensor]:
        images = on_grey(pool.batch(sizes.picture_latents_batch, random)["pictures"][:, 0])
        known = modules.autoencoder.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        made = modules.autoencoder.decode(known.sample()).sample.float()
        return {
            "pixels": (made - images).abs().mean() + (made - images).square().mean(),
            "edges": sum((made - images).diff(dim=axis).abs().mean() for axis in (2, 3)),
            "divergence": 1e-5 * known.kl().mean() / known.mean[0].numel() * 100,
        }

    figures = train("picture_latents", options, averaged, loss_of, rate=2e-3, before_step=refresh)
    with averaged.in_use():
        figures |= picture_latents_figures(modules.autoencoder, options)
    averaged.save(options.folder, "picture_latents", figures)
    return figures


@torch.no_grad()
def picture_latents_figures(model: AutoencoderKL, options: Options) -> dict[str, float]:
    """Held-out pictures: PSNR, and mean and standard deviation of the latents, which the flow is scaled by."""
    held = Pool(options.data, "held", ["pictures"], options.device)
    held.refresh(0)
    errors, latents = [], []
    for part in torch.arange(min(len(held), 128)).split(16):
        images = on_grey(held.rows(part)["pictures"][:, 0])
        z = model.encode(images).latent_dist.mean
        made = model.decode(z).sample.clamp(-1, 1)
        errors.append(((made - images) / 2).square().mean((1, 2, 3)))
        latents.append(z)
    z = torch.cat(latents)
    return {
        "psnr": round(float(-10 * torch.cat(errors).log10().mean()), 2),
        "mean": round(float(z.mean()), 5),
        "std": round(float(z.std()), 5),
    }


# ---- words -----------------------------------------------------------------------------------------------------------


def clip_tokenizer() -> CLIPTokenizer:
    """Its tokens are letters."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: place for place, piece in enumerate(pieces)}, merges=[], model_max_length=CLIP_TOKENS
    )


def t5_tokenizer(sizes: Sizes) -> T5TokenizerFast:
    """Its tokens are the words of the world; any other word becomes <unk>."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -3.0) for word in vocabulary()]
    return T5TokenizerFast(vocab=[*special, *words], extra_ids=0, model_max_length=sizes.max_tokens)


def text_modules(sizes: Sizes) -> dict[str, nn.Module]:
    ends = 2 * len(LETTERS)
    clip = CLIPTextConfig(
        vocab_size=ends + 2,
        hidden_size=64,
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=ends,
        eos_token_id=ends + 1,
    )
    t5 = T5Config(
        vocab_size=4 + len(vocabulary()),
        d_model=sizes.text_width,
        d_kv=32,
        d_ff=3 * sizes.text_width,
        num_layers=sizes.text_layers,
        num_heads=sizes.text_width // 32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return {"text_encoder": CLIPTextModel(clip), "text_encoder_2": T5EncoderModel(t5)}


def transformer(sizes: Sizes) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * sizes.picture_latents,
        num_layers=sizes.picture_double,
        num_single_layers=sizes.picture_single,
        attention_head_dim=32,
        num_attention_heads=sizes.picture_heads,
        joint_attention_dim=sizes.text_width,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


def tokens_of(prompts: list[str], sizes: Sizes, seed: int) -> tuple[Tensor, Tensor]:
    """(n, WORDINGS, 77) and (n, WORDINGS, max_tokens) of each prompt in several wordings."""
    random = Random(seed)
    texts = [paraphrased(prompt, random) for prompt in prompts for _ in range(WORDINGS)]
    clip, t5 = clip_tokenizer(), t5_tokenizer(sizes)
    rows = [
        tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        for tokenizer, length in ((clip, CLIP_TOKENS), (t5, sizes.max_tokens))
    ]
    return rows[0].view(len(prompts), WORDINGS, -1), rows[1].view(len(prompts), WORDINGS, -1)


# ---- transformer -----------------------------------------------------------------------------------------------------


def picture_modules(sizes: Sizes) -> dict[str, nn.Module]:
    return {"transformer": transformer(sizes), **text_modules(sizes)}


def packed(latents: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W / 4, 4 C), as FluxPipeline orders them."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def velocity(modules: Any, x: Tensor, t: Tensor, clip: Tensor, t5: Tensor, side: int) -> Tensor:
    """x: (B, (side/2)^2, 4 C), t: (B,) in [0, 1]."""
    half = torch.arange(side // 2, device=x.device)
    places = torch.cartesian_prod(torch.zeros(1, device=x.device, dtype=half.dtype), half, half).to(x.dtype)
    return modules.transformer(
        hidden_states=x,
        timestep=t,
        pooled_projections=modules.text_encoder(clip).pooler_output,
        encoder_hidden_states=modules.text_encoder_2(t5).last_hidden_state,
        txt_ids=torch.zeros(t5.shape[1], 3, device=x.device),
        img_ids=places,
        return_dict=False,
    )[0]


class PictureData:
    """Latents of the pool's pictures and the tokens of its prompts."""

    def __init__(self, options: Options, sizes: Sizes, kind: str) -> None:
        path = checkpoint(options.folder, "picture_latents", "autoencoder")
        figures = read(path)[1]
        self.scaling, self.shift = 1 / figures["std"], figures["mean"]
        self.model = load_part(autoencoder(sizes), options.folder, "picture_latents", "autoencoder", options.device)
        self.pool = Pool(options.data, kind, ["pictures"], options.device, self._latents)
        self.sizes, self.seed = sizes, options.seed
        self.clip = self.t5 = torch.zeros(0, WORDINGS, 1, dtype=torch.long)

    def refresh(self, every: float = 10.0) -> None:
        new = self.pool.refresh(every, 16)
        if new > len(self.clip):
            fresh = tokens_of(self.pool.prompts[len(self.clip) :], self.sizes, self.seed + len(self.clip))
            known = (self.clip, self.t5) if len(self.clip) else tuple(rows[:0].to(self.pool.device) for rows in fresh)
            self.clip, self.t5 = (torch.cat([a, b.to(a.device)]) for a, b in zip(known, fresh, strict=True))

    @torch.no_grad()
    def _latents(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        pictures = part["pictures"].flatten(0, 1).split(64)
        latents = torch.cat([self.model.encode(on_grey(group)).latent_dist.mean for group in pictures])
        return {"latents": (latents - self.shift).mul(self.scaling).half().unflatten(0, (len(part["pictures"]), -1))}

    def losses(self, modules: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        b, device = len(batch["index"]), self.pool.device
        each = torch.arange(b, device=device)
        views, wordings = batch["latents"].shape[1], self.clip.shape[1]
        latents = batch["latents"][each, torch.randint(views, (b,), device=device)].float()
        wording = torch.randint(wordings, (b,), device=device)
        clip, t5 = self.clip[batch["index"], wording], self.t5[batch["index"], wording]
        t, noise = flow_times(b, device, 0.4), torch.randn_like(latents)
        here = t.view(-1, 1, 1, 1)
        x = packed((1 - here) * latents + here * noise)
        found = velocity(modules, x, t, clip, t5, latents.shape[-1])
        return {"velocity": F.mse_loss(found.float(), packed(noise - latents))}


def train_picture(options: Options, sizes: Sizes) -> dict[str, Any]:
    data = PictureData(options, sizes, "learn")
    random = torch.Generator().manual_seed(options.seed)
    averaged = Averaged(picture_modules(sizes), options.device, 0.9995)
    modules: Any = averaged.modules
    modules.train()
    if options.compiled:
        modules.transformer.compile_repeated_blocks()
    data.pool.wait(1)
    data.refresh(0)

    def loss_of() -> dict[str, Tensor]:
        return data.losses(modules, data.pool.batch(sizes.picture_batch, random))

    figures = train("picture", options, averaged, loss_of, rate=1e-3, before_step=data.refresh)
    with averaged.in_use(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        held = PictureData(options, sizes, "held")
        held.refresh(0)
        torch.manual_seed(0)
        every = torch.arange(len(held.pool)).repeat(4).split(sizes.picture_batch)
        losses = [held.losses(modules, held.pool.rows(part))["velocity"] for part in every]
        figures |= {"held velocity": round(float(torch.stack(losses).mean()), 5)}
    averaged.save(options.folder, "picture", figures)
    return figures


def write_pipeline(checkpoints: Path, folder: Path, sizes: Sizes) -> None:
    """In diffusers' layout, float16."""
    cpu = torch.device("cpu")
    figures = read(checkpoint(checkpoints, "picture_latents", "autoencoder"))[1]
    vae = autoencoder(sizes, 1 / figures["std"], figures["mean"])
    parts = {name: load_part(part, checkpoints, "picture", name, cpu) for name, part in picture_modules(sizes).items()}
    pipeline = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        load_part(vae, checkpoints, "picture_latents", "autoencoder", cpu),
        parts["text_encoder"],
        clip_tokenizer(),
        parts["text_encoder_2"],
        t5_tokenizer(sizes),
        parts["transformer"],
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)

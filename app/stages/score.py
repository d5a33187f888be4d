"""Scores views against a prompt or a picture: the cosine of open_clip embeddings, one for each view.

The model is a name with a pretrained tag, a name with a local file, or a folder with its own open_clip_config.json.
Weights are safetensors only. This file does not know splats, cameras or thresholds.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from loguru import logger
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch.nn import functional

from app.digest import sha256_of
from app.errors import BadWeights, StageFailed, Unavailable
from app.reason import Reason
from app.splat.model import Float32
from app.stages.measurement import Measurement
from app.stages.picture import ModelInfo
from app.trellis.graphs import GraphCache

TEXT_CACHE_SIZE = 256

LARGEST_SIDE = 1024
"""Pixels; more than any model uses. A picture of 16 million pixels would take 0.4 GB of memory."""


@dataclass(frozen=True)
class ScorerParams:
    """model: an open_clip name ("ViT-L-14") or "local-dir:FOLDER". pretrained: a tag or a .safetensors file.

    weights: the tag's weights as a local .safetensors file; if empty, they are in the Hugging Face cache.
    """

    model: str = "ViT-L-14"
    pretrained: str = "openai"
    weights: str = ""
    aggregate: Literal["mean", "max"] = "mean"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Scorer:
    """A loaded scorer, in half precision on a GPU. Not thread-safe: one engine process owns it.

    graphs: replays the towers as CUDA graphs; set it only if their weights stay on the GPU. Without graphs the towers
    wait for the host most of the time.
    """

    def __init__(self, params: ScorerParams, model: Any, tokenizer: Any, weights_sha256: str) -> None:
        self.params = params
        self.weights_sha256 = weights_sha256
        self.device = _device(params.device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.model = model.to(self.device, self.dtype)
        self.graphs: GraphCache | None = None
        self._tokenizer = tokenizer
        self._texts: OrderedDict[str, tuple[torch.Tensor, bool]] = OrderedDict()

    @torch.inference_mode()
    def run(self, images: Float32, prompt: str) -> Measurement:
        """Scores images (V, H, W, 3), float32 RGB in [0, 1], against the prompt.

        Raises StageFailed if the model returns a number that is not finite.
        """
        text, truncated = self._text(prompt)
        return self._compare(images, text, truncated=truncated)

    @torch.inference_mode()
    def run_against(self, images: Float32, picture: Image.Image, background: tuple[float, float, float]) -> Measurement:
        """Scores images (V, H, W, 3), float32 RGB in [0, 1], against a picture on that background.

        Raises StageFailed if the model returns a number that is not finite.
        """
        return self._compare(images, self._features(on_square(picture, background))[0], truncated=False)

    def _compare(self, images: Float32, wanted: torch.Tensor, *, truncated: bool) -> Measurement:
        """wanted: (D,), unit length."""
        cosines = (self._features(images) @ wanted).cpu()
        if not bool(torch.isfinite(cosines).all()):
            answered = {"model": self.params.model, "values": str(cosines.tolist())}
            raise StageFailed(Reason("score_not_finite", answered))
        value = cosines.max() if self.params.aggregate == "max" else cosines.mean()
        model = ModelInfo("scorer", self.model_id, self.weights_sha256)
        details = {"aggregate": self.params.aggregate, "prompt_truncated": truncated}
        return Measurement(float(value), tuple(cosines.tolist()), model, details)

    def _features(self, images: Float32) -> torch.Tensor:
        """(V, H, W, 3) in [0, 1] -> (V, D) float32, unit length."""
        pixels = to_pixels(torch.from_numpy(images).to(self.device), self.model)
        return self._embedded(self.model.encode_image, pixels.to(self.dtype))

    def _embedded(self, tower: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """(n, D) float32, unit length."""
        features = self.graphs(tower, (inputs,), ()) if self.graphs else tower(inputs)
        return functional.normalize(features.float(), dim=-1)

    @property
    def model_id(self) -> str:
        """Name and pretrained tag, or the folder's name: never a path."""
        if self.params.model.startswith("local-dir:"):
            return Path(self.params.model.removeprefix("local-dir:")).name
        return f"{self.params.model}/{Path(self.params.pretrained).name}"

    def _text(self, prompt: str) -> tuple[torch.Tensor, bool]:
        """Unit embedding (D,) of the prompt, and whether it was truncated to the model's context length."""
        if prompt not in self._texts:
            length = self._tokenizer.context_length
            wanted = len(self._tokenizer.encode(prompt)) + 2  # start and end of text
            if wanted > length:
                logger.warning(
                    f"the prompt has {wanted} tokens, {self.model_id} reads {length}: the score ignores the rest"
                )
            tokens = self._tokenizer([prompt]).to(self.device)
            self._texts[prompt] = self._embedded(self.model.encode_text, tokens)[0], wanted > length
            if len(self._texts) > TEXT_CACHE_SIZE:
                self._texts.popitem(last=False)
        self._texts.move_to_end(prompt)
        return self._texts[prompt]


def load(params: ScorerParams) -> Scorer:
    """Builds the model and loads its weights from safetensors.

    Raises BadWeights if the file is missing, not safetensors, or does not fit the model; Unavailable if the device is
    missing.
    """
    weights = _weights(params)
    try:
        model = _build(params, weights)
        tokenizer = open_clip.get_tokenizer(params.model, **_vocabulary(params))
        _check_vocabulary(params, model, tokenizer)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, OSError, EOFError, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadWeights(f"{weights}: does not fit {params.model}: {reason}") from None
    scorer = Scorer(params, model, tokenizer, sha256_of(weights))
    logger.info(f"CLIP model {scorer.model_id} on {scorer.device}, weights sha256 {scorer.weights_sha256[:12]}")
    return scorer


def to_pixels(images: torch.Tensor, model: Any) -> torch.Tensor:
    """(V, H, W, 3) in [0, 1] → (V, 3, S, S), for the image tower: resized with antialiasing, then normalised."""
    wanted = model.visual.preprocess_cfg
    size = wanted["size"] if isinstance(wanted["size"], tuple) else (wanted["size"],) * 2
    pictures = images.permute(0, 3, 1, 2)
    pictures = functional.interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 1
    )
    mean, std = (torch.tensor(wanted[key], device=images.device).view(3, 1, 1) for key in ("mean", "std"))
    return (pictures - mean) / std


def on_square(picture: Image.Image, background: tuple[float, float, float]) -> Float32:
    """(1, S, S, 3) in [0, 1]: the picture, composited over the background colour, in the middle of a square.

    S: its longer side, at most LARGEST_SIDE.
    """
    picture = ImageOps.contain(picture, (LARGEST_SIDE,) * 2) if max(picture.size) > LARGEST_SIDE else picture
    side, colour = max(picture.size), tuple(round(255 * share) for share in background)
    square = Image.new("RGB", (side, side), colour)
    corner = (side - picture.width) // 2, (side - picture.height) // 2
    square.paste(picture.convert("RGB"), corner, picture.getchannel("A") if picture.mode == "RGBA" else None)
    return np.asarray(square, np.float32)[None] / np.float32(255)


def overrides(model: str, tag: str) -> dict[str, Any]:
    """What a pretrained tag implies beyond its weights: activation and normalisation.

    open_clip only warns if the activation differs, and uses neither if the weights come from a file.
    """
    facts = open_clip.get_pretrained_cfg(model, tag)
    return {
        "force_quick_gelu": bool(facts.get("quick_gelu")),
        "force_preprocess_cfg": {key: facts[key] for key in ("mean", "std") if key in facts},
    }


def _build(params: ScorerParams, weights: Path) -> Any:
    if params.model.startswith("local-dir:"):
        model = open_clip.create_model(params.model, require_pretrained=True)
    else:
        settings = overrides(params.model, params.pretrained)
        model = open_clip.create_model(params.model, pretrained=str(weights), require_pretrained=True, **settings)
    return model.eval().requires_grad_(False)


def _weights(params: ScorerParams) -> Path:
    if params.model.startswith("local-dir:"):
        path = Path(params.model.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    elif params.weights:
        path = Path(params.weights)
    elif tag := open_clip.get_pretrained_cfg(params.model, params.pretrained):
        path = _cached(params, tag)
    else:
        path = Path(params.pretrained)
    if path.suffix != ".safetensors":
        raise BadWeights(
            f"{str(path)!r} is neither a pretrained tag of {params.model} nor a .safetensors file: "
            "correct score.pretrained or score.weights"
        )
    if not path.is_file():
        raise BadWeights(f"{path}: scorer weights are missing")
    return path


def _cached(params: ScorerParams, tag: dict[str, Any]) -> Path:
    """The path of the tag's weights in the hub's cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    repository = str(tag.get("hf_hub", "")).rstrip("/")
    found = repository and try_to_load_from_cache(repository, "open_clip_model.safetensors")
    if not isinstance(found, str):
        raise BadWeights(
            f"weights of {params.model}/{params.pretrained} are not on this host. Fetch open_clip_model.safetensors of "
            f"{repository or params.model} from the Hugging Face Hub and set score.weights to that file"
        )
    return Path(found)


def _vocabulary(params: ScorerParams) -> dict[str, str]:
    """A local folder has its own BPE merges; without them another model's vocabulary would be used."""
    if not params.model.startswith("local-dir:"):
        return {}
    merges = Path(params.model.removeprefix("local-dir:")) / "merges.txt.gz"
    if not merges.is_file():
        raise BadWeights(f"{merges}: the scorer's vocabulary is missing")
    return {"bpe_path": str(merges)}


def _check_vocabulary(params: ScorerParams, model: Any, tokenizer: Any) -> None:
    """Raises ValueError if the merges are truncated or empty, which open_clip would not notice."""
    if _vocabulary(params) and tokenizer.vocab_size != model.vocab_size:
        raise ValueError(f"merges.txt.gz gives {tokenizer.vocab_size:,} tokens, the model has {model.vocab_size:,}")


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise Unavailable('score.device = "cuda", but no CUDA device is visible: set it to "auto" or "cpu"')
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

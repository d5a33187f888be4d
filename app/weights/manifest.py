"""The known models, with repository, commit, files, licence and size; and which of them a configuration needs."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

from app.config import Config
from app.errors import BadInput, BadWeights

SUFFIXES = (".safetensors", ".onnx", ".json", ".txt", ".model", ".jinja")
"""The files that a model may have: weights that hold only numbers, and text. Never a pickle.

A .jinja file is a tokenizer's chat template, which transformers renders in a sandbox.
"""

Role = Literal["text_to_image", "cutout", "image_to_splat", "image_features", "scorer"]

DIFFUSERS = ("model_index.json", *(f"*/*{suffix}" for suffix in SUFFIXES if suffix != ".onnx"))
"""A diffusers pipeline in folders, without the single-file copy of its weights at the top."""


@dataclass(frozen=True)
class Model:
    """A model that can be fetched.

    revision: a commit, or a branch whose commit is resolved at the first fetch and kept in the lock.
    files: names or patterns within the repository. about_bytes: their total size as published.
    gated: only accounts that have accepted the publisher's conditions can download it.
    pinned: (file, sha256) pairs that must match whatever the repository says.
    by_hand: published as pickles, so it is never fetched: scripts/convert_checkpoint makes its files of a download.
    """

    name: str
    role: Role
    repository: str
    revision: str
    files: tuple[str, ...]
    licence: str
    about_bytes: int
    purpose: str
    gated: bool = False
    pinned: tuple[tuple[str, str], ...] = ()
    by_hand: bool = False

    def __post_init__(self) -> None:
        for pattern in self.files:
            check_path(pattern, self.name)

    def wants(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.files)


def check_path(path: str, model: str) -> None:
    """Raises BadWeights for a file that could hold code, or whose path leaves the model's folder."""
    parts = PurePosixPath(path)
    if parts.suffix not in SUFFIXES:
        raise BadWeights(f"{model}: {path!r} is refused: allowed are {', '.join(SUFFIXES)}")
    if parts.is_absolute() or ".." in parts.parts or path.startswith(".") or "\\" in path or "\0" in path:
        raise BadWeights(f"{model}: {path!r} is refused: the path leaves the model's folder")


FLOWS = "ss_flow_img_dit_L_16l8_fp16", "slat_flow_img_dit_L_64l8p2_fp16"
CKPTS = (
    *FLOWS,
    *("ss_dec_conv3d_16l8_fp16", "slat_dec_gs_swin8_B_64l8gs32_fp16"),
)
"""The models that lead to Gaussians; the other decoders and the encoders are not used."""

SCORER = "ViT-L-14-openai"

MODELS = (
    Model(
        name="FLUX.1-schnell",
        role="text_to_image",
        repository="black-forest-labs/FLUX.1-schnell",
        revision="741f7c3ce8b383c54771c7003378a50191e9efe9",
        files=DIFFUSERS,
        licence="apache-2.0",
        about_bytes=33_725_900_000,
        purpose="the picture, by default",
        gated=True,
    ),
    Model(
        name="FLUX.2-klein-4B",
        role="text_to_image",
        repository="black-forest-labs/FLUX.2-klein-4B",
        revision="e7b7dc27f91deacad38e78976d1f2b499d76a294",
        files=DIFFUSERS,
        licence="apache-2.0",
        about_bytes=15_980_100_000,
        purpose="the picture, as an option",
    ),
    Model(
        name="Z-Image-Turbo",
        role="text_to_image",
        repository="Tongyi-MAI/Z-Image-Turbo",
        revision="f332072aa78be7aecdf3ee76d5c247082da564a6",
        files=DIFFUSERS,
        licence="apache-2.0",
        about_bytes=32_848_300_000,
        purpose="the picture, as an option",
    ),
    Model(
        name="u2net",
        role="cutout",
        repository="tomjackson2023/rembg",
        revision="cd3a3d6767a7859efea31ef0f2f373582cf06d82",
        files=("u2net.onnx",),
        licence="apache-2.0",
        about_bytes=175_997_641,
        purpose="the cutout, by default",
        pinned=(("u2net.onnx", "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491"),),
    ),
    Model(
        name="birefnet-general",
        role="cutout",
        repository="onnx-community/BiRefNet-ONNX",
        revision="534d3c82d3bb8b2f0867db6dfbc3a525b8e42f67",
        files=("onnx/model.onnx",),
        licence="mit",
        about_bytes=972_666_916,
        purpose="the cutout, as an option",
        pinned=(("onnx/model.onnx", "58f621f00f5d756097615970a88a791584600dcf7c45b18a0a6267535a1ebd3c"),),
    ),
    Model(
        name="TRELLIS-image-large",
        role="image_to_splat",
        repository="microsoft/TRELLIS-image-large",
        revision="25e0d31ffbebe4b5a97464dd851910efc3002d96",
        files=("pipeline.json", *(f"ckpts/{stem}{suffix}" for stem in CKPTS for suffix in (".json", ".safetensors"))),
        licence="mit",
        about_bytes=2_653_600_000,
        purpose="picture to splat",
    ),
    Model(
        name="MDT-dist",
        role="image_to_splat",
        repository="Zanwei/mdt-dist",
        revision="main",
        files=tuple(f"ckpts/{stem}.safetensors" for stem in FLOWS),
        licence="not stated",
        about_bytes=2_312_000_000,  # two bytes a parameter
        purpose="distilled flows for TRELLIS, as an option",
        by_hand=True,
    ),
    Model(
        name="dinov2-with-registers-large",
        role="image_features",
        repository="facebook/dinov2-with-registers-large",
        revision="e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
        files=("config.json", "model.safetensors"),
        licence="apache-2.0",
        about_bytes=1_220_000_000,
        purpose="the image features for TRELLIS",
    ),
    Model(
        name=SCORER,
        role="scorer",
        repository="timm/vit_large_patch14_clip_224.openai",
        revision="18d0535469bb561bf468d76c1d73aa35156c922b",
        files=("open_clip_model.safetensors",),
        licence="apache-2.0",
        about_bytes=1_710_000_000,
        purpose="the score",
        pinned=(("open_clip_model.safetensors", "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e"),),
    ),
)


def find(name: str) -> Model:
    """The model of this name. Raises BadInput, listing the known ones."""
    for model in MODELS:
        if model.name == name:
            return model
    raise BadInput(f"unknown model {name!r}; known models: {', '.join(model.name for model in MODELS)}")


def needed(config: Config) -> tuple[Model, ...]:
    """The models that the configured profile needs, except where the configuration has a path in place of a name.

    Raises BadInput for a name that is not in the manifest.
    """
    config = config.with_generator_settings()
    names = [name for name in _named(config) if "/" not in name]
    if config.validation.enabled and scorer_is_ours(config):
        names.append(SCORER)
    return tuple(map(find, names))


def own_paths(config: Config) -> tuple[str, ...]:
    """Folders and files that the configuration gives in place of models; they are not locked."""
    return tuple(name for name in _named(config.with_generator_settings()) if "/" in name)


def _named(config: Config) -> tuple[str, ...]:
    """The values of the keys that name the generator's models, without empty ones."""
    tree = config.model_dump(by_alias=True)
    keys = (key.split(".") for key in config.profile.generator.models)
    return tuple(tree[section][key] for section, key in keys if tree[section][key])


def scorer_is_ours(config: Config) -> bool:
    """Whether the configured scorer is the manifest's, not another tag or a file of the user's."""
    score = config.score
    return (score.model, score.pretrained, score.weights) == ("ViT-L-14", "openai", "")


def gigabytes(count: int) -> str:
    """A count of bytes for people: GB (10^9 bytes), MB or kB."""
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size), ("kB", 1e3))
    return f"{count / size:.{1 if unit == 'GB' else 0}f} {unit}"

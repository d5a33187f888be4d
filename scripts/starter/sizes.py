"""Sizes of the starter models, of the data and of the batches: REAL, and TINY for tests on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Lengths in pixels or voxels a side, widths in channels."""

    points: int = 48_000  # surface samples an object
    views: int = 2  # pictures an object
    picture: int = 256  # what the picture model draws
    seen: int = 128  # what the image encoder sees
    resolution: int = 32  # of the voxels
    latent: int = 8  # of the structure latents, resolution / 4
    slots: int = 128  # Gaussians a voxel

    width: int = 192  # of encoder, flows and Gaussian decoder
    heads: int = 6
    patch: int = 8  # of the image encoder
    encoder_blocks: int = 4
    structure_blocks: int = 7
    latent_blocks: int = 5
    io_channels: int = 32
    decoder_blocks: int = 3
    window: int = 8
    structure_channels: tuple[int, ...] = (64, 32, 16)

    picture_widths: tuple[int, ...] = (24, 48, 64, 96)
    picture_latents: int = 16
    picture_heads: int = 6  # of 32 channels each
    picture_double: int = 1
    picture_single: int = 6
    text_width: int = 128
    text_layers: int = 2
    max_tokens: int = 24
    cutout_widths: tuple[int, ...] = (12, 24, 48, 64)

    structure_batch: int = 64
    latents_batch: int = 12
    flows_batch: int = 96
    voxels_batch: int = 24  # of these, the objects whose latents are learnt from
    picture_latents_batch: int = 48
    picture_batch: int = 192
    cutout_batch: int = 32


REAL = Sizes()
TINY = Sizes(
    points=1500,
    views=1,
    picture=64,
    seen=32,
    resolution=16,
    latent=4,
    slots=8,
    width=32,
    heads=2,
    encoder_blocks=1,
    structure_blocks=1,
    latent_blocks=1,
    io_channels=8,
    decoder_blocks=1,
    structure_channels=(16, 8, 8),
    picture_widths=(8, 8, 8, 8),
    picture_heads=1,
    picture_double=1,
    picture_single=1,
    text_width=32,
    text_layers=1,
    cutout_widths=(4, 4, 8, 8),
    structure_batch=4,
    latents_batch=2,
    flows_batch=4,
    voxels_batch=2,
    picture_latents_batch=4,
    picture_batch=4,
    cutout_batch=4,
)

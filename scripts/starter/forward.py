"""TRELLIS's models, differentiable and in batches: the same parameters as app/trellis computes with.

app/trellis writes in place, runs kernels without gradients and takes one object at a time. tests/test_starter.py
compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from app.trellis.attention import CrossAttention, SelfAttention
from app.trellis.dino import MEAN, STD, Dino
from app.trellis.flow import Transformer
from app.trellis.gaussians import GaussianDecoder, WindowBlock
from app.trellis.latent import LatentFlow
from app.trellis.layers import EPS, FINAL_EPS, ModulatedBlock, position_embedding
from app.trellis.sparse import SparseResBlock, SubmanifoldConv
from app.trellis.structure import StructureDecoder, StructureFlow, patchify, unpatchify

# ---- transformers ----------------------------------------------------------------------------------------------------


def normed(x: Tensor, eps: float = EPS, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """In x's own type, also where autocast would take float32: half the traffic."""
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = (value if value is None else value.to(x.dtype) for value in (weight, bias))
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def torso(x: Tensor) -> Tensor:
    """In autocast's type, where it is on."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(n, T, H, d), (n, L, H, d) -> (n, T, H d). mask: (n, L), True where a key counts."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    seen = F.scaled_dot_product_attention(
        q, k.to(q.dtype), v.to(q.dtype), None if mask is None else mask[:, None, None]
    )
    return seen.transpose(1, 2).flatten(2)


def rms(x: Tensor, gamma: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, x.shape[-1:], eps=1e-12) * gamma.to(x.dtype)


def self_attention(layer: SelfAttention, h: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = layer.to_qkv(h).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
    if layer.q_rms_norm and layer.k_rms_norm:
        q, k = rms(q, layer.q_rms_norm.gamma), rms(k, layer.k_rms_norm.gamma)
    return layer.to_out(attend(q, k, v.to(q.dtype), mask))


def cross_attention(layer: CrossAttention, h: Tensor, context: Tensor) -> Tensor:
    q = layer.to_q(h).unflatten(-1, (layer.heads, -1))
    k, v = layer.to_kv(context).unflatten(-1, (2, layer.heads, -1)).unbind(-3)
    if layer.q_rms_norm and layer.k_rms_norm:
        q, k = rms(q, layer.q_rms_norm.gamma), rms(k, layer.k_rms_norm.gamma)
    return layer.to_out(attend(q, k, v))


def modulated(block: ModulatedBlock, x: Tensor, rows: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """x: (B, T, C), rows: (B, 6 C), context: (B, L, cond), mask: (B, T)."""
    shift1, scale1, gate1, shift2, scale2, gate2 = rows[:, None].chunk(6, dim=-1)
    x = x + gate1 * self_attention(block.self_attn, normed(x) * (1 + scale1) + shift1, mask)
    x = x + cross_attention(block.cross_attn, normed(x, EPS, block.norm2.weight, block.norm2.bias), context)
    return x + gate2 * block.mlp.mlp(normed(x) * (1 + scale2) + shift2)


def transform(flow: Transformer, x: Tensor, vectors: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
    """vectors: (B, C) of the time."""
    shared = flow.adaLN_modulation(vectors) if flow.adaLN_modulation else None
    for block in flow.blocks:
        rows = block.adaLN_modulation(vectors) if block.adaLN_modulation else shared
        assert rows is not None
        x = modulated(block, x, rows, context, mask)
    return x


def encode(encoder: Dino, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] -> (B, L, C)."""
    mean, std = (images.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    patches = encoder.patch_embed.proj((images - mean) / std).flatten(2).transpose(1, 2)
    b = len(images)
    x = torch.cat([encoder.cls_token.expand(b, -1, -1), patches], dim=1) + encoder.pos_embed
    x = torch.cat([x[:, :1], encoder.register_tokens.expand(b, -1, -1), x[:, 1:]], dim=1)
    x = torso(x)
    for block in encoder.blocks:
        h = normed(x, EPS, block.norm1.weight, block.norm1.bias)
        q, k, v = block.attn.qkv(h).unflatten(-1, (3, block.attn.heads, -1)).unbind(2)
        x = x + block.ls1.gamma.to(x.dtype) * block.attn.proj(attend(q, k, v))
        x = x + block.ls2.gamma.to(x.dtype) * block.mlp(normed(x, EPS, block.norm2.weight, block.norm2.bias))
    return normed(x.float(), FINAL_EPS)


# ---- structure -------------------------------------------------------------------------------------------------------


def structure_velocity(flow: StructureFlow, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """x: (B, in, R, R, R), t: (B,) in [0, 1], context: (B, L, cond)."""
    h = flow.input_layer(patchify(x, flow.params.patch_size)) + flow.pos_emb
    h = transform(flow, torso(h), flow.t_embedder(1000 * t), context)
    return unpatchify(flow.out_layer(normed(h.float(), FINAL_EPS)), flow.params.patch_size, flow.params.resolution)


def decode_structure(decoder: StructureDecoder, z: Tensor) -> Tensor:
    x = decoder.middle_block(decoder.input_layer(z))
    for block in decoder.blocks:
        x = block(x)
    return decoder.out_layer(x)


# ---- gathering -------------------------------------------------------------------------------------------------------


class Gather(torch.autograd.Function):
    """x (N, C) at index (M, ...), zeros where it says N. Its gradient is a gathering too.

    back: (N, J) the places in the flattened index where each row of x went, their number where there are fewer.
    torch's own gradient of indexing adds the rows up one by one, and those of "none" are millions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.axes = index.ndim
        return F.pad(x, (0, 0, 0, 1))[index]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        rows = F.pad(gradients[0].flatten(0, ctx.axes - 1), (0, 0, 0, 1))
        return (rows[back].sum(1) if back.shape[1] > 1 else rows[back[:, 0]]), None, None


def gather(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    found: Tensor = Gather.apply(x, index, back)
    return found


# ---- voxels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """Of the voxels of B objects side by side; compare app.trellis.sparse.Levels. Cells: (T, 4), sorted.

    Each table comes with the one that leads back, see Gather. owners, cell_owners: (N, B), (T, B), 1 for the object of
    each. slots: (T,) place of each cell in the padded (B, most) tokens, flattened. mask: (B, most).
    """

    owners: Tensor
    neighbours: tuple[Tensor, Tensor]
    cells: Tensor
    cell_owners: Tensor
    cell_neighbours: tuple[Tensor, Tensor]
    parents: tuple[Tensor, Tensor]
    children: tuple[Tensor, Tensor]
    slots: tuple[Tensor, Tensor]
    mask: Tensor


def tables(coords: Tensor, objects: int, resolution: int) -> Tables:
    """coords: (N, 4) rows (b, x, y, z), sorted."""
    n, half = len(coords), resolution // 2
    halves = torch.cat([coords[:, :1], coords[:, 1:] // 2], dim=1)
    keys, parents = torch.unique(_keys(halves, half), return_inverse=True)
    inside = keys % half**3
    cells = torch.stack([keys // half**3, inside // half**2, inside // half % half, inside % half], dim=1)
    children = torch.full((len(cells), 8), n, device=coords.device)
    corner = (coords[:, 1] % 2 * 2 + coords[:, 2] % 2) * 2 + coords[:, 3] % 2
    children[parents, corner] = torch.arange(n, device=coords.device)
    counts = torch.bincount(cells[:, 0], minlength=objects)
    place = torch.arange(len(cells), device=coords.device) - (counts.cumsum(0) - counts)[cells[:, 0]]
    most = _even(int(counts.max()))
    mask = torch.arange(most, device=coords.device) < counts[:, None]
    slots = cells[:, 0] * most + place
    tokens = torch.full((mask.numel(),), len(cells), device=coords.device)
    tokens[slots] = torch.arange(len(cells), device=coords.device)
    return Tables(
        F.one_hot(coords[:, 0], objects).float(),
        _neighbours(coords, objects, resolution),
        cells,
        F.one_hot(cells[:, 0], objects).float(),
        _neighbours(cells, objects, half),
        (parents, children),
        (children, (parents * 8 + corner)[:, None]),
        (slots, tokens),
        mask,
    )


def _even(length: int) -> int:
    """Masks of such a length are taken by the fast kernels."""
    return -(-length // 16) * 16


def _keys(coords: Tensor, side: int) -> Tensor:
    return ((coords[:, 0] * side + coords[:, 1]) * side + coords[:, 2]) * side + coords[:, 3]


def _neighbours(coords: Tensor, objects: int, resolution: int) -> tuple[Tensor, Tensor]:
    """(N, 27), N itself where there is none; and back: a voxel is the opposite neighbour of its neighbour."""
    side = resolution + 2
    volume = torch.full((objects * side**3,), len(coords), device=coords.device)
    keys = _keys(coords + coords.new_tensor([0, 1, 1, 1]), side)
    volume[keys] = torch.arange(len(coords), device=coords.device)
    axis = torch.arange(-1, 2, device=coords.device)
    i, j, k = torch.cartesian_prod(axis, axis, axis).unbind(1)
    table = volume[keys[:, None] + (i * side + j) * side + k]
    opposite = table.flip(1)
    places = opposite * 27 + torch.arange(27, device=coords.device)
    return table, torch.where(opposite < len(coords), places, 27 * len(coords))


def convolve(layer: SubmanifoldConv, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """(N, in) -> (N, out)."""
    weight, bias = layer.conv.weight, layer.conv.bias
    return F.linear(gather(torso(x), *table).flatten(1), weight.reshape(len(weight), -1), bias)


def convolve_upwards(layer: SubmanifoldConv, x: Tensor, at: Tables) -> Tensor:
    """(T, in) on the cells -> (N, out): `convolve` of what each voxel has of its cell; multiplied on the cells."""
    weight, bias = layer.conv.weight, layer.conv.bias
    out, channels = weight.shape[0], weight.shape[-1]
    each = F.linear(x, weight.view(out, 27, channels).transpose(0, 1).reshape(27 * out, channels))
    fine = gather(each, *at.parents).view(-1, out)
    table, back = at.neighbours
    rows = torch.where(table < len(table), table * 27 + torch.arange(27, device=x.device), 27 * len(table))
    return gather(fine, rows, back.view(-1, 1)).sum(1) + bias


def residual(block: SparseResBlock, x: Tensor, vectors: Tensor, at: Tables) -> Tensor:
    """x: (N, in) at the voxels, (T, in) at the cells for "up"; vectors: (B, C)."""
    table, owners = at.neighbours, at.owners
    if block.resample == "down":
        divisor = (at.children[0] < len(x)).sum(1, keepdim=True) + 1
        x = gather(x, *at.children).sum(1) / divisor
        table, owners = at.cell_neighbours, at.cell_owners
    scale, shift = (torso(owners) @ torso(block.emb_layers(vectors))).chunk(2, dim=-1)
    h = F.silu(normed(torso(x), EPS, block.norm1.weight, block.norm1.bias))
    h = convolve_upwards(block.conv1, h, at) if block.resample == "up" else convolve(block.conv1, h, table)
    h = convolve(block.conv2, F.silu(normed(h) * (1 + scale) + shift), table)
    skip = block.skip_connection(x)
    return h + (gather(skip, *at.parents) if block.resample == "up" else skip)


def latent_velocity(flow: LatentFlow, x: Tensor, t: Tensor, context: Tensor, at: Tables) -> Tensor:
    """x: (N, in) on the voxels of B objects, t: (B,) in [0, 1], context: (B, L, cond)."""
    vectors = flow.t_embedder(1000 * t)
    h, skips = flow.input_layer(x), []
    for block in flow.input_blocks:
        h = residual(block, h, vectors, at)
        skips.append(h)
    h = h + position_embedding(at.cells[:, 1:], flow.params.model_channels)
    slots, tokens = at.slots
    x = gather(torso(h), tokens, slots[:, None]).unflatten(0, at.mask.shape)
    h = gather(transform(flow, x, vectors, context, at.mask).flatten(0, 1), slots, tokens[:, None])
    for block in flow.out_blocks:
        h = residual(block, torch.cat([h, skips.pop()], dim=-1), vectors, at)
    return flow.out_layer(normed(h.float(), FINAL_EPS))


@dataclass(frozen=True)
class Partition:
    """Voxels grouped by window: rows (W, most), N where there is no voxel; places (N,), where each voxel went."""

    rows: Tensor
    places: Tensor
    mask: Tensor

    @classmethod
    def of(cls, coords: Tensor, width: int, shift: int, resolution: int) -> Partition:
        side = resolution // width + 2
        keys = _keys(torch.cat([coords[:, :1], (coords[:, 1:] + shift) // width], dim=1), side)
        order = torch.argsort(keys, stable=True)
        counts = torch.unique_consecutive(keys[order], return_counts=True)[1]
        mask = torch.arange(_even(int(counts.max())), device=coords.device) < counts[:, None]
        rows = torch.full(mask.shape, len(coords), device=coords.device)
        rows[mask] = order
        places = torch.empty_like(order)
        places[order] = mask.flatten().nonzero()[:, 0]
        return cls(rows, places, mask)


def windowed(block: WindowBlock, x: Tensor, windows: Partition) -> Tensor:
    rows, places = windows.rows, windows.places
    qkv = gather(block.attn.to_qkv(normed(x)), rows, places[:, None])
    seen = attend(*qkv.unflatten(-1, (3, block.attn.heads, -1)).unbind(2), windows.mask).flatten(0, 1)
    x = x + block.attn.to_out(gather(seen, places, rows.view(-1, 1)))
    return x + block.mlp.mlp(normed(x))


def partitions(coords: Tensor, width: int, resolution: int) -> list[Partition]:
    return [Partition.of(coords, width, shift, resolution) for shift in (0, width // 2)]


def decode_latents(decoder: GaussianDecoder, coords: Tensor, latents: Tensor, windows: list[Partition]) -> Tensor:
    """coords: (N, 4), latents: (N, latent) -> (N, 14 G)."""
    x = decoder.input_layer(latents) + position_embedding(coords[:, 1:], decoder.params.model_channels)
    for number, block in enumerate(decoder.blocks):
        x = windowed(block, x, windows[number % 2])
    with torch.autocast(x.device.type, enabled=False):  # places need more than eight bits
        return decoder.out_layer(normed(x.float(), FINAL_EPS))

"""Makes the small goldens beside this file: TRELLIS in NumPy, float64, as slow and plain as the specification reads.

    python tests/goldens/make.py        writes *.npz, the same bytes of arrays each time

Shares no code with app/trellis: dense volumes and dictionaries where that has tables, loops where that has batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Weights = dict[str, Array]
FORM = {"lr": {"_xyz": 1.0, "_features_dc": 0.9, "_opacity": 1.1, "_scaling": 1.0, "_rotation": 0.1},
        "perturb_offset": True, "voxel_size": 1.5, "num_gaussians": 2, "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1,
        "scaling_activation": "softplus"}  # fmt: skip
FLOW = {"in_channels": 4, "out_channels": 4, "model_channels": 12, "cond_channels": 10, "num_blocks": 1,
        "num_heads": 2, "mlp_ratio": 2, "pe_mode": "ape", "qk_rms_norm": True}  # fmt: skip


# --- layers -----------------------------------------------------------------------------------------------------------


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Array, eps: float, w: Weights | None = None, name: str = "") -> Array:
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return y if w is None else y * w[f"{name}.weight"] + w[f"{name}.bias"]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(q: Array, k: Array, v: Array) -> Array:
    """(T, H, d), (L, H, d) twice -> (T, H d)."""
    heads = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].T / np.sqrt(q.shape[2])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
    return np.concatenate(heads, 1)


def rms(w: Weights, name: str, x: Array) -> Array:
    gamma = w.get(f"{name}.gamma")
    if gamma is None:
        return x
    return x / np.maximum(np.sqrt((x**2).sum(-1, keepdims=True)), 1e-12) * gamma * np.sqrt(x.shape[-1])


def self_attention(w: Weights, name: str, x: Array, heads: int, groups: list[Array] | None = None) -> Array:
    """groups: rows that attend to one another; all to all if not given."""
    q, k, v = np.moveaxis(linear(w, f"{name}.to_qkv", x).reshape(len(x), 3, heads, -1), 1, 0)
    q, k = rms(w, f"{name}.q_rms_norm", q), rms(w, f"{name}.k_rms_norm", k)
    out = np.zeros_like(x)
    for rows in groups or [np.arange(len(x))]:
        out[rows] = attention(q[rows], k[rows], v[rows])
    return linear(w, f"{name}.to_out", out)


def cross_attention(w: Weights, name: str, x: Array, context: Array, heads: int) -> Array:
    q = rms(w, f"{name}.q_rms_norm", linear(w, f"{name}.to_q", x).reshape(len(x), heads, -1))
    k, v = np.moveaxis(linear(w, f"{name}.to_kv", context).reshape(len(context), 2, heads, -1), 1, 0)
    return linear(w, f"{name}.to_out", attention(q, rms(w, f"{name}.k_rms_norm", k), v))


def mlp(w: Weights, name: str, x: Array) -> Array:
    return linear(w, f"{name}.mlp.2", gelu(linear(w, f"{name}.mlp.0", x)))


def time_vector(w: Weights, t: float, name: str = "t_embedder.") -> Array:
    angles = t * np.exp(-np.log(10_000) * np.arange(128) / 128)
    return linear(w, f"{name}mlp.2", silu(linear(w, f"{name}mlp.0", np.concatenate([np.cos(angles), np.sin(angles)]))))


def place(coords: Array, channels: int) -> Array:
    n = channels // 3 // 2
    out = np.zeros((len(coords), channels))
    for row, point in enumerate(coords):
        parts = [f(float(p) / 10_000 ** (np.arange(n) / n)) for p in point for f in (np.sin, np.cos)]
        out[row, : 6 * n] = np.concatenate(parts)
    return out


def block(w: Weights, name: str, x: Array, m: Array, context: Array, heads: int) -> Array:
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(w, f"{name}.adaLN_modulation.1", silu(m)), 6)
    x = x + gate1 * self_attention(w, f"{name}.self_attn", norm(x, 1e-6) * (1 + scale1) + shift1, heads)
    x = x + cross_attention(w, f"{name}.cross_attn", norm(x, 1e-6, w, f"{name}.norm2"), context, heads)
    return x + gate2 * mlp(w, f"{name}.mlp", norm(x, 1e-6) * (1 + scale2) + shift2)


# --- models -----------------------------------------------------------------------------------------------------------


def structure_flow(w: Weights, a: dict[str, Any], x: Array, t: float, context: Array) -> Array:
    r, p = a["resolution"], a["patch_size"]
    cells = [(i, j, k) for i in range(r // p) for j in range(r // p) for k in range(r // p)]
    patches = [x[:, i * p : i * p + p, j * p : j * p + p, k * p : k * p + p].reshape(-1) for i, j, k in cells]
    h = linear(w, "input_layer", np.stack(patches)) + w["pos_emb"]
    m = time_vector(w, t)
    for number in range(a["num_blocks"]):
        h = block(w, f"blocks.{number}", h, m, context, a["num_heads"])
    h = linear(w, "out_layer", norm(h, 1e-5))
    v = np.zeros((a["out_channels"], r, r, r))
    for (i, j, k), patch in zip(cells, h, strict=True):
        v[:, i * p : i * p + p, j * p : j * p + p, k * p : k * p + p] = patch.reshape(-1, p, p, p)
    return v


def conv3d(w: Weights, name: str, x: Array) -> Array:
    weight, (c, *shape) = w[f"{name}.weight"], x.shape
    padded = np.zeros((c, *(s + 2 for s in shape)))
    padded[:, 1:-1, 1:-1, 1:-1] = x
    out = np.zeros((len(weight), *shape)) + w[f"{name}.bias"][:, None, None, None]
    for i in range(3):
        for j in range(3):
            for k in range(3):
                part = padded[:, i : i + shape[0], j : j + shape[1], k : k + shape[2]]
                out += np.tensordot(weight[:, :, i, j, k], part, 1)
    return out


def channel_norm(w: Weights, name: str, x: Array) -> Array:
    return np.moveaxis(norm(np.moveaxis(x, 0, -1), 1e-5, w, name), -1, 0)


def res_block(w: Weights, name: str, x: Array) -> Array:
    h = conv3d(w, f"{name}.conv1", silu(channel_norm(w, f"{name}.norm1", x)))
    return conv3d(w, f"{name}.conv2", silu(channel_norm(w, f"{name}.norm2", h))) + x


def structure_decoder(w: Weights, a: dict[str, Any], z: Array) -> Array:
    h = conv3d(w, "input_layer", z)
    for number in range(a["num_res_blocks_middle"]):
        h = res_block(w, f"middle_block.{number}", h)
    number = 0
    for level in range(len(a["channels"])):
        for _ in range(a["num_res_blocks"]):
            h, number = res_block(w, f"blocks.{number}", h), number + 1
        if level + 1 < len(a["channels"]):
            many, number = conv3d(w, f"blocks.{number}.conv", h), number + 1
            h = np.zeros((len(many) // 8, *(2 * s for s in h.shape[1:])))
            for channel, volume in enumerate(many):
                c, i, j, k = channel // 8, channel // 4 % 2, channel // 2 % 2, channel % 2
                h[c, i::2, j::2, k::2] = volume
    return conv3d(w, "out_layer.2", silu(channel_norm(w, "out_layer.0", h)))


def sparse_conv(w: Weights, name: str, coords: Array, x: Array) -> Array:
    at = {tuple(p): row for row, p in enumerate(coords.tolist())}
    out = np.zeros((len(x), len(w[f"{name}.conv.bias"]))) + w[f"{name}.conv.bias"]
    for (px, py, pz), row in at.items():
        for i in range(3):
            for j in range(3):
                for k in range(3):
                    if (there := at.get((px + i - 1, py + j - 1, pz + k - 1))) is not None:
                        out[row] += w[f"{name}.conv.weight"][:, i, j, k] @ x[there]
    return out


def halve(coords: Array) -> tuple[Array, Array]:
    """Coarse coordinates in order, and the row there of each fine one."""
    cells = sorted({tuple(p) for p in (coords // 2).tolist()})
    return np.array(cells), np.array([cells.index(tuple(p)) for p in (coords // 2).tolist()])


def sparse_block(w: Weights, name: str, x: Array, m: Array, coords: Array, resample: str) -> Array:
    scale, shift = np.split(linear(w, f"{name}.emb_layers.1", silu(m)), 2)
    if resample:
        coarse, parents = halve(coords)
    if resample == "down":
        means = [x[parents == cell].sum(0) / ((parents == cell).sum() + 1) for cell in range(len(coarse))]
        x, coords = np.stack(means), coarse
    if resample == "up":
        x = x[parents]
    h = sparse_conv(w, f"{name}.conv1", coords, silu(norm(x, 1e-6, w, f"{name}.norm1")))
    h = sparse_conv(w, f"{name}.conv2", coords, silu(norm(h, 1e-6) * (1 + scale) + shift))
    return h + (linear(w, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x)


def latent_flow(w: Weights, a: dict[str, Any], coords: Array, x: Array, t: float, context: Array) -> Array:
    m, n = time_vector(w, t), a["num_io_res_blocks"]
    h, skips = linear(w, "input_layer", x), []
    for number in range(n):
        h = sparse_block(w, f"input_blocks.{number}", h, m, coords, "down" if number == n - 1 else "")
        skips.append(h)
    h = h + place(halve(coords)[0], a["model_channels"])
    for number in range(a["num_blocks"]):
        h = block(w, f"blocks.{number}", h, m, context, a["num_heads"])
    for number in range(n):
        h = np.concatenate([h, skips.pop()], 1)
        h = sparse_block(w, f"out_blocks.{number}", h, m, coords, "up" if number == 0 else "")
    return linear(w, "out_layer", norm(h, 1e-5))


def gaussian_decoder(w: Weights, a: dict[str, Any], coords: Array, x: Array) -> Array:
    h = linear(w, "input_layer", x) + place(coords, a["model_channels"])
    for number in range(a["num_blocks"]):
        shifted = (coords + number % 2 * (a["window_size"] // 2)) // a["window_size"]
        groups = [np.flatnonzero((shifted == cell).all(1)) for cell in np.unique(shifted, axis=0)]
        h = h + self_attention(w, f"blocks.{number}.attn", norm(h, 1e-6), a["num_heads"], groups)
        h = h + mlp(w, f"blocks.{number}.mlp", norm(h, 1e-6))
    return linear(w, "out_layer", norm(h, 1e-5))


def gaussians(w: Weights, a: dict[str, Any], coords: Array, raw: Array) -> dict[str, Array]:
    form, g = a["representation_config"], a["representation_config"]["num_gaussians"]
    names, widths = ["_xyz", "_features_dc", "_scaling", "_rotation", "_opacity"], [3, 3, 3, 4, 1]
    parts = np.split(raw, np.cumsum(np.array(widths) * g)[:-1], 1)
    out = {name: (part * form["lr"][name]).reshape(-1, c) for name, part, c in zip(names, parts, widths, strict=True)}
    offset = np.tanh(out["_xyz"].reshape(-1, g, 3) + w["offset_perturbation"]) * 0.5 * form["voxel_size"]
    out["_xyz"] = ((coords[:, None] + 0.5 + offset) / a["resolution"]).reshape(-1, 3)
    out["_features_dc"] = out["_features_dc"][:, None]
    bias = form["scaling_bias"]
    active = np.log1p(np.exp(out["_scaling"] + bias + np.log(1 - np.exp(-bias))))
    turned = out["_rotation"] + [1, 0, 0, 0]
    out["get_xyz"] = out["_xyz"] - 0.5
    out["get_scaling"] = np.sqrt(active**2 + form["3d_filter_kernel_size"] ** 2)
    out["get_rotation"] = turned / np.sqrt((turned**2).sum(1, keepdims=True))
    logit = out["_opacity"] + np.log(form["opacity_bias"] / (1 - form["opacity_bias"]))
    out["get_opacity"] = 1 / (1 + np.exp(-logit))
    return out


def dino(w: Weights, a: dict[str, Any], image: Array) -> Array:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x, p, heads = (image - mean[:, None, None]) / std[:, None, None], a["patch_size"], a["num_heads"]
    grid = [(i, j) for i in range(0, x.shape[1], p) for j in range(0, x.shape[2], p)]
    kernel = w["patch_embed.proj.weight"].reshape(a["embed_dim"], -1)
    patches = [kernel @ x[:, i : i + p, j : j + p].reshape(-1) + w["patch_embed.proj.bias"] for i, j in grid]
    tokens = np.concatenate([w["cls_token"][0], patches]) + w["pos_embed"][0]
    h = np.concatenate([tokens[:1], w["register_tokens"][0], tokens[1:]])
    erf = np.vectorize(math.erf)
    for number in range(a["depth"]):
        name = f"blocks.{number}"
        q, k, v = np.moveaxis(
            linear(w, f"{name}.attn.qkv", norm(h, 1e-6, w, f"{name}.norm1")).reshape(len(h), 3, heads, -1), 1, 0
        )
        h = h + w[f"{name}.ls1.gamma"] * linear(w, f"{name}.attn.proj", attention(q, k, v))
        wide = linear(w, f"{name}.mlp.fc1", norm(h, 1e-6, w, f"{name}.norm2"))
        h = h + w[f"{name}.ls2.gamma"] * linear(w, f"{name}.mlp.fc2", 0.5 * wide * (1 + erf(wide / np.sqrt(2))))
    return h


def euler(velocity: Callable[[Array, float, int], Array], x: Array, params: dict[str, Any]) -> list[Array]:
    """States after each step; velocity(state, 1000 t, condition), condition 1 being the negative one."""
    u, r, s = np.linspace(1, 0, params["steps"] + 1), params["rescale_t"], params["cfg_strength"]
    t, (low, high), states = r * u / (1 + (r - 1) * u), params["cfg_interval"], []
    for time, until in pairwise(t):
        asked = float(np.float32(1000 * time))
        v = velocity(x, asked, 0)
        if low <= time <= high:
            v = (1 + s) * v - s * velocity(x, asked, 1)
        states.append(x := x - (time - until) * v)
    return states


# --- files ------------------------------------------------------------------------------------------------------------


class Maker:
    """Random weights, the shapes as the models have them, float16 values so that the files stay small."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def draw(self, *shape: int, scale: float = 1.0) -> Array:
        return (self.rng.standard_normal(shape) * scale).astype(np.float16)

    def linear(self, name: str, channels: int, out: int, *kernel: int) -> Weights:
        fan_in = channels * int(np.prod(kernel))
        return {
            f"{name}.weight": self.draw(out, channels, *kernel, scale=fan_in**-0.5),
            f"{name}.bias": self.draw(out, scale=0.3),
        }

    def norm(self, name: str, channels: int) -> Weights:
        return {f"{name}.weight": 1 + self.draw(channels, scale=0.2), f"{name}.bias": self.draw(channels, scale=0.2)}

    def gammas(self, name: str, a: dict[str, Any]) -> Weights:
        shape = a["num_heads"], a["model_channels"] // a["num_heads"]
        return {f"{name}.{part}_rms_norm.gamma": 1 + self.draw(*shape, scale=0.2) for part in "qk"}

    def feed_forward(self, name: str, a: dict[str, Any]) -> Weights:
        c, wide = a["model_channels"], int(a["model_channels"] * a["mlp_ratio"])
        return self.linear(f"{name}.mlp.0", c, wide) | self.linear(f"{name}.mlp.2", wide, c)

    def transformer(self, a: dict[str, Any]) -> Weights:
        c, cross = a["model_channels"], a.get("qk_rms_norm_cross", False)
        w = self.linear("t_embedder.mlp.0", 256, c) | self.linear("t_embedder.mlp.2", c, c)
        for number in range(a["num_blocks"]):
            name = f"blocks.{number}"
            w |= (
                self.norm(f"{name}.norm2", c)
                | self.gammas(f"{name}.self_attn", a)
                | self.feed_forward(f"{name}.mlp", a)
            )
            w |= self.linear(f"{name}.self_attn.to_qkv", c, 3 * c) | self.linear(f"{name}.self_attn.to_out", c, c)
            w |= self.linear(f"{name}.cross_attn.to_q", c, c) | self.linear(f"{name}.cross_attn.to_out", c, c)
            w |= self.linear(f"{name}.cross_attn.to_kv", a["cond_channels"], 2 * c)
            w |= self.gammas(f"{name}.cross_attn", a) if cross else {}
            w |= self.linear(f"{name}.adaLN_modulation.1", c, 6 * c)
        return w

    def structure_flow(self, a: dict[str, Any]) -> Weights:
        p, c = a["patch_size"] ** 3, a["model_channels"]
        side = np.arange(a["resolution"] // a["patch_size"])
        grid = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
        ends = self.linear("input_layer", a["in_channels"] * p, c) | self.linear("out_layer", c, a["out_channels"] * p)
        return self.transformer(a) | ends | {"pos_emb": place(grid, c).astype(np.float16)}

    def structure_decoder(self, a: dict[str, Any]) -> Weights:
        widths, w, number = (
            a["channels"],
            self.linear("input_layer", a["latent_channels"], a["channels"][0], 3, 3, 3),
            0,
        )

        def res(name: str, c: int) -> Weights:
            convs = self.linear(f"{name}.conv1", c, c, 3, 3, 3) | self.linear(f"{name}.conv2", c, c, 3, 3, 3)
            return convs | self.norm(f"{name}.norm1", c) | self.norm(f"{name}.norm2", c)

        for middle in range(a["num_res_blocks_middle"]):
            w |= res(f"middle_block.{middle}", widths[0])
        for level, c in enumerate(widths):
            for _ in range(a["num_res_blocks"]):
                w, number = w | res(f"blocks.{number}", c), number + 1
            for narrower in widths[level + 1 : level + 2]:
                w, number = w | self.linear(f"blocks.{number}.conv", c, narrower * 8, 3, 3, 3), number + 1
        return w | self.norm("out_layer.0", widths[-1]) | self.linear("out_layer.2", widths[-1], 1, 3, 3, 3)

    def sparse_block(self, name: str, channels: int, out: int, wide: int) -> Weights:
        w = self.norm(f"{name}.norm1", channels) | self.linear(f"{name}.emb_layers.1", wide, 2 * out)
        for conv, c in (("conv1", channels), ("conv2", out)):
            made = self.linear(f"{name}.{conv}.conv", c, out, 3, 3, 3)
            w |= {key: np.moveaxis(v, 1, -1).copy() if v.ndim == 5 else v for key, v in made.items()}
        return w | (self.linear(f"{name}.skip_connection", channels, out) if channels != out else {})

    def latent_flow(self, a: dict[str, Any]) -> Weights:
        c, narrow = a["model_channels"], a["io_block_channels"][0]
        w = self.transformer(a) | self.linear("input_layer", a["in_channels"], narrow)
        w |= self.sparse_block("input_blocks.0", narrow, narrow, c) | self.sparse_block("input_blocks.1", narrow, c, c)
        w |= self.sparse_block("out_blocks.0", 2 * c, narrow, c) | self.sparse_block(
            "out_blocks.1", 2 * narrow, narrow, c
        )
        return w | self.linear("out_layer", narrow, a["out_channels"])

    def gaussian_decoder(self, a: dict[str, Any]) -> Weights:
        c, g = a["model_channels"], a["representation_config"]["num_gaussians"]
        w = self.linear("input_layer", a["latent_channels"], c) | self.linear("out_layer", c, 14 * g)
        for number in range(a["num_blocks"]):
            name = f"blocks.{number}"
            w |= self.linear(f"{name}.attn.to_qkv", c, 3 * c) | self.linear(f"{name}.attn.to_out", c, c)
            w |= self.feed_forward(f"{name}.mlp", a)
        return w | {"offset_perturbation": self.draw(g, 3, scale=0.5)}

    def dino(self, a: dict[str, Any]) -> Weights:
        c, patches = a["embed_dim"], (a["img_size"] // a["patch_size"]) ** 2
        w = {"cls_token": self.draw(1, 1, c), "pos_embed": self.draw(1, patches + 1, c), "mask_token": self.draw(1, c)}
        w |= {"register_tokens": self.draw(1, a["num_register_tokens"], c)} | self.norm("norm", c)
        w |= self.linear("patch_embed.proj", 3, c, a["patch_size"], a["patch_size"])
        for number in range(a["depth"]):
            name = f"blocks.{number}"
            w |= (
                self.norm(f"{name}.norm1", c)
                | self.norm(f"{name}.norm2", c)
                | self.linear(f"{name}.attn.qkv", c, 3 * c)
            )
            w |= self.linear(f"{name}.attn.proj", c, c) | self.linear(f"{name}.mlp.fc1", c, 2 * c)
            w |= self.linear(f"{name}.mlp.fc2", 2 * c, c)
            w |= {f"{name}.ls{i}.gamma": self.draw(c) for i in (1, 2)}
        return w

    def voxels(self, side: int, keep: float) -> Array:
        """A thin shell of voxels, lexicographic."""
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
        distance = np.sqrt(((grid - (side - 1) / 2) ** 2).sum(1))
        return grid[(abs(distance - side * 0.4) < 0.6) & (self.rng.random(len(grid)) < keep)]


def wide(w: Weights) -> Weights:
    return {key: value.astype(np.float64) for key, value in w.items()}


def save(name: str, config: dict[str, Any], weights: Weights, inputs: Weights, outputs: Weights) -> None:
    arrays = {f"sd/{key}": value for key, value in weights.items()}
    arrays |= {f"in/{key}": value for key, value in inputs.items()}
    kept = {key: v.astype(np.float32) if v.dtype == np.float64 and key != "calls" else v for key, v in outputs.items()}
    arrays |= {f"out/{key}": value for key, value in kept.items()}
    np.savez_compressed(Path(__file__).parent / name, config=json.dumps(config), **arrays)


def batched(parts: list[Array]) -> Array:
    """(x, y, z) rows of each batch element -> (b, x, y, z) rows."""
    rows = [np.concatenate([np.full((len(part), 1), b), part], 1) for b, part in enumerate(parts)]
    return np.concatenate(rows).astype(np.int32)


def make_structure_flows() -> None:
    for name, seed, extra in (
        ("ss_flow", 1, {"resolution": 4, "patch_size": 1}),
        ("ss_flow_p2", 2, {"resolution": 4, "patch_size": 2, "qk_rms_norm_cross": True, "num_blocks": 2}),
    ):
        a, make = FLOW | extra, Maker(seed)
        w, t = make.structure_flow(a), np.array([937.5, 81.25], np.float32)
        x, cond = make.draw(2, 4, 4, 4, 4).astype(np.float32), make.draw(2, 7, 10).astype(np.float32)
        v = np.stack(
            [
                structure_flow(wide(w), a, xb.astype(float), float(tb), c.astype(float))
                for xb, tb, c in zip(x, t, cond, strict=True)
            ]
        )
        save(name, a, w, {"x": x, "t": t, "cond": cond}, {"v": v})


def make_structure_decoder() -> None:
    a = {"out_channels": 1, "latent_channels": 4, "num_res_blocks": 1, "num_res_blocks_middle": 1, "channels": [6, 4]}
    make = Maker(3)
    w, z = make.structure_decoder(a), make.draw(2, 4, 3, 3, 3).astype(np.float32)
    occ = np.stack([structure_decoder(wide(w), a, part.astype(float)) for part in z])
    save("ss_decoder", a, w, {"z": z}, {"occ": occ, "coords": np.argwhere(occ[:, 0] > 0).astype(np.int32)})


def make_latent_flow() -> None:
    a = FLOW | {"resolution": 8, "patch_size": 2, "num_io_res_blocks": 2, "io_block_channels": [4]}
    make = Maker(4)
    w, parts = make.latent_flow(a), [make.voxels(8, 0.3), make.voxels(6, 0.6)]
    coords, t = batched(parts), np.array([1000.0, 412.7], np.float32)
    feats, cond = make.draw(len(coords), 4).astype(np.float32), make.draw(2, 7, 10).astype(np.float32)
    v = [
        latent_flow(wide(w), a, part, feats[coords[:, 0] == b].astype(float), float(t[b]), cond[b].astype(float))
        for b, part in enumerate(parts)
    ]
    save("slat_flow", a, w, {"coords": coords, "feats": feats, "t": t, "cond": cond}, {"v": np.concatenate(v)})


def make_gaussian_decoder() -> None:
    a = {"resolution": 16, "model_channels": 12, "latent_channels": 4, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 2,
         "attn_mode": "swin", "window_size": 4, "representation_config": FORM}  # fmt: skip
    make = Maker(5)
    w, parts = make.gaussian_decoder(a), [make.voxels(9, 0.15), make.voxels(6, 0.3)]
    coords = batched(parts)
    feats = make.draw(len(coords), 4).astype(np.float32)
    raws = [gaussian_decoder(wide(w), a, part, feats[coords[:, 0] == b].astype(float)) for b, part in enumerate(parts)]
    outputs = {"raw": np.concatenate(raws)}
    for b, (part, raw) in enumerate(zip(parts, raws, strict=True)):
        outputs |= {f"b{b}/{name}": value for name, value in gaussians(wide(w), a, part, raw).items()}
    save("gs_decoder", a, w, {"coords": coords, "feats": feats}, outputs)


def make_end_to_end() -> None:
    """The whole pipeline from conditions and noise, two samples, so small that even a slow reference is quick."""
    first = FLOW | {"resolution": 4, "patch_size": 1}
    second = FLOW | {
        "resolution": 8,
        "patch_size": 2,
        "num_io_res_blocks": 2,
        "io_block_channels": [4],
    }
    decoder = {
        "out_channels": 1,
        "latent_channels": 4,
        "num_res_blocks": 1,
        "num_res_blocks_middle": 0,
        "channels": [6, 4],
    }
    gs = {"resolution": 8, "model_channels": 12, "latent_channels": 4, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 2,
          "attn_mode": "swin", "window_size": 4, "representation_config": FORM}  # fmt: skip
    make = Maker(6)
    parts = {
        "sparse_structure_flow_model": ("SparseStructureFlowModel", first, make.structure_flow(first)),
        "sparse_structure_decoder": ("SparseStructureDecoder", decoder, make.structure_decoder(decoder)),
        "slat_flow_model": ("ElasticSLatFlowModel", second, make.latent_flow(second)),
        "slat_decoder_gs": ("ElasticSLatGaussianDecoder", gs, make.gaussian_decoder(gs)),
    }
    parts["sparse_structure_decoder"][2]["out_layer.2.bias"] -= 1.3  # fewer voxels, smaller files
    (_, _, w1), (_, _, w2), (_, _, w3), (_, _, w4) = ((n, a, wide(w)) for n, a, w in parts.values())
    params = {"steps": 3, "cfg_strength": 2.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
    sampler = {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}, "params": params}
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.7, 1.0, 2.0]
    cond = make.draw(1, 5, 10).astype(np.float32)
    branches = [cond[0].astype(float), np.zeros((5, 10))]
    noise = make.draw(2, 4, 4, 4, 4).astype(np.float32)

    paths = [
        euler(lambda x, t, c: structure_flow(w1, first, x, t, branches[c]), start.astype(float), params)
        for start in noise
    ]
    z = np.stack([path[-1] for path in paths])
    occ = np.stack([structure_decoder(w2, decoder, part) for part in z])
    assert abs(occ).min() > 1e-4, (
        "a logit so near to 0 makes the comparison of voxels a matter of rounding: another seed"
    )
    voxels = [np.argwhere(part[0] > 0) for part in occ]
    starts = [make.draw(len(v), 4).astype(np.float32) for v in voxels]
    runs = [
        euler(lambda x, t, c, v=v: latent_flow(w3, second, v, x, t, branches[c]), s.astype(float), params)
        for v, s in zip(voxels, starts, strict=True)
    ]
    slats = [run[-1] * std + np.array(mean) for run in runs]
    outputs = {
        "ss_x_t": np.stack([np.stack(path) for path in paths], 1)[..., ::2, ::2, ::2], "z": z, "occ": occ,
        "coords": batched(voxels), "slat_x_t": np.concatenate([np.stack(run) for run in runs], 1),
        "slat_normalized": np.concatenate([run[-1] for run in runs]), "slat": np.concatenate(slats),
    }  # fmt: skip
    for b, (v, slat) in enumerate(zip(voxels, slats, strict=True)):
        outputs |= {
            f"b{b}/{name}": value for name, value in gaussians(w4, gs, v, gaussian_decoder(w4, gs, v, slat)).items()
        }
    config = {
        "models": {name: {"name": cls, "args": a} for name, (cls, a, _) in parts.items()},
        "sparse_structure_sampler": sampler, "slat_sampler": sampler,
        "slat_normalization": {"mean": mean, "std": std}, "seed": 7, "num_samples": 2,
    }  # fmt: skip
    weights = {f"{name}/{key}": value for name, (_, _, w) in parts.items() for key, value in w.items()}
    inputs = {"cond": cond, "neg_cond": np.zeros_like(cond), "noise_ss": noise, "noise_slat": np.concatenate(starts)}
    save("e2e", config, weights, inputs, outputs)


def make_dino() -> None:
    a = {
        "img_size": 28,
        "patch_size": 7,
        "embed_dim": 12,
        "depth": 1,
        "num_heads": 2,
        "mlp_ratio": 2,
        "num_register_tokens": 4,
    }
    make = Maker(8)
    w, image = make.dino(a), np.random.default_rng(9).random((1, 3, 28, 28)).astype(np.float32)
    tokens = np.stack([dino(wide(w), a, part.astype(float)) for part in image])
    save("dino", a, w, {"image01": image}, {"x_prenorm": tokens, "cond": norm(tokens, 1e-5)})


if __name__ == "__main__":
    for make_one in (
        make_structure_flows,
        make_structure_decoder,
        make_latent_flow,
        make_gaussian_decoder,
        make_end_to_end,
        make_dino,
    ):
        make_one()

"""TRELLIS from pictures to a splat, with a tiny model of random weights: loading, seeds, refusals, the frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app.errors import BadInput, BadWeights, StageFailed
from app.trellis import loading, pipeline
from app.trellis.dino import Dino, DinoParams, hf_keys, load_dino
from app.trellis.gaussians import GaussianDecoder, Gaussians, to_splat
from app.trellis.params import GaussianDecoderParams, Representation, parse_params
from app.trellis.picture import prepare
from app.trellis.samplers import SamplerParams, Sampling
from app.trellis.structure import NoVoxel, occupied

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "trellis"
DINO = DinoParams(img_size=28, patch_size=14, embed_dim=12, depth=1, num_heads=2, mlp_ratio=2)
FORM = {
    "lr": {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1},
    "voxel_size": 1.5, "num_gaussians": 2, "3d_filter_kernel_size": 9e-4, "scaling_bias": 4e-3, "opacity_bias": 0.1,
}  # fmt: skip
FLOW = {"in_channels": 4, "out_channels": 4, "model_channels": 12, "cond_channels": 12, "num_blocks": 1, "num_heads": 2,
        "mlp_ratio": 2, "qk_rms_norm": True, "use_fp16": True}  # fmt: skip
MODELS = {
    "sparse_structure_flow_model": ("SparseStructureFlowModel", FLOW | {"resolution": 4, "patch_size": 1}),
    "sparse_structure_decoder": (
        "SparseStructureDecoder",
        {"out_channels": 1, "latent_channels": 4, "num_res_blocks": 1, "channels": [6, 4], "use_fp16": True},
    ),
    "slat_flow_model": ("ElasticSLatFlowModel", FLOW | {"resolution": 8, "io_block_channels": [6]}),
    "slat_decoder_gs": (
        "ElasticSLatGaussianDecoder",
        {"resolution": 8, "model_channels": 12, "latent_channels": 4, "num_blocks": 2, "num_heads": 2, "window_size": 4,
         "representation_config": FORM, "use_fp16": True},
    ),
}  # fmt: skip
ARGS = {"kernel_3d" if name == "3d_filter_kernel_size" else name: value for name, value in FORM.items()}
SAMPLER = {
    "name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5},
    "params": {"steps": 3, "cfg_strength": 2.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
}  # fmt: skip


def random_state(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator) * (0.5 if value.ndim < 2 else value[0].numel() ** -0.5)
        for key, value in model.state_dict().items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model in the published layout."""
    root = tmp_path_factory.mktemp("owner") / "tiny"
    (root / "ckpts").mkdir(parents=True)
    for seed, (name, (cls, args)) in enumerate(MODELS.items()):
        (root / f"ckpts/{name}.json").write_text(json.dumps({"name": cls, "args": args}))
        state = random_state(loading.build(cls, args), seed)
        if name == "sparse_structure_decoder":  # some voxels, not all
            state["out_layer.2.weight"] *= 3
            state["out_layer.2.bias"].zero_()
        save_file(state, root / f"ckpts/{name}.safetensors")
    normal = {"mean": [0.0, 0.1, 0.2, 0.3], "std": [1.0, 2.0, 1.0, 0.5]}
    args = {
        "models": {name: f"ckpts/{name}" for name in MODELS},
        "sparse_structure_sampler": SAMPLER, "slat_sampler": SAMPLER, "slat_normalization": normal,
        "image_cond_model": "dinov2_vitl14_reg",
    }  # fmt: skip
    (root / "pipeline.json").write_text(json.dumps({"name": "TrellisImageTo3DPipeline", "args": args}))
    with torch.device("meta"):
        encoder = Dino(DINO)
    save_file(random_state(encoder, 9), root / "dino.safetensors")
    return root


def load(folder: Path) -> pipeline.Trellis:
    return pipeline.load(folder, folder / "dino.safetensors", "cpu", encoder_params=DINO)


@pytest.fixture(scope="module")
def trellis(folder) -> pipeline.Trellis:
    return load(folder)


def picture(seed: int = 0, size: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[5:-9, 8:-6, 3] = 255
    return Image.fromarray(pixels)


def arrays(splat) -> list[np.ndarray]:
    return [splat.means, splat.quats, splat.log_scales, splat.opacity_logits, splat.sh]


def test_a_picture_becomes_a_splat(trellis):
    splat = trellis.run(picture(), seed=1)
    assert len(splat) > 0
    assert len(splat) % FORM["num_gaussians"] == 0
    assert all(np.isfinite(array).all() for array in arrays(splat))
    np.testing.assert_allclose((splat.quats**2).sum(1), 1, atol=1e-5)
    assert abs(splat.means).max() < 0.5 + 0.75 / 8


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(trellis):
    first, again, other = (trellis.run(picture(), seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(again), strict=True))
    assert len(first) != len(other) or not np.array_equal(first.means, other.means)


def test_the_global_generator_is_neither_read_nor_moved(trellis):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = trellis.run(picture(), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert np.array_equal(first.means, trellis.run(picture(), seed=3).means)


def test_samples_of_a_batch_share_the_noise_stream(trellis):
    tokens = trellis.encoder.encode(prepare(picture()))
    first, second = trellis.splats(tokens, 3, samples=2)
    assert len(first) != len(second) or not np.array_equal(first.means, second.means)


def test_settings_of_a_run_replace_the_published_ones_for_that_run_only(trellis):
    published = trellis.run(picture(), seed=3)
    values = {"structure_steps": 5, "latent_guidance": 0.0, "latent_interval": (0.0, 1.0), "latent_rescale": 1.0}
    changed = trellis.run(picture(), 3, trellis.published.changed(values, 1))
    assert len(changed) != len(published) or not np.array_equal(changed.means, published.means)
    for same in (trellis.published, trellis.published.changed({}, 1), None):
        again = trellis.run(picture(), 3, same)
        assert all(np.array_equal(a, b) for a, b in zip(arrays(published), arrays(again), strict=True))


def test_pipeline_json_is_what_is_published(trellis):
    params = SamplerParams(3, 2.0, (0.5, 1.0), 3.0)
    assert trellis.published == Sampling(params, params)


def test_of_several_structures_the_one_with_the_fewest_voxels_goes_on(trellis, monkeypatch):
    counts, original = [], pipeline.Trellis.occupied

    def counted(self, z):
        voxels = original(self, z)
        counts.append(len(voxels))
        return voxels

    monkeypatch.setattr(pipeline.Trellis, "occupied", counted)
    splat = trellis.run(picture(), 3, trellis.published.changed({}, 4))
    assert len(counts) == 4
    assert min(counts) < counts[0], "a seed at which the first is not the smallest"
    assert len(splat) == min(counts) * FORM["num_gaussians"]


def test_empty_structures_are_not_the_smallest(trellis, monkeypatch):
    sizes = {0: 0, 1: 7, 2: 5, 3: 5}

    def occupied_of(_self, z):
        number = int(z)
        if not sizes[number]:
            raise NoVoxel(pipeline.Reason("no_voxel", {"sample": 0, "logit": -1.0}))
        return torch.full((sizes[number], 3), number)

    monkeypatch.setattr(pipeline.Trellis, "occupied", occupied_of)
    latents = [torch.tensor(number) for number in sizes]
    smallest = trellis.fewest_voxels(latents)
    assert (len(smallest), int(smallest[0, 0])) == (5, 2), "the first of equals"
    with pytest.raises(StageFailed, match="no occupied voxel"):
        trellis.fewest_voxels(latents[:1])


def test_a_picture_without_cut_out_is_refused(trellis):
    opaque = picture().convert("RGB")
    for bad in (opaque, opaque.convert("RGBA")):
        with pytest.raises(BadInput, match="no transparent background"):
            trellis.run(bad, seed=0)
    clear = picture()
    clear.putalpha(204)
    with pytest.raises(BadInput, match="no pixel has an alpha above 204"):
        trellis.run(clear, seed=0)
    speck = clear.copy()
    speck.putpixel((3, 4), (255, 255, 255, 255))
    with pytest.raises(BadInput, match="less than three pixels"):
        trellis.run(speck, seed=0)


@pytest.mark.parametrize(
    ("stage", "module", "key"),
    [
        ("image encoder", "encoder", "blocks.0.mlp.fc2.bias"),
        ("structure flow", "structure_flow", "out_layer.bias"),
        ("structure decoder", "structure_decoder", "out_layer.2.bias"),
        ("latent flow", "latent_flow", "blocks.0.mlp.mlp.2.weight"),
        ("Gaussian decoder", "gaussian_decoder", "blocks.1.attn.to_out.bias"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_names_the_stage(folder, stage, module, key, value):
    trellis = load(folder)
    with torch.inference_mode():
        getattr(trellis, module).get_parameter(key).fill_(value)
    with pytest.raises(StageFailed, match=f"^{stage}: [0-9]+ of [0-9]+ values are not finite"):
        trellis.run(picture(), seed=0)


def test_no_voxel_is_a_reason_not_a_crash(folder):
    trellis = load(folder)
    with torch.inference_mode():
        trellis.structure_decoder.out_layer[2].weight.zero_()
        trellis.structure_decoder.out_layer[2].bias.fill_(0.0)  # occupied is above 0, not at 0
    with pytest.raises(StageFailed, match="no occupied voxel, its largest logit is 0"):
        trellis.run(picture(), seed=0)


def test_voxels_are_listed_in_row_major_order():
    logits = torch.full((2, 1, 3, 3, 3), -1.0)
    for b, x, y, z in ((0, 2, 0, 1), (0, 0, 2, 2), (1, 1, 1, 1), (0, 0, 2, 0)):
        logits[b, 0, x, y, z] = 1e-6
    assert occupied(logits).tolist() == [[0, 0, 2, 0], [0, 0, 2, 2], [0, 2, 0, 1], [1, 1, 1, 1]]


# --- loading ----------------------------------------------------------------------------------------------------------


def test_float16_where_the_config_asks_for_it_only_inside(folder):
    flow = loading.load_model(folder / "ckpts/slat_flow_model", torch.device("cpu"), torch.float16)
    types = {key: value.dtype for key, value in flow.state_dict().items()}
    assert types["blocks.0.self_attn.to_qkv.weight"] == torch.float16
    assert types["input_blocks.1.conv1.conv.bias"] == torch.float16
    outside = ("t_embedder.mlp.0.weight", "input_layer.weight", "out_layer.bias", "blocks.0.norm2.weight")
    inside_but_norms = ("blocks.0.self_attn.q_rms_norm.gamma", "out_blocks.0.norm1.bias")
    assert {types[key] for key in (*outside, *inside_but_norms)} == {torch.float32}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the key tables are not here")
@pytest.mark.parametrize("table", sorted(SHARED.glob("keys_s*.json")), ids=lambda path: path.stem)
def test_published_models_key_by_key(table):
    wanted = json.loads(table.read_text())
    model = loading.build(wanted["cls"], wanted["args"])
    assert all(value.is_meta for value in model.state_dict().values())
    types = loading.types(model, torch.float16)
    found = {key: (list(v.shape), str(types[key])) for key, v in model.state_dict().items()}
    assert found == {k: (v["shape"], f"torch.{v['compute_dtype']}") for k, v in wanted["tensors"].items()}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the key tables are not here")
def test_published_encoder_key_by_key_under_both_namings():
    wanted = json.loads((SHARED / "keys_dinov2_vitl14_reg.json").read_text())["tensors"]
    with torch.device("meta"):
        found = Dino().state_dict()
    assert {key: list(value.shape) for key, value in found.items()} == {k: v["shape"] for k, v in wanted.items()}
    assert {key: hf_keys(key) for key in found} == {key: value["hf_keys"] for key, value in wanted.items()}


def test_the_encoder_reads_both_namings(folder, tmp_path):
    original = load_file(folder / "dino.safetensors")
    renamed = {}
    for key, value in original.items():
        names = hf_keys(key)
        renamed |= {name: part.contiguous() for name, part in zip(names, value.chunk(len(names)), strict=True)}
    assert "encoder.layer.0.attention.attention.key.weight" in renamed
    save_file(renamed, tmp_path / "hf.safetensors")
    native, converted = (
        load_dino(path, torch.device("cpu"), DINO)
        for path in (folder / "dino.safetensors", tmp_path / "hf.safetensors")
    )
    image = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(native(image), converted(image))
    del renamed["encoder.layer.0.attention.attention.key.weight"]
    save_file(renamed, tmp_path / "less.safetensors")
    with pytest.raises(BadWeights, match=r"less.safetensors: missing key 'blocks.0.attn.qkv.weight'"):
        load_dino(tmp_path / "less.safetensors", torch.device("cpu"), DINO)


def edited(folder: Path, tmp_path: Path, edit) -> Path:
    state = load_file(folder / "ckpts/slat_flow_model.safetensors")
    edit(state)
    save_file(state, tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text((folder / "ckpts/slat_flow_model.json").read_text())
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("out_layer.bias"), r"m.safetensors: missing key 'out_layer.bias' \(1 in all\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"m.safetensors: unknown key 'extra' \(1 in all\)"),
        (lambda s: s.update({"out_layer.bias": torch.zeros(5)}), r"'out_layer.bias' has shape \(5,\), expected \(4,\)"),
        (
            lambda s: s.update({"input_blocks.0.conv1.conv.weight": torch.zeros(6, 6, 3, 3, 3)}),
            r"'input_blocks.0.conv1.conv.weight' has shape \(6, 6, 3, 3, 3\), expected \(6, 3, 3, 3, 6\)",
        ),
    ],
    ids=["missing", "extra", "shape", "dense layout"],
)
def test_a_wrong_key_names_itself_and_its_file(folder, tmp_path, edit, message):
    with pytest.raises(BadWeights, match=message):
        loading.load_model(edited(folder, tmp_path, edit), torch.device("cpu"))


def test_missing_and_mislabelled_files_are_errors(folder, tmp_path):
    with pytest.raises(BadWeights, match=r"nothing.json: cannot be read"):
        loading.load_model(tmp_path / "nothing", torch.device("cpu"))
    (tmp_path / "m.json").write_text((folder / "ckpts/slat_flow_model.json").read_text())
    (tmp_path / "m.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BadWeights, match=r"m.safetensors: cannot be read"):
        loading.load_model(tmp_path / "m", torch.device("cpu"))
    with pytest.raises(BadWeights, match=r"pipeline.json: cannot be read"):
        pipeline.load(tmp_path, tmp_path / "dino.safetensors", "cpu")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("SLatMeshDecoder", {}, "model class 'SLatMeshDecoder' is not known"),
        ("SLatFlowModel", FLOW | {"resolution": 8, "depth": 3}, "unknown argument 'depth' = 3"),
        ("SLatFlowModel", FLOW, "missing 1 required positional argument: 'resolution'"),
        ("SLatFlowModel", FLOW | {"resolution": 8, "pe_mode": "rope"}, "pe_mode = 'rope' is not supported"),
        ("SLatFlowModel", FLOW | {"resolution": 8, "io_block_channels": [4, 8]}, "one level at most"),
        (
            "SLatGaussianDecoder",
            MODELS["slat_decoder_gs"][1] | {"representation_config": FORM | {"lr": {"_xyz": 1.0}}},
            "representation_config: lr has no '_features_dc'",
        ),
    ],
)
def test_a_config_that_is_not_understood_says_where(name, args, message):
    with pytest.raises(BadWeights, match=message):
        loading.build(name, args)


def test_training_arguments_are_ignored_and_defaults_filled_in():
    args = FLOW | {"resolution": 4, "model_channels": 128, "use_checkpoint": True}
    del args["num_heads"]
    flow = loading.build("SparseStructureFlowModel", args)
    assert flow.params.heads == 2
    assert flow.params.patch_size == 2


# --- Gaussians --------------------------------------------------------------------------------------------------------


def decoder() -> GaussianDecoder:
    args = MODELS["slat_decoder_gs"][1]
    model = GaussianDecoder(parse_params(GaussianDecoderParams, args))
    torch.nn.init.zeros_(model.offset_perturbation)
    return model


def test_up_in_trellis_is_z_and_in_a_splat_y():
    model = decoder()
    coords = torch.tensor([[3, 4, 7], [3, 4, 0], [7, 4, 4], [3, 0, 4]])
    splat = to_splat(model.gaussians(coords, torch.zeros(4, 28)), model.params.representation_config)
    top, bottom, right, front = splat.means[::2]
    assert top[1] > 0.4
    assert bottom[1] < -0.4
    assert right[0] > 0.4
    assert front[2] > 0.4  # what is at small y faces +Z, the judge's front


def test_rotations_turn_with_the_positions():
    """A long Gaussian along TRELLIS's z is long along the splat's y."""
    form = parse_params(GaussianDecoderParams, MODELS["slat_decoder_gs"][1]).representation_config
    scaling = torch.tensor([[0.0, 0.0, 3.0]])
    splat = to_splat(
        Gaussians(torch.zeros(1, 3), torch.zeros(1, 1, 3), scaling, torch.zeros(1, 4), torch.zeros(1, 1)), form
    )
    w, x, y, z = splat.quats[0].astype(float)
    third = np.array(
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    )  # the image of the local z axis
    np.testing.assert_allclose(np.abs(third), [0, 1, 0], atol=1e-6)


@pytest.mark.parametrize("logit", [-200.0, -30.0, 0.0, 17.5, 40.0, 3e4])
def test_opacity_stays_a_logit_however_large(logit):
    form = parse_params(GaussianDecoderParams, MODELS["slat_decoder_gs"][1]).representation_config
    zeros = torch.zeros(1, 3), torch.zeros(1, 1, 3), torch.zeros(1, 3), torch.zeros(1, 4)
    splat = to_splat(Gaussians(*zeros, torch.tensor([[logit]])), form)
    assert splat.opacity_logits[0] == np.float32(np.float32(logit) + np.float32(np.log(0.1 / 0.9)))


def test_scales_stay_finite_however_large():
    form = Representation(**{**ARGS, "scaling_activation": "exp"})
    raw = torch.tensor([[200.0, -200.0, 0.0]])
    zeros = torch.zeros(1, 3), torch.zeros(1, 1, 3), torch.zeros(1, 4), torch.zeros(1, 1)
    splat = to_splat(Gaussians(zeros[0], zeros[1], raw, zeros[2], zeros[3]), form)
    np.testing.assert_allclose(splat.log_scales[0, :2], [200 + np.log(4e-3), np.log(9e-4)], rtol=1e-5)


@pytest.mark.parametrize("activation", ["softplus", "exp"])
def test_scale_of_a_raw_zero_is_the_bias_with_the_filter(activation):
    form = Representation(**{**ARGS, "scaling_activation": activation})
    zeros = torch.zeros(1, 3), torch.zeros(1, 1, 3), torch.zeros(1, 3), torch.zeros(1, 4), torch.zeros(1, 1)
    np.testing.assert_allclose(np.exp(to_splat(Gaussians(*zeros), form).log_scales), np.hypot(4e-3, 9e-4), rtol=1e-5)

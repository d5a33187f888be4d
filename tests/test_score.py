import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from app.errors import BadWeights, StageFailed, Unavailable
from app.generators.shapes import SHAPES_CLIP
from app.stages import score
from app.stages.score import Scorer, ScorerParams
from app.trellis.graphs import GraphCache

SHAPES = ScorerParams(f"local-dir:{SHAPES_CLIP}", "", device="cpu")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return score.load(SHAPES)


@pytest.fixture
def views() -> np.ndarray:
    return np.random.default_rng(0).random((4, 64, 64, 3), dtype=np.float32)


def test_score_is_the_mean_cosine_of_open_clip_itself(scorer: Scorer, views: np.ndarray) -> None:
    model = open_clip.create_model(f"local-dir:{SHAPES_CLIP}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{SHAPES_CLIP}", bpe_path=str(SHAPES_CLIP / "merges.txt.gz"))
    with torch.inference_mode():
        image = model.encode_image(score.to_pixels(torch.from_numpy(views), model), normalize=True)
        text = model.encode_text(tokens(["a red ball"]), normalize=True)
    found = scorer.run(views, "a red ball")
    assert found.per_view == pytest.approx((image @ text.T)[:, 0].tolist(), abs=1e-5)
    assert found.value == pytest.approx(float(np.mean(found.per_view)), abs=1e-6)


def test_aggregate_max_is_the_best_view(views: np.ndarray) -> None:
    found = score.load(replace(SHAPES, aggregate="max")).run(views, "a red ball")
    assert found.value == max(found.per_view)


def test_long_prompt_is_cut_and_says_so(scorer: Scorer, views: np.ndarray) -> None:
    long = "a red ball " * 40
    found = scorer.run(views, long)
    assert found.details["prompt_truncated"]
    assert not scorer.run(views, "a red ball").details["prompt_truncated"]
    assert found.per_view == scorer.run(views, long + "and a dragon").per_view


def test_text_embedding_is_kept(scorer: Scorer, views: np.ndarray) -> None:
    first = scorer.run(views, "a green cone")
    assert "a green cone" in scorer._texts
    assert scorer.run(views, "a green cone") == first


def test_weights_hash_is_of_the_file(scorer: Scorer) -> None:
    assert (
        scorer.weights_sha256 == hashlib.sha256((SHAPES_CLIP / "open_clip_model.safetensors").read_bytes()).hexdigest()
    )


def test_embedded_weights_are_small_safetensors() -> None:
    assert (SHAPES_CLIP / "open_clip_model.safetensors").stat().st_size <= 4_000_000


def test_broken_weights_are_a_failed_stage_not_a_number(tmp_path: Path, views: np.ndarray) -> None:
    folder = _copy(tmp_path)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"][:] = float("nan")
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(StageFailed, match="nan"):
        score.load(ScorerParams(model=f"local-dir:{folder}", device="cpu")).run(views, "a red ball")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "does not fit"),
        (lambda file: file.write_bytes(b""), "does not fit"),
        (lambda file: save_file({"other": torch.zeros(1)}, file), "does not fit"),
    ],
)
def test_bad_weight_file_is_named(tmp_path: Path, damage, reason: str) -> None:
    folder = _copy(tmp_path)
    damage(folder / "open_clip_model.safetensors")
    with pytest.raises(BadWeights, match=reason) as error:
        score.load(ScorerParams(model=f"local-dir:{folder}", device="cpu"))
    assert "open_clip_model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("merges.txt.gz", b"", "merges.txt.gz gives 514 tokens, the model has 1,538"),
        ("merges.txt.gz", (SHAPES_CLIP / "merges.txt.gz").read_bytes()[:500], "does not fit"),
        ("merges.txt.gz", b"no gzip", "does not fit"),
        ("open_clip_config.json", b"", "does not fit"),
        ("open_clip_config.json", b'{"model_cfg": []}', "does not fit"),
        (
            "open_clip_config.json",
            b'{"model_cfg": {"embed_dim": 1, "vision_cfg": {}, "text_cfg": 0}}',
            "does not fit",
        ),
    ],
)
def test_a_scorer_folder_with_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    folder = _copy(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(BadWeights, match=reason):
        score.load(ScorerParams(model=f"local-dir:{folder}", device="cpu"))


def test_a_large_picture_is_shrunk_before_it_becomes_numbers() -> None:
    square = score.on_square(Image.new("RGBA", (3_000, 1_500), (255, 0, 0, 0)), (0.0, 1.0, 0.0))
    assert square.shape == (1, 1_024, 1_024, 3)
    assert (square == (0, 1, 0)).all()
    assert score.on_square(Image.new("RGB", (1_024, 40)), (1.0, 1.0, 1.0)).shape == (1, 1_024, 1_024, 3)


def test_weights_that_are_not_on_the_host_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadWeights, match="are not on this host"):
        score.load(ScorerParams())


def test_a_pickle_is_not_a_weight_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"\x80\x04.")
    with pytest.raises(BadWeights, match="safetensors"):
        score.load(ScorerParams(pretrained=str(file)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(Unavailable, match=r"score\.device"):
        score.load(ScorerParams(model=f"local-dir:{SHAPES_CLIP}", device="cuda"))


def test_openai_tag_switches_quick_gelu_on() -> None:
    """open_clip only warns: without it ViT-L-14/openai runs with the wrong activation and scores wrongly."""
    assert "quick_gelu" not in open_clip.get_model_config("ViT-L-14")
    assert score.overrides("ViT-L-14", "openai")["force_quick_gelu"] is True
    assert score.overrides("ViT-L-14", "laion2b_s32b_b82k")["force_quick_gelu"] is False
    assert score.overrides("ViT-L-14", "laion2b_s32b_b82k")["force_preprocess_cfg"]["mean"] == (0.5, 0.5, 0.5)


def _copy(folder: Path) -> Path:
    for file in SHAPES_CLIP.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_recorded_towers_score_as_eager_ones(views: np.ndarray) -> None:
    scorer = score.load(ScorerParams(model=f"local-dir:{SHAPES_CLIP}", pretrained="", device="cuda"))
    asked = [(views, "a red ball"), (views[:1], "a green cone"), (1 - views, "a red ball")]
    expected = [scorer.run(*each) for each in asked]
    scorer._texts.clear()
    scorer.graphs = GraphCache()
    assert [scorer.run(*each) for each in asked * 2] == expected * 2

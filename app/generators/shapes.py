"""Profile `shapes`: the built-in stand-in, with a small scorer of its own on the CPU."""

from pathlib import Path

from app.generators.generator import Generator

SHAPES_CLIP = Path(__file__).parent.parent / "stages/shapes_clip"
"""The embedded scorer: config, vocabulary and weights (scripts/train_shapes_clip makes them)."""

GENERATOR = Generator(
    name="shapes",
    summary="the built-in stand-in, a small world of simple objects; needs neither",
    examples=("a red mug on a wooden table", "a blue rocket", "a green chair next to a white box"),
    load="app.stages.shapes:load",
    check_prompt="app.stages.scene:parse",
    stand_in=(
        "profile 'shapes' is the embedded stand-in: a small built-in world and its own small scorer, not FLUX + TRELLIS"
    ),
    settings={"score": {"model": f"local-dir:{SHAPES_CLIP}", "pretrained": "", "weights": "", "device": "cpu"}},
    self_test_score=0.3294,
)

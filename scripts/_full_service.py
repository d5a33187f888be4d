"""Profile full with random weights, for `scripts/bench_serve --profile full`.

Speed does not depend on the values of weights, but random weights give no structure, no object and no plausible
opacity. So the service runs from a copy of app/ with one more generator, which computes everything that `full` does and
then replaces these three results: the voxels by those of a real asset, the mask by an ellipse, and the opacity logits
by the same with the spread of real ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import _random_models as random_models
import open_clip
import torch
from _venv import ROOT
from safetensors.torch import save_file

from app.generators.shapes import SHAPES_CLIP

NAME = "full-random"

GENERATOR = '''"""Profile full with random weights and the voxels of an asset."""

from dataclasses import replace

from app.generators.full import GENERATOR as FULL

GENERATOR = replace(FULL, name="full-random", load="app.stages.full_random:load", needs_gpu=True)
'''


def copy_of_app(folder: Path, size: Literal["tiny", "full"]) -> Path:
    """A copy of app/ with the generator, for PYTHONPATH and as the working directory. Tiny models run on the CPU."""
    shutil.copytree(ROOT / "app", folder / "app")
    (folder / "app/generators/full_random.py").write_text(GENERATOR.replace("True", str(size == "full")))
    shutil.copy(ROOT / "scripts/_full_random.py", folder / "app/stages/full_random.py")
    registry = folder / "app/generators/__init__.py"
    text = registry.read_text().replace("import full, shapes", "import full, full_random, shapes")
    entry = '    "full": full.GENERATOR,\n'
    assert entry in text
    registry.write_text(text.replace(entry, f'{entry}    "{NAME}": full_random.GENERATOR,\n'))
    return folder


def write_models(folder: Path, size: Literal["tiny", "full"]) -> dict[str, str]:
    """Writes all models with random weights, on the GPU if there is one. Returns the settings that use them."""
    folder.mkdir()
    random_models.write_all(folder, size)
    settings = random_models.settings(folder) | {"SPLATGATE__VALIDATE__THRESHOLD": "-1"}
    if size == "tiny":
        settings |= {"SPLATGATE__SCORE__MODEL": f"local-dir:{SHAPES_CLIP}", "SPLATGATE__SCORE__PRETRAINED": ""}
        settings |= {"SPLATGATE__VALIDATE__MIN_GAUSSIANS": "0", "SPLATGATE__IMAGE__SIZE": "64"}
    else:
        with random_models.seeded(4, torch.float32):
            clip = open_clip.create_model("ViT-L-14", force_quick_gelu=True)
        save_file({name: each.contiguous() for name, each in clip.state_dict().items()}, folder / "clip.safetensors")
        settings["SPLATGATE__SCORE__WEIGHTS"] = str(folder / "clip.safetensors")
    return settings | {"SPLATGATE__PROFILE__NAME": NAME}

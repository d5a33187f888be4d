"""What torch and gsplat find on this host, as JSON: `python -m app.stages.cuda_report`.

A program of its own, so that `splatgate doctor` does not initialise CUDA and survives a crash here.
"""

from __future__ import annotations

import json

import torch

from app.splat.raster_gsplat import missing_requirement
from app.stages.memory import RESERVE_BYTES


def report() -> dict[str, str | bool | int]:
    """cuda: the version that torch is built for, or empty. gsplat: what it lacks, or empty. reserve: bytes."""
    try:
        gsplat = missing_requirement()
    except Exception as error:  # noqa: BLE001  # whatever gsplat's build ends with is the finding
        gsplat = str(error) or type(error).__name__
    visible = torch.cuda.is_available()
    return {"cuda": torch.version.cuda or "", "visible": visible, "gsplat": gsplat, "reserve": RESERVE_BYTES}


if __name__ == "__main__":
    print(json.dumps(report()))

"""The CPU rasteriser: numba kernels that draw what gsplat 1.5 draws. projection.py, then tiles.py.

It knows arrays only: no Splat, no placement. No two threads write to one place, and nothing depends on how many they
are: the same input gives the same picture, bit for bit.
"""

from pathlib import Path

from app.splat.raster_cpu.tiles import _assemble, overdraw, rasterize

__all__ = ["is_compiled", "overdraw", "rasterize"]


def is_compiled() -> bool:
    """Whether drawing starts at once: the kernels are in this process or on disk; else they take some 20 s of CPU."""
    folder = _assemble.stats.cache_path  # type: ignore[attr-defined]
    on_disk = folder is not None and any(Path(folder).glob("tiles._assemble*.nbi"))
    return on_disk or bool(_assemble.signatures)  # type: ignore[attr-defined]

"""The CPU rasteriser: numba kernels that draw what gsplat 1.5 draws. projection.py runs first, then tiles.py.

It works on arrays and knows no Splat and no placement. Threads never write to the same place, and the result does not
depend on their number: the same input gives the same picture, bit for bit.
"""

from pathlib import Path

from app.splat.raster_cpu.tiles import _assemble, overdraw, rasterize

__all__ = ["is_compiled", "overdraw", "rasterize"]


def is_compiled() -> bool:
    """Whether the kernels are compiled, in this process or on disk; compiling takes about 20 s of processor time."""
    folder = _assemble.stats.cache_path  # type: ignore[attr-defined]
    on_disk = folder is not None and any(Path(folder).glob("tiles._assemble*.nbi"))
    return on_disk or bool(_assemble.signatures)  # type: ignore[attr-defined]

"""Colours of Gaussians seen from a point: real spherical harmonics up to degree 3.

Signs, order and constants are those of 3D Gaussian Splatting (Kerbl et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.splat.model import SH_C0


def view_colors(means: Any, sh: Any, position: Any) -> Any:
    """(N, 3) colours of Gaussians at `means` (N, 3) seen from `position` (3,), all in one frame.

    sh: (N, K, 3) coefficients, numpy or torch like `means`. With K = 1 colours may be negative, as the public judge
    draws them; with more they are clamped at 0, as viewers do.
    """
    color = 0.5 + SH_C0 * sh[:, 0]
    if sh.shape[1] == 1:
        return color
    x, y, z = (means[:, axis] - float(position[axis]) for axis in range(3))
    distance = ((x * x + y * y + z * z) ** 0.5).clip(min=1e-12)
    for band, basis in enumerate(basis_functions(x / distance, y / distance, z / distance), start=1):
        if band < sh.shape[1]:
            color += basis[:, None] * sh[:, band]
    return color.clip(min=0)


def basis_functions(x: Any, y: Any, z: Any) -> Iterator[Any]:
    """The fifteen basis functions of degrees 1 to 3 at unit directions; the constants are sqrt(rational / pi)."""
    xx, yy, zz = x * x, y * y, z * z
    yield from (-0.4886025 * y, 0.4886025 * z, -0.4886025 * x)
    yield from (1.0925484 * x * y, -1.0925484 * y * z, 0.3153916 * (2 * zz - xx - yy))
    yield from (-1.0925484 * x * z, 0.5462742 * (xx - yy))
    yield from (-0.5900436 * y * (3 * xx - yy), 2.8906114 * x * y * z, -0.4570458 * y * (4 * zz - xx - yy))
    yield 0.3731763 * z * (2 * zz - 3 * xx - 3 * yy)
    yield from (-0.4570458 * x * (4 * zz - xx - yy), 1.4453057 * z * (xx - yy), -0.5900436 * x * (xx - 3 * yy))

"""Statistics of a field, and masks of unusable values. This file does not know what counts as a fault."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from app.splat.findings import FieldStats
from app.splat.model import Float32, Splat

Mask = NDArray[np.bool_]

CHUNK = 32_768
"""Values converted to float64 at a time: 0.25 MB, which fits a core's cache."""


def field_stats(values: Float32) -> FieldStats:
    """Statistics of an array of any shape, summed in float64."""
    finite = values.reshape(-1)
    mean, std, low, high = _moments(finite)
    if not math.isfinite(mean):
        finite = finite_values(values)
        if not finite.size:
            return FieldStats(values.size, values.size, None, None, None, None)
        mean, std, low, high = _moments(finite)
    return FieldStats(values.size, values.size - finite.size, mean, std, low, high)


def _moments(flat: Float32) -> tuple[float, float, float, float]:
    """Mean, standard deviation, minimum and maximum in one pass. The mean is not finite if any value is not, or if
    there are none.

    Differences from the first value are summed. A constant thus has a deviation of exactly zero, and with a million
    values the first nine digits of the float64 result are exact.
    """
    if not flat.size:
        return math.nan, math.nan, math.nan, math.nan
    origin, total, squares = np.float64(flat[0]), 0.0, 0.0
    lows, highs = [], []
    buffer = np.empty(min(CHUNK, flat.size))
    with np.errstate(invalid="ignore"):
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            lows.append(float(chunk.min()))
            highs.append(float(chunk.max()))
            away = np.subtract(chunk, origin, out=buffer[: chunk.size])
            total += float(away.sum())
            squares += float(np.square(away, out=away).sum())
    mean = total / flat.size
    return float(origin) + mean, math.sqrt(max(0.0, squares / flat.size - mean**2)), min(lows), max(highs)


def finite_values(values: Float32) -> Float32:
    """The finite values, flat; no copy if all are finite."""
    flat = values.reshape(-1)
    mask = np.isfinite(flat)
    return flat if mask.all() else flat[mask]


def nonfinite_mask(values: Float32) -> Mask:
    """(N,) Gaussians with a NaN or an infinity in this field."""
    return np.asarray((~np.isfinite(values.reshape(len(values), -1))).any(axis=1))


def outside(values: Float32, low: float, high: float) -> Mask:
    """Finite values outside low to high, in the field's shape."""
    return np.asarray(np.isfinite(values) & ((values < low) | (values > high)))


def zero_quaternion_mask(splat: Splat, smallest: float) -> Mask:
    """(N,) which quaternions are finite and have a norm of at most `smallest`."""
    mask = np.zeros(len(splat), bool)
    some = np.flatnonzero(np.abs(splat.quats[:, 0]) <= smallest)  # the norm is no less than any component
    quats = splat.quats[some].astype(np.float64)
    mask[some] = np.sqrt(np.einsum("ij,ij->i", quats, quats)) <= smallest
    return mask


def share(mask: Mask) -> float:
    """The fraction that is true; faster than np.mean, which converts to float64 first."""
    return np.count_nonzero(mask) / max(mask.size, 1)

"""CUDA errors after which the process can no longer use the GPU."""

from __future__ import annotations

STICKY = (
    "illegal memory access",
    "launch failure",
    "launch timed out",
    "device-side assert",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "global/shared address space",
    "hardware stack error",
    "uncorrectable ECC",
    "GPU is lost",
    "fallen off the bus",
    "no CUDA-capable device",
    "CUDA error: unknown error",
)
"""Parts of CUDA's messages."""


def is_sticky(error: BaseException) -> bool:
    """Whether a CUDA error has poisoned the process."""
    text = str(error)
    return any(words in text for words in STICKY)

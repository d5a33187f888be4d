"""The GPUs of this host, as the driver tells of them (NVML): without CUDA, so that the supervisor can ask too."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml

from app.errors import Unavailable

GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN)
"""What the driver answers where a card has fallen off the bus."""


@dataclass(frozen=True)
class Gpu:
    """A card. uuid: as CUDA_VISIBLE_DEVICES takes it. used, total: bytes of memory."""

    uuid: str
    name: str
    used: int
    total: int


class GpuGone(Unavailable):
    """The card does not answer any more."""


def gpus() -> tuple[Gpu, ...]:
    """Every card that the driver shows, in its order; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_describe(handle) for handle in handles)
    except pynvml.NVMLError as error:
        raise Unavailable(
            f"the NVIDIA driver does not answer: {error}; look at nvidia-smi and the kernel's log"
        ) from None
    finally:
        pynvml.nvmlShutdown()


def gpu(uuid: str) -> Gpu:
    """The card of that uuid now. Raises GpuGone where it is lost."""
    try:
        pynvml.nvmlInit()
        try:
            return _describe(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if error.value in GONE:
            raise GpuGone(f"GPU {uuid} does not answer any more: {error}; the host may need a restart") from None
        raise Unavailable(f"GPU {uuid}: the driver says {error}; look at nvidia-smi") from None


def _describe(handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(str(uuid), str(name), int(memory.used), int(memory.total))

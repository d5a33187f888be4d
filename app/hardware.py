"""The GPUs of this host, as reported by NVML. CUDA is not needed, so that the supervisor can use it too."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml

from app.errors import Unavailable

GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN)
"""NVML errors of a GPU that has fallen off the bus."""


@dataclass(frozen=True)
class Gpu:
    """A GPU. uuid: as in CUDA_VISIBLE_DEVICES. used, total: bytes of memory."""

    uuid: str
    name: str
    used: int
    total: int


class GpuGone(Unavailable):
    """The GPU no longer responds."""


def gpus() -> tuple[Gpu, ...]:
    """All GPUs, in the driver's order; none without a driver. Raises Unavailable if the driver does not respond."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_describe(handle) for handle in handles)
    except pynvml.NVMLError as error:
        raise Unavailable(f"the NVIDIA driver does not respond: {error}; check nvidia-smi and the kernel log") from None
    finally:
        pynvml.nvmlShutdown()


def gpu(uuid: str) -> Gpu:
    """The GPU with this uuid, with its current memory. Raises GpuGone if it is lost, Unavailable for other errors."""
    try:
        pynvml.nvmlInit()
        try:
            return _describe(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if error.value in GONE:
            raise GpuGone(f"GPU {uuid} no longer responds: {error}; the host may need a restart") from None
        raise Unavailable(f"GPU {uuid}: NVML error: {error}; check nvidia-smi") from None


def _describe(handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(str(uuid), str(name), int(memory.used), int(memory.total))

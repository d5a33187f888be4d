"""How much memory something takes at a time, for tests of what must not take much."""

import tracemalloc
from collections.abc import Callable


def peak_of(call: Callable[[], object], limit: int) -> int:
    """Bytes allocated at a time: whoever is over the limit may try twice more, for a thread that an earlier test of
    this process has left is counted too."""
    peaks: list[int] = []
    while not peaks or (peaks[-1] >= limit and len(peaks) < 3):
        tracemalloc.start()
        try:
            call()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return peaks[-1]

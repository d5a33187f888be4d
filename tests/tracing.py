"""Peak memory of a call, for tests of what must not take much."""

import tracemalloc
from collections.abc import Callable


def peak_of(call: Callable[[], object], limit: int) -> int:
    """The peak of allocated bytes. Tries twice more if it is over the limit, because threads that earlier tests of this
    process left behind are counted too."""
    peaks: list[int] = []
    while not peaks or (peaks[-1] >= limit and len(peaks) < 3):
        tracemalloc.start()
        try:
            call()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return peaks[-1]

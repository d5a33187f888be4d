"""The bounds of values that callers choose, each declared once.

The keys of config.toml, the fields of the API, the options of the command line and the error messages use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field


@dataclass(frozen=True)
class Bounds:
    """low, high: both allowed, but low is excluded if `above` is set. step: values are multiples of it.

    Values are whole numbers if low is an int.
    """

    low: float
    high: float
    step: int = 1
    above: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        high_enough = value > self.low if self.above else value >= self.low
        return high_enough and value <= self.high and (not self.whole or value % self.step == 0)

    def __str__(self) -> str:
        kind = "an even number" if self.step == 2 else "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.low:g}, at most {self.high:g}"
        return f"{kind} from {self.low:.10g} to {self.high:.10g}"

    def field(self, description: str | None = None) -> Any:
        """The pydantic field with these bounds."""
        low: dict[str, Any] = {"gt" if self.above else "ge": self.low}
        step: dict[str, Any] = {"multiple_of": self.step} if self.step > 1 else {}
        return Field(description=description, le=self.high, **low, **step)

    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        low = {"exclusiveMinimum" if self.above else "minimum": self.low}
        step = {"multipleOf": self.step} if self.step > 1 else {}
        return {"type": "integer" if self.whole else "number", **low, "maximum": self.high, **step}


SEED = Bounds(0, 2**32 - 1)
ATTEMPTS = Bounds(1, 100)
PRIORITY = Bounds(1, 100)
DEADLINE = Bounds(0.0, 30 * 86_400.0, above=True)
"""Seconds."""
VIDEO_SIZE = Bounds(64, 2048, step=2)
"""Pixels per side of a turntable; even, because H.264 stores colour at half the resolution."""
VIDEO_SECONDS = Bounds(0.0, 60.0, above=True)
VIDEO_FPS = Bounds(1, 60)
VIEW_SIZE = Bounds(16, 4096)
"""Pixels per side."""
RADIUS = Bounds(0.0, 90.0, above=True)
"""Distance of the camera from the origin, world units."""
FOV = Bounds(1.0, 170.0)
"""Degrees, vertical."""
EXTENT = Bounds(0.0, 1_000.0, above=True)
"""World units."""
PORT = Bounds(1, 65_535)
STEPS = Bounds(1, 200)
"""Steps of a sampler."""
GUIDANCE = Bounds(0.0, 20.0)
"""Guidance scale of a sampler; 0 is none."""
TIME = Bounds(0.0, 1.0)
"""Time of a flow: 1 is noise, 0 is data."""
RESCALE = Bounds(1.0, 10.0)
"""Above 1, more of the steps of a sampler lie near the noise."""
OVERSAMPLE = Bounds(1, 8)
"""Structures sampled for one splat."""

Seed = Annotated[int, SEED.field()]
Attempts = Annotated[int, ATTEMPTS.field()]
Priority = Annotated[int, PRIORITY.field("1 comes first.")]
Deadline = Annotated[float, DEADLINE.field("Seconds; a job that has not ended by then is EXPIRED.")]
VideoSize = Annotated[int, VIDEO_SIZE.field("Pixels per side of the video.")]
VideoSeconds = Annotated[float, VIDEO_SECONDS.field()]
VideoFps = Annotated[int, VIDEO_FPS.field()]
ViewSize = Annotated[int, VIEW_SIZE.field()]
Radius = Annotated[float, RADIUS.field()]
Fov = Annotated[float, FOV.field()]
Extent = Annotated[float, EXTENT.field()]
Port = Annotated[int, PORT.field()]
Steps = Annotated[int, STEPS.field()]
Oversample = Annotated[int, OVERSAMPLE.field("Structures to sample; the one with the fewest voxels goes on.")]

"""Synthetic judges with a known cut-off, for tests and for the plot of the feedback report: jobs in a job store, and
the log that their caller would have written. No number here was measured on a real judge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import sqlalchemy as sa

from app.jobs.store import Store
from app.jobs.tables import jobs

START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class World:
    """Jobs whose hidden quality q determines the CLIP score and the judges' verdict.

    quality ~ N(quality, spread); score = 0.26 + slope (q - 0.62) + N(0, noise); accepted if q + N(0, 0.02) >= cut.
    """

    count: int
    quality: float = 0.62
    spread: float = 0.12
    slope: float = 0.25
    noise: float = 0.012
    cut: float = 0.60
    threshold: float = 0.20
    failed: float = 0.05

    @property
    def best_threshold(self) -> float:
        """The score at which acceptance and rejection are equally likely: best at a rejection cost of 1."""
        variance = (self.slope * self.spread) ** 2 + self.noise**2
        per_score = self.slope * self.spread**2 / variance
        return 0.26 + self.slope * (self.quality - 0.62) + (self.cut - self.quality) / per_score


def populate(store: Store, world: World, rng: np.random.Generator) -> str:
    """Writes finished jobs to the store. Returns the log of four judges: two current, one old, one failing."""
    quality = rng.normal(world.quality, world.spread, world.count)
    scores = 0.26 + world.slope * (quality - 0.62) + rng.normal(0, world.noise, world.count)
    seen = quality + rng.normal(0, 0.02, world.count)
    rows, lines = [], []
    for index in range(world.count):
        end = START + EVERY_SECONDS * index
        delivered = bool(scores[index] >= world.threshold)
        rows.append(job(index, end, float(scores[index]), delivered, int(rng.integers(150_000, 900_000))))
        if delivered:
            score = f"{seen[index]:.4f}" if seen[index] >= world.cut else "0.0"
            lines.append(_line(index, end + rng.uniform(3, 20), "failed" if rng.random() < world.failed else score))
    with store.writing() as connection:
        connection.execute(sa.insert(jobs), rows)
    return "".join(lines)


def job(index: int, finished: float, score: float | None, delivered: bool = True, gaussians: int = 200_000) -> dict:
    """The row of a finished job."""
    return {
        "id": f"{index:032x}",
        "digest": "0" * 64,
        "kind": "generate",
        "prompt": f"thing number {index}",
        "seed": 0,
        "attempts": 1,
        "format": "ply",
        "profile": "shapes",
        "priority": 10,
        "state": "DONE",
        "created": finished - 30,
        "started": finished - 29,
        "finished": finished,
        "outcome": "passed" if delivered else "refused",
        "score": score,
        "gaussians": gaussians,
    }


def _line(index: int, time: float, score: str) -> str:
    stamp = datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds")[:-6]
    uid = (57, 57, 57, 3, 12, 57, 3, 99)[index % 8]
    if uid == 12:
        return f"{stamp} | DEBUG | Feedback received from [12]. Score: {score}. (thing number {index})\n"
    score, seen = ("failed", 0) if uid == 99 else (score, index)
    return (
        f"{stamp} | DEBUG | neuron:311 | Feedback from [{uid}]: Score={score}, AvgScore=0.64, ELO=1502.25, "
        f"Reward=0.0125, Observations={seen}\n"
    )

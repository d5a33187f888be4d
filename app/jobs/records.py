"""The values that web process, database and engines exchange: requests, jobs, engines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from app.gate import MetricValue
from app.stage import Stage

Kind = Literal["generate", "validate", "repair", "turntable", "cutout"]
State = Literal["QUEUED", "RUNNING", "DONE", "FAILED", "CANCELLED", "EXPIRED", "QUARANTINED"]
EngineState = Literal["STARTING", "WARMING", "READY", "BUSY", "DRAINING", "FAILED", "LOST"]
JobOutcome = Literal["passed", "refused", "not validated"]
Order = Literal["newest", "oldest", "score", "queue"]
"""The order of a list of jobs."""

ENDED: tuple[State, ...] = ("DONE", "FAILED", "CANCELLED", "EXPIRED", "QUARANTINED")
SERVING: tuple[EngineState, ...] = ("READY", "BUSY")


@dataclass(frozen=True)
class JobRequest:
    """A caller's request.

    seed, attempts, profile: None selects the configured value. priority: 1 (first) to 100. picture: PNG or JPEG bytes.
    splat: the bytes of a splat file, for kinds validate and repair. For kind turntable, source: the id of a finished
    job, and size: pixels per side of the video. webhook_url: where the ended job is sent. trellis: sampler settings
    that override the configured ones, by key of [trellis].
    """

    kind: Kind = "generate"
    prompt: str = ""
    seed: int | None = None
    attempts: int | None = None
    priority: int = 10
    deadline_seconds: float | None = None
    profile: str | None = None
    picture: bytes | None = None
    splat: bytes | None = None
    source: str | None = None
    size: int | None = None
    webhook_url: str | None = None
    trellis: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 (hex); requests with equal digests ask for the same."""
        tree = asdict(self)
        for name in ("picture", "splat"):
            tree[name] = hashlib.sha256(tree[name]).hexdigest() if tree[name] is not None else None
        tree["format"] = "ply"  # a field of older releases, whose digests still match
        for name in ("webhook_url", "trellis"):
            if not tree[name]:
                del tree[name]  # older releases did not have it
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A job in the database. Times: seconds since 1970.

    sequence: orders the queued jobs of a priority, lowest first; None in rows of older releases.
    stage: empty unless the job runs. fraction: how much is done, 0 to 1; None before the job starts.
    attempt: the running one, or the one whose result was kept.
    reasons: why the gate refused, in sentences; reason_codes: the code of each, as in app/reason.py.
    score: the value of the first metric; scores: of each view. metrics: by name; empty in rows of older releases.
    trellis: the sampler settings of the request.
    error: one line; empty without an error. version: rises with every change. starred: kept by retention.
    owner: the name of the caller's token, "" without one; None in rows of older releases.
    assets: names of the job's files, sorted.
    """

    id: str
    kind: Kind
    prompt: str
    seed: int
    attempts: int
    profile: str
    priority: int
    sequence: int | None
    source: str | None
    size: int | None
    trellis: Mapping[str, Any]
    state: State
    stage: Stage | Literal[""]
    fraction: float | None
    attempt: int
    created: float
    started: float | None
    finished: float | None
    deadline: float | None
    outcome: JobOutcome | None
    reasons: tuple[str, ...]
    reason_codes: tuple[str, ...]
    score: float | None
    scores: tuple[float, ...]
    metrics: Mapping[str, MetricValue]
    gaussians: int | None
    error: str
    engine: str | None
    version: int
    starred: bool
    owner: str | None
    assets: tuple[str, ...]

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Engine:
    """An engine process as it last reported. Times: seconds since 1970.

    id: random, of this process. name: of its host and device, which its successor shares.
    why: what is wrong, or what it waits for; may be empty. progress, eta (seconds): of loading; None while unknown.
    memory_used, memory_total: bytes of GPU memory, None without a GPU.
    """

    id: str
    name: str
    host: str
    pid: int
    device: str
    state: EngineState
    why: str
    heartbeat: float
    progress: float | None
    eta: float | None
    job: str | None
    started: float
    memory_used: int | None
    memory_total: int | None

    def seen(self, now: float, lost_after: float) -> Engine:
        """The engine at `now`, seconds since 1970: LOST if it has been silent for `lost_after` seconds."""
        age = now - self.heartbeat
        if self.state in ("FAILED", "LOST") or age < lost_after:
            return self
        return replace(self, state="LOST", why=f"silent for {age:.0f} s")


@dataclass(frozen=True)
class StageTime:
    """How long a stage of an attempt took. row: rises, so that readers can ask for later rows."""

    row: int
    job: str
    attempt: int
    stage: str
    seconds: float


@dataclass(frozen=True)
class Result:
    """A finished job. row: rises. seconds: from start to end, without the time in the queue."""

    row: int
    job: str
    kind: Kind
    outcome: JobOutcome | None
    score: float | None
    gaussians: int | None
    seconds: float


@dataclass(frozen=True)
class Tally:
    """A count that only rises. what: state, outcome, reason, finding, repair, webhook or death; label: which one."""

    what: str
    label: str
    count: int


@dataclass(frozen=True)
class Usage:
    """What one caller uses. waiting: queued jobs; recent: recently submitted jobs; bytes: size of its jobs' files."""

    waiting: int
    recent: int
    bytes: int


@dataclass(frozen=True)
class Stats:
    """queued, running: current numbers of jobs. oldest_queued: seconds that the oldest queued job has waited, or 0.

    medians: seconds by kind, of the last fifty jobs. tallies: since the database was created.
    """

    queued: int
    oldest_queued: float
    running: int
    medians: Mapping[Kind, float]
    tallies: tuple[Tally, ...]
    asset_bytes: int

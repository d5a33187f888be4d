"""Our tables, beside DBOS's in the same database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.gate import MetricValue
from app.jobs.records import Engine, Job
from app.reason import Reason
from app.stage import Stage

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(255), unique=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("format", sa.String(8), nullable=False, default="ply"),  # unused; databases of earlier releases need it
    sa.Column("profile", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("sequence", sa.BigInteger),  # rises with each request while jobs wait; NULL in rows of older releases
    sa.Column("source", sa.String(32)),
    sa.Column("size", sa.Integer),
    sa.Column("trellis", sa.JSON, default=dict),  # empty in an older release's rows
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.Text, nullable=False, default=""),
    sa.Column("fraction", sa.Float),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("deadline", sa.Float),
    sa.Column("outcome", sa.String(16)),
    sa.Column("reasons", sa.JSON, nullable=False, default=list),
    sa.Column("score", sa.Float),
    sa.Column("scores", sa.JSON, nullable=False, default=list),
    sa.Column("metrics", sa.JSON, default=dict),  # NULL in rows of older releases
    sa.Column("gaussians", sa.BigInteger),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("engine", sa.String(64)),  # the last one that claimed it, by name, and the id of its process:
    sa.Column("instance", sa.String(32)),
    sa.Column("crash_report", sa.Text),  # of that process, if it crashed
    sa.Column("version", sa.BigInteger, nullable=False, default=1),
    sa.Column("starred", sa.Boolean, default=False),  # kept by retention
    sa.Column("owner", sa.String(64)),  # the name of the caller's token; NULL in rows of older releases
    sa.Column("cancelled", sa.Boolean, nullable=False, default=False),  # requested; takes effect between stages
    sa.Column("starts", sa.Integer, nullable=False, default=0),  # engines that started it and did not end or release it
    sa.Index("jobs_queue", "state", "priority", "sequence"),
    sa.Index("jobs_prompt", "prompt"),
)

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("job", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("path", sa.String(128), nullable=False),  # relative to assets.url
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("modified", sa.Float, nullable=False),
    sa.Column("checked", sa.Float),  # when it was last read and compared with its sha256
    sa.Column("damaged", sa.Boolean),  # it is not served
)

engines = sa.Table(
    "engines",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # of one process
    sa.Column("name", sa.String(64)),  # of the device, shared by its later processes; NULL in rows of older releases
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("why", sa.Text, nullable=False, default=""),
    sa.Column("heartbeat", sa.Float, nullable=False),
    sa.Column(
        "beats", sa.BigInteger, nullable=False, default=0
    ),  # rises with each heartbeat, so that no clock has to be trusted
    sa.Column("progress", sa.Float),
    sa.Column("eta", sa.Float),
    sa.Column("job", sa.String(32)),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("memory_used", sa.BigInteger),
    sa.Column("memory_total", sa.BigInteger),
)

ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite increments only INTEGER keys

stage_times = sa.Table(
    "stage_times",
    metadata,
    sa.Column("row", ROW, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(32), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("row", ROW, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(32), nullable=False, unique=True),  # a job ends once
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("score", sa.Float),
    sa.Column("gaussians", sa.BigInteger),
    sa.Column("seconds", sa.Float, nullable=False),
)

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("what", sa.String(16), primary_key=True),
    sa.Column("label", sa.String(128), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
)

histograms = sa.Table(
    "histograms",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("label", sa.String(32), primary_key=True),
    sa.Column("bound", sa.String(16), primary_key=True),  # of the bucket; "+Inf" for the last
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("total", sa.Float, nullable=False),  # sum of the values in the bucket
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("job", sa.String(32), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due", sa.Float, nullable=False),  # when it is sent next, if its job has ended
)

info = sa.Table(
    "info",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""Facts about the database as a whole: its id, warnings to operators."""


def to_job(row: sa.RowMapping | dict[str, Any], names: tuple[str, ...]) -> Job:
    hidden = {"key", "digest", "cancelled", "starts", "format", "instance", "crash_report"}
    values = {name: value for name, value in row.items() if name not in hidden}
    stage = row["stage"] if row["stage"] in {*Stage} else ""  # rows of older releases contain a log line
    reasons = [Reason.from_stored(reason) for reason in row["reasons"]]
    shown = {"reasons": tuple(map(str, reasons)), "reason_codes": tuple(reason.code for reason in reasons)}
    metrics = {name: MetricValue(**each) for name, each in (row["metrics"] or {}).items()}
    lists = shown | {
        "scores": tuple(row["scores"]),
        "metrics": metrics,
        "trellis": row["trellis"] or {},
        "assets": names,
        "starred": bool(row["starred"]),
    }
    return Job(**values | lists | {"stage": stage and Stage(stage)})


def to_engine(row: sa.RowMapping) -> Engine:
    values = {name: value for name, value in row.items() if name != "beats"}
    return Engine(**values | {"name": row["name"] or row["id"]})

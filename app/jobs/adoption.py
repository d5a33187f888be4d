"""Adds results that the database does not know, from the certificates stored beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from app.certificate import Certificate
from app.errors import BadFile
from app.jobs.assets import Assets, Stored
from app.jobs.orphans import made
from app.jobs.records import JobRequest
from app.jobs.store import Store
from app.jobs.tables import assets, jobs

CERTIFICATE = "certificate.json"

ATTEMPT = re.compile(r"(\d+)(?:\.(\d+))?")
"""The name of a result's folder: the attempt and, except in older releases, the number of the claim."""


@dataclass(frozen=True)
class Result:
    """A finished result in the asset store. files: all files in its folder."""

    job: str
    attempt: int
    certificate: Certificate
    files: tuple[Stored, ...]


def find_result(store: Assets, job: str) -> Result | None:
    """The result of a job's last attempt that has a certificate; None without a certificate.

    Raises BadFile if the certificate cannot be read, or does not match the files beside it.
    """
    folders = filter(None, map(ATTEMPT.fullmatch, store.names(job)))
    for attempt in sorted(folders, key=_rank, reverse=True):
        path = f"{job}/{attempt[0]}"
        names = store.names(path)
        if CERTIFICATE in names:
            files = tuple(store.describe(f"{path}/{name}", name) for name in sorted(names))
            return Result(job, int(attempt[1]), _certificate(store, path, files), files)
    return None


def _rank(attempt: re.Match[str]) -> tuple[int, int]:
    return int(attempt[1]), int(attempt[2] or 0)


def adopt(store: Store, result: Result) -> None:
    """Adds the job of a result and its files to the database. Raises DatabaseDown."""
    with store.writing() as connection:
        connection.execute(sa.insert(jobs).values(**_row(result)))
        rows = [{"job": result.job, "modified": made(result.job), **vars(file)} for file in result.files]
        connection.execute(sa.insert(assets), rows)


def _certificate(store: Assets, path: str, files: tuple[Stored, ...]) -> Certificate:
    try:
        certificate = Certificate.model_validate_json(store.read(f"{path}/{CERTIFICATE}"))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise BadFile(f"{path}/{CERTIFICATE}: {place}: {problem['msg']}") from None
    found = {file.name: file.sha256 for file in files}
    for asset in certificate.assets:
        if found.get(asset.name) != asset.sha256:
            raise BadFile(f"{path}/{asset.name}: is missing, or is not the file that the certificate describes")
    return certificate


def _row(result: Result) -> dict[str, Any]:
    issued = result.certificate
    finished = datetime.fromisoformat(issued.created).timestamp()
    request = JobRequest(prompt=issued.prompt, seed=issued.seed, attempts=result.attempt)
    return {
        "id": result.job,
        "digest": request.digest(),
        "kind": request.kind,
        "prompt": issued.prompt,
        "seed": issued.seed,
        "attempts": result.attempt,
        "profile": issued.profile,
        "priority": request.priority,
        "state": "DONE",
        "fraction": 1.0,
        "attempt": result.attempt,
        "created": made(result.job),
        "started": finished,
        "finished": finished,
        "outcome": issued.verdict.outcome,
        "reasons": [reason.to_dict() for reason in issued.verdict.to_reasons()],
        "score": issued.score,
        "scores": next((list(metric.per_view) for metric in issued.metrics), []),
        "metrics": {each.name: {"value": each.value, "threshold": each.threshold} for each in issued.metrics},
        "gaussians": issued.gaussians,
    }

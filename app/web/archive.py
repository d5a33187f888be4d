"""/v1/archive: files of several jobs as one ZIP, written while it is sent."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator

from flask import Response
from flask_openapi3 import APIBlueprint, Tag

from app.errors import NotFound
from app.jobs.records import Job
from app.web.assets import CHUNK, download_name
from app.web.caller_jobs import CallerJobs
from app.web.context import current_jobs
from app.web.models import ArchiveQuery
from app.web.problems import described

archive = APIBlueprint("archive", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=described())

ZIP = {"description": "The ZIP.", "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}


@archive.get("/archive", responses={200: ZIP})
def download(query: ArchiveQuery) -> Response:
    """Download a file of each of several jobs as one ZIP. Jobs without such a file are omitted."""
    jobs = current_jobs()
    members = _members([jobs.get(id) for id in dict.fromkeys(query.id)], query.name)
    if not members:
        raise NotFound(f"none of these jobs has a file {query.name}")
    answer = Response(_stream(jobs, members, query.name), mimetype="application/zip")
    answer.headers["Content-Disposition"] = 'attachment; filename="splats.zip"'
    return answer


def _members(found: list[Job], name: str) -> dict[str, Job]:
    """The jobs that have this file, by the unique name of their member."""
    members: dict[str, Job] = {}
    for job in found:
        if name in job.assets:
            member = download_name(job, name)
            members[member if member not in members else f"{job.id}-{member}"] = job
    return members


def _stream(jobs: CallerJobs, members: dict[str, Job], name: str) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as target:  # splats hardly compress
        for member, job in members.items():
            finished = time.gmtime(job.finished or job.created)[:6]
            with jobs.open_asset(job.id, name).stream as source:
                info = zipfile.ZipInfo(member, finished)
                with target.open(info, "w", force_zip64=True) as entry:
                    while chunk := source.read(CHUNK):
                        entry.write(chunk)
                        yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """Collects what zipfile writes. It is not seekable, so zipfile writes sizes after the data."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken

"""A stored file as a response: ranges, ETag (its SHA-256), If-None-Match, and a descriptive file name."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

from flask import Response, request
from werkzeug.wsgi import FileWrapper

from app.jobs.assets import Asset
from app.jobs.records import Job
from app.web.models import ASSETS

CHUNK = 1 << 20
"""Bytes read and sent at a time."""

SLUG_LENGTH = 60


def file_answer(asset: Asset, job: Job) -> Response:
    """The file, the requested ranges, or 304 if the caller has it. Raises 416 for a range outside the file."""
    response = Response(FileWrapper(asset.stream, CHUNK), mimetype=ASSETS[asset.name], direct_passthrough=True)
    response.content_length = asset.size
    response.last_modified = datetime.fromtimestamp(asset.modified, UTC)
    response.set_etag(asset.sha256)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    response.headers["Content-Disposition"] = f'inline; filename="{download_name(job, asset.name)}"'
    try:
        response.make_conditional(request.environ, accept_ranges=True, complete_length=asset.size)
    except Exception:
        asset.stream.close()
        raise
    if response.status_code == 304 or request.method == "HEAD":
        asset.stream.close()  # nothing iterates over the response, so nothing else would close it
        response.response = []
    return response


def download_name(job: Job, name: str) -> str:
    """The name to save a file under: a-blue-rocket-seed1.ply for asset.ply, a-blue-rocket-seed1-views.png for the rest.

    The id of the job replaces a prompt without ASCII letters or digits.
    """
    ascii_prompt = unicodedata.normalize("NFKD", job.prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_prompt)[:SLUG_LENGTH].strip("-") or f"splat-{job.id[:12]}"
    stem, _, suffix = name.rpartition(".")
    part = "" if stem == "asset" else f"-{stem}"
    return f"{slug}-seed{job.seed}{part}.{suffix}"

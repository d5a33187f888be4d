"""A stored file as an answer: ranges, ETag (its sha256), If-None-Match."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Response, request
from werkzeug.wsgi import FileWrapper

from app.jobs.assets import Asset
from app.web.models import ASSETS

PIECE = 1 << 20
"""Bytes that are read and sent at once."""


def file_answer(asset: Asset, job: str) -> Response:
    """The file, or the ranges asked for, or 304 where the caller has it. Raises 416 for a range that is not there."""
    response = Response(FileWrapper(asset.stream, PIECE), mimetype=ASSETS[asset.name], direct_passthrough=True)
    response.content_length = asset.size
    response.last_modified = datetime.fromtimestamp(asset.modified, UTC)
    response.set_etag(asset.sha256)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    stem, _, suffix = asset.name.rpartition(".")
    response.headers["Content-Disposition"] = f'inline; filename="{stem}-{job}.{suffix}"'
    try:
        response.make_conditional(request.environ, accept_ranges=True, complete_length=asset.size)
    except Exception:
        asset.stream.close()
        raise
    if response.status_code == 304 or request.method == "HEAD":
        asset.stream.close()  # nothing will iterate over it, and so nothing would close it
        response.response = []
    return response

"""Checks of what a caller sends, before a job is made of it: prompts, pictures, splats, query parameters."""

from __future__ import annotations

from typing import cast

from flask import current_app, request
from flask_openapi3 import OpenAPI

from app.config import Config
from app.encoded_picture import decode, find
from app.errors import BadInput
from app.generators import check_takes_pictures
from app.jobs.job_request import PICTURES
from app.prompt import check_prompt
from app.web.context import current_decoder
from app.web.limits import acquire_upload_slot


def validate_query() -> None:
    """Raises BadInput for a query parameter that the schema does not list for this path and method."""
    if not request.args or request.url_rule is None:
        return
    path = request.url_rule.rule.replace("<", "{").replace(">", "}")
    operation = cast(OpenAPI, current_app).api_doc["paths"].get(path, {}).get(request.method.lower())
    if operation is None:
        return  # the page, /metrics: nothing reads their query
    known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    unknown = [name for name in request.args if name not in known]
    if unknown:
        listed = f"it takes {', '.join(known)}" if known else "it takes none"
        raise BadInput(f"unknown query parameter {unknown[0][:64]!r} for {request.method} {path}: {listed}")


def validate_prompt(prompt: str, config: Config) -> None:
    """Raises BadPrompt if the profile cannot generate this prompt."""
    check_prompt(prompt, config.limits)
    config.profile.generator.check(prompt)


def validate_splat(data: bytes, config: Config) -> None:
    """Raises BadFile if the bytes are not a splat, exceed a limit, or no Gaussian has a usable position; TooBusy if too
    many uploads are being read."""
    acquire_upload_slot(config.limits)
    current_decoder().check_splat(data, "the splat")


def decode_picture(text: str, config: Config) -> bytes:
    """The bytes of a PNG or JPEG in base64 or a data URL. Raises BadInput, BadFile, TooBusy."""
    found = find(text)
    if found and found.around:
        raise BadInput(f"there is text around the picture ({found.around[:64]!r}): send its base64 alone, or the file")
    data = found.decode() if found else decode(text)
    validate_picture(data, config)
    return data


def validate_picture(data: bytes, config: Config) -> None:
    """Raises BadInput if the profile takes no pictures, BadFile if the bytes are no PNG or JPEG or exceed a limit;
    TooBusy if too many uploads are being read."""
    check_takes_pictures(config.profile.generator)
    acquire_upload_slot(config.limits)
    current_decoder().check_picture(data, tuple(PICTURES))  # refuse now what the engine would refuse later

"""/openapi.json, generated from the code, and /docs, its HTML version without scripts or other hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

from flask import Response, current_app, jsonify, render_template, request
from flask_openapi3 import APIBlueprint, OpenAPI

from app import errors
from app.splat import formats
from app.web.auth import is_open
from app.web.context import current_config
from app.web.pages import TEXT_POLICY

EXAMPLES: dict[str, Any] = {
    "NewJob": {"prompt": "a blue rocket", "seed": 1},
    "JobChange": {"starred": True},
    "": [{"text": "a line of the log"}],
}
"""Example bodies of requests, by model; "" for a list."""

docs = APIBlueprint("docs", __name__, doc_ui=False)


@docs.get("/openapi.json")
def schema() -> Response:
    return jsonify(_schema())


@docs.get("/docs")
def page() -> Response:
    answer = Response(render_template("docs.html", api=_schema(), operations=list(_operations()), errors=_errors()))
    answer.headers["Content-Security-Policy"] = TEXT_POLICY
    return answer


def _schema() -> dict[str, Any]:
    """The schema, with the endpoints marked that need a token."""
    document: dict[str, Any] = deepcopy(cast(OpenAPI, current_app).api_doc)
    if current_config().auth.tokens_file:
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if is_open(path, current_config().auth) else [{"token": []}]
    return document


def _operations() -> Iterator[dict[str, Any]]:
    """Every operation with its method and path, in the order of the schema."""
    for path, methods in _schema()["paths"].items():
        for method, operation in methods.items():
            yield {"method": method.upper(), "path": path, "curl": _curl(method, path, operation), **operation}


def _curl(method: str, path: str, operation: dict[str, Any]) -> str:
    """A curl command for the operation, with an example for each required value."""
    words = ["curl"]
    if operation.get("security"):
        words.append("-H 'Authorization: Bearer TOKEN'")
    content = operation.get("requestBody", {}).get("content", {})
    if method not in ("get", "post") or (method == "post" and not content):
        words.append(f"-X {method.upper()}")
    if "multipart/form-data" in content:
        words += _form_fields(content["multipart/form-data"]["schema"])
    elif "application/json" in content:
        model = content["application/json"]["schema"]
        example = json.dumps(EXAMPLES[model.get("$ref", "").rpartition("/")[2]])
        words += ["-H 'Content-Type: application/json'", f"-d '{example}'"]
    address = request.host_url.rstrip("/") + path.replace("{id}", "ID").replace("{name}", formats.main_asset())
    query = [each for each in operation.get("parameters", ()) if each["in"] == "query" and each.get("required")]
    return " ".join([*words, address + "".join(f"?{each['name']}=ID" for each in query)])


def _form_fields(schema: dict[str, Any]) -> Iterator[str]:
    for name in schema.get("required") or schema["anyOf"][0]["required"]:
        binary = schema["properties"][name].get("format") == "binary"
        yield f"-F {name}=@{formats.main_asset()}" if binary else f'-F {name}="a blue rocket"'


def _errors() -> list[tuple[str, str]]:
    """Name and meaning of every SplatgateError."""
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SplatgateError)
    ]
    return [(kind.__name__, f"{kind.status}: {(kind.__doc__ or '').splitlines()[0]}") for kind in kinds]

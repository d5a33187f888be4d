"""/openapi.json, made from the code, and /docs, the same for people: no script, nothing from other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

from flask import Response, current_app, jsonify, render_template
from flask_openapi3 import APIBlueprint, OpenAPI

from app import errors
from app.web.auth import is_open
from app.web.context import current_config

docs = APIBlueprint("docs", __name__, doc_ui=False)

POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


@docs.get("/openapi.json")
def schema() -> Response:
    return jsonify(_schema())


@docs.get("/docs")
def page() -> Response:
    answer = Response(render_template("docs.html", api=_schema(), operations=list(_operations()), errors=_errors()))
    answer.headers["Content-Security-Policy"] = POLICY
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
            yield {"method": method.upper(), "path": path, **operation}


def _errors() -> list[tuple[str, str]]:
    """Name and meaning of every SplatgateError."""
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.SplatgateError)
    ]
    return [(kind.__name__, f"{kind.status}: {(kind.__doc__ or '').splitlines()[0]}") for kind in kinds]

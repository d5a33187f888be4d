"""The HTTP interface: it answers whatever the state of the engines, and never loads a model.

This package does not know how a splat is generated or judged; it only knows `app.jobs.client`.
"""

from __future__ import annotations

from typing import Any

from flask_openapi3 import Info, OpenAPI, SecurityScheme
from werkzeug.routing import BaseConverter

from app import __version__
from app.config import Config
from app.jobs.client import Jobs
from app.web import access, auth, context, headers, limits, metrics, problems
from app.web.api import api
from app.web.archive import archive
from app.web.docs import docs
from app.web.feedback import feedback
from app.web.health import health
from app.web.pages import pages
from app.web.request_validation import validate_query
from app.web.splats import splats
from app.web.worker import worker

SECURITY: dict[str, SecurityScheme | dict[str, Any]] = {"token": {"type": "http", "scheme": "bearer"}}


class FileName(BaseConverter):
    """The name of a file in a URL. It must have a dot, which tells files from actions such as /v1/jobs/ID/cancel."""

    regex = r"[^/]+\.[^/]+"


def create_app(config: Config, jobs: Jobs) -> OpenAPI:
    """The WSGI application. Raises ConfigError if the tokens cannot be read."""
    app = OpenAPI(
        "app.web",
        info=Info(title="Splatgate", version=__version__, description="Text to judged 3D Gaussian splats."),
        security_schemes=SECURITY,
        doc_ui=False,
        validation_error_model=problems.Problem,
        validation_error_callback=problems.wrong_fields,
        static_folder=None,  # the page has its own
    )
    app.url_map.converters["file"] = FileName
    context.attach(app, config, jobs)
    access.log_requests(app)
    auth.guard(app, config)
    limits.limit(app, config.limits)
    app.before_request(validate_query)
    headers.secure(app)
    problems.answer_errors(app)
    metrics.serve_metrics(app, jobs)
    for blueprint in (health, worker, api, archive, splats, feedback, docs):
        app.register_api(blueprint)
    app.register_blueprint(pages)
    return app

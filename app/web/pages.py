"""The page: one HTML document and the files that it loads. Everything it shows comes from /v1.

Nothing is loaded from another host, nothing is inline, and only the WebAssembly of the viewer is evaluated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request

from app import __version__
from app.bounds import ATTEMPTS, SEED
from app.config import Config
from app.web.context import current_config

VIEWER = Path(__file__).parent / "static" / "vendor" / "spark.js"
"""Where scripts/page puts the viewer."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # the viewer decodes and sorts in WebAssembly; text is never evaluated
        "worker-src blob:",  # its worker and
        "connect-src 'self' data:",  # its WebAssembly are contained in its file; a data: address reaches no host
        "style-src 'self'",
        "img-src 'self' blob:",  # the preview of a picture that the user chose
        "media-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

TEXT_POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Of pages without scripts and pictures."""

pages = Blueprint("pages", __name__, template_folder="templates", static_folder="static", static_url_path="/static")


@dataclass(frozen=True)
class Judging:
    """How the judged views were drawn. views: in the order of the pictures in views.png; see RenderConfig."""

    views: tuple[dict[str, Any], ...]
    size: int
    radius: float
    fov: float
    placement: str
    extent: float


@dataclass(frozen=True)
class Settings:
    """What the page needs to know of the configuration."""

    version: str
    profile: str
    stand_in: str
    takes_pictures: bool
    validation: bool
    viewer: bool
    threshold: float
    min_gaussians: int
    judging: Judging
    attempts: int
    max_seed: int
    max_attempts: int
    max_prompt: int


def settings_of(config: Config) -> Settings:
    render, generator = config.render, config.profile.generator
    views = tuple(view.model_dump() for view in render.views)
    return Settings(
        version=__version__,
        profile=config.profile.name,
        stand_in=generator.stand_in,
        takes_pictures=generator.takes_pictures,
        validation=config.validation.enabled,
        viewer=VIEWER.is_file(),
        threshold=config.validation.threshold,
        min_gaussians=config.validation.min_gaussians,
        judging=Judging(views, render.size, render.radius, render.fov, render.placement, render.extent),
        attempts=config.generate.attempts,
        max_seed=int(SEED.high),
        max_attempts=int(ATTEMPTS.high),
        max_prompt=config.limits.max_prompt_characters,
    )


def missing_page() -> Response:
    """The page for an address that does not exist."""
    answer = make_response(render_template("missing.html", path=request.path), 404)
    answer.headers["Content-Security-Policy"] = TEXT_POLICY
    return answer


@pages.get("/")
def page() -> Response:
    config = current_config()
    html = render_template(
        "page.html", settings=asdict(settings_of(config)), examples=config.profile.generator.examples
    )
    answer = make_response(html)
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Cache-Control"] = "no-store"  # it holds settings, which change with a restart
    return answer

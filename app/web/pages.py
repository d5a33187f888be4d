"""The page: one HTML document, and the files it loads. All that it shows it asks of /v1, in the browser.

Nothing comes from another host, nothing is inline, and nothing is evaluated but the viewer's WebAssembly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from flask import Blueprint, Response, make_response, render_template

from app import __version__
from app.bounds import ATTEMPTS, SEED
from app.config import Config
from app.web.context import current_config

VIEWER = Path(__file__).parent / "static" / "vendor" / "gsplat.js"
"""Where scripts/page puts the splat viewer."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # the viewer packs and sorts in WebAssembly; no eval of text
        "worker-src blob:",  # its workers are part of its one file
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

pages = Blueprint("pages", __name__, template_folder="templates", static_folder="static", static_url_path="/static")


@dataclass(frozen=True)
class Settings:
    """What the page must know of the configuration. views: their names, in the order of the pictures in views.png."""

    version: str
    profile: str
    stand_in: str
    validation: bool
    viewer: bool
    threshold: float
    min_gaussians: int
    views: tuple[str, ...]
    seed: int
    attempts: int
    max_seed: int
    max_attempts: int
    max_prompt: int


def settings_of(config: Config) -> Settings:
    return Settings(
        version=__version__,
        profile=config.profile.name,
        stand_in=config.profile.generator.stand_in,
        validation=config.validation.enabled,
        viewer=VIEWER.is_file(),
        threshold=config.validation.threshold,
        min_gaussians=config.validation.min_gaussians,
        views=tuple(view.name for view in config.render.views),
        seed=config.generate.seed,
        attempts=config.generate.attempts,
        max_seed=int(SEED.high),
        max_attempts=int(ATTEMPTS.high),
        max_prompt=config.limits.max_prompt_characters,
    )


@pages.get("/")
def page() -> Response:
    answer = make_response(render_template("page.html", settings=asdict(settings_of(current_config()))))
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Cache-Control"] = "no-store"  # it holds settings, which change with a restart
    return answer

"""Security headers on every answer. A view that needs a weaker policy sets its own."""

from __future__ import annotations

from flask import Flask, Response

STRICTEST = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

DEFAULTS = {
    "Content-Security-Policy": STRICTEST,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def secure(app: Flask) -> None:
    app.after_request(_add)


def _add(answer: Response) -> Response:
    for name, value in DEFAULTS.items():
        answer.headers.setdefault(name, value)
    return answer

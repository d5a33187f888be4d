"""The HTTP client of the commands that talk to a running service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from app.address import is_loopback
from app.errors import BadInput, SplatgateError, Unavailable

TIMEOUT = 5.0
"""Seconds to connect, and between two bytes of the answer."""

MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. body: parsed JSON, or the beginning of the text if it is not JSON."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Client:
    """Requests to the service at `url`, such as http://127.0.0.1:10010. token: empty if it needs none."""

    url: str
    token: str = ""

    def request(self, path: str, query: dict[str, Any] | None = None, method: str = "GET") -> Answer:
        """Sends a request. Raises Unavailable if there is no HTTP answer."""
        text = f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with self._opener().open(Request(text, headers=headers, method=method), timeout=TIMEOUT) as response:
                return Answer(response.status, _parsed(response.read(MAX_BYTES)))
        except HTTPError as error:
            return Answer(error.code, _parsed(error.read(MAX_BYTES)))
        except HTTPException as error:
            why = f"the answer is not HTTP ({type(error).__name__}); does another program use the port?"
            raise Unavailable(f"{self.url}: {why}") from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise Unavailable(f"{self.url}: no answer: {reason}; is splatgate serve running?") from None

    def json(self, path: str, query: dict[str, Any] | None = None, method: str = "GET") -> dict[str, Any]:
        """The JSON document of the answer. Raises BadInput or SplatgateError with the service's error message."""
        answer = self.request(path, query, method)
        if answer.ok and isinstance(answer.body, dict):
            return answer.body
        detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
        if answer.status == 401:
            detail = f"{detail or 'a token is needed'}; set SPLATGATE_TOKEN"
        kind = BadInput if 400 <= answer.status < 500 else SplatgateError
        raise kind(f"{self.url}: {detail or f'unexpected answer {answer.status}; is it a Splatgate service?'}")

    def _opener(self) -> OpenerDirector:
        """An opener that bypasses the proxy for this machine."""
        return build_opener(ProxyHandler({})) if is_loopback(urlsplit(self.url).hostname or "") else build_opener()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")

"""/livez and /readyz: whether to restart the container, and whether to send it work."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel

from app.child import supervisor_alive
from app.errors import SplatgateError, StorageDown, Unavailable
from app.jobs.facts import read_warnings
from app.jobs.heartbeats import DEAD
from app.jobs.records import SERVING, Engine
from app.web.context import all_jobs
from app.web.models import EngineView, Readiness, json_answer
from app.web.problems import described

health = APIBlueprint("health", __name__, abp_tags=[Tag(name="health")], abp_responses=described())


class Life(BaseModel):
    alive: bool


@health.get("/livez", responses={200: Life})
def livez() -> Response:
    """200 while this process responds and the supervisor, if there is one, is alive."""
    if not supervisor_alive():
        raise Unavailable("the supervisor is gone: nothing restarts the engines; restart the service")
    return json_answer(Life(alive=True))


@health.get("/readyz", responses={200: Readiness, 503: Readiness})
def readyz() -> Response:
    """200 if an engine has passed its self-test and files can be stored; else 503 with the reason.

    The reason is given for each engine, unless it is the same for all. A restart does not help while engines load or
    wait for models, while a disk is full, or while the database is down.
    """
    engines: list[Engine] = []
    warnings: tuple[str, ...] = ()
    why = outside = _storage_problem()
    try:
        engines = all_jobs().engines()
        warnings = tuple(read_warnings(all_jobs().store).values())
    except SplatgateError as error:
        why = outside = why or str(error)
    ready = not why and any(engine.state in SERVING for engine in engines)
    if not (ready or why):
        why = "; ".join(_in_words(engine) for engine in engines) or "no engine has reported yet"
    helps = not (ready or outside) and all(engine.state in DEAD for engine in engines)
    views = tuple(EngineView(engine) for engine in engines)
    answer = Readiness(ready=ready, why=why, restart_helps=helps, warnings=warnings, engines=views)
    return json_answer(answer, 200 if ready else 503)


def _storage_problem() -> str:
    try:
        all_jobs().check_storage()
    except StorageDown as error:
        return str(error)
    return ""


def _in_words(engine: Engine) -> str:
    left = "" if engine.eta is None else f", about {engine.eta:.0f} s left"
    return f"{engine.name} is {engine.state}{': ' * bool(engine.why)}{engine.why}{left}"

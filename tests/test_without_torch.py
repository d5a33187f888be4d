"""The supervisor and the web process never load torch, nor anything else that is slow to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "numba", "scipy", "open_clip", "transformers", "diffusers", "app.pipeline"}

WEB = """
import io, json, sys
import numpy as np
import app.web.server
from app.config import Config
from app.jobs.client import Jobs
from app.splat.model import Splat
from app.splat.ply import encode_ply
from app.web import create_app

settings = {"serve": {"data": sys.argv[1]}, "worker": {"wait_seconds": 0.1}}
jobs = Jobs(Config.model_validate(settings))
app = create_app(Config.model_validate(settings), jobs)
client, statuses = app.test_client(), {}
ones = np.ones((40, 4), np.float32)
ply = encode_ply(Splat(ones[:, :3], ones, ones[:, :3], ones[:, 0], ones[:, None, :3]))
id = client.post("/v1/jobs", json={"prompt": "a blue rocket"}).json["id"]
for rule in app.url_map.iter_rules():
    path = rule.rule.replace("<id>", id).replace("<name>", "asset.ply").replace("<path:filename>", "page.js")
    for method in rule.methods & {"GET", "POST"} if not path.endswith("/events") else ():
        body = {"data": {"prompt": "a red mug", "splat": (io.BytesIO(ply), "a.ply")}} if method == "POST" else {}
        if path == "/v1/jobs":
            body = {"json": {"prompt": "a red mug"}} if method == "POST" else {}
        statuses[f"{method} {path}"] = client.open(path, method=method, buffered=True, **body).status_code
jobs.close()
print(json.dumps([sorted(sys.modules), statuses]))
"""
"""Builds the app of the web process and sends a request to every route."""

SUPERVISOR = """
import json, sys
import app.serve, app.commands.serve
print(json.dumps([sorted(sys.modules), {}]))
"""


@pytest.mark.parametrize("program", [WEB, SUPERVISOR], ids=["web", "supervisor"])
def test_a_process_without_a_gpu_never_loads_torch(program: str, tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    modules, statuses = json.loads(ran.stdout.splitlines()[-1])
    assert HEAVY & set(modules) == set()
    if program is WEB:  # the jobs were taken: they wait for an engine, and their callers have waited long enough
        assert {statuses[f"POST {path}"] for path in ("/generate/", "/v1/validate", "/v1/repair")} == {504}

"""Image, compose files, systemd units and monitoring agree with the code and with each other."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import tomli

from app.config import ENV_PREFIX, Config, load_config
from app.jobs.client import Jobs
from app.web import create_app

ROOT = Path(__file__).parent.parent
COMPOSE_FILES = [ROOT / "compose.yaml", *sorted((ROOT / "compose").glob("*.yaml"))]
CLUSTER = {
    "SPLATGATE_DATABASE_URL": "postgresql://splatgate:word@10.0.0.1/splatgate",
    "SPLATGATE_ASSETS_URL": "s3://bucket/splatgate",
    "SPLATGATE_DATABASE_ADDRESS": "10.0.0.1",
    "SPLATGATE_DATABASE_PASSWORD": "word",
    "AWS_SECRET_ACCESS_KEY": "key",
}
Done = subprocess.CompletedProcess[str]

UNITS = sorted(path.name for path in (ROOT / "systemd").glob("splatgate*"))
EXPOSURE = 2.0
"""systemd-analyze security's figure for our units: 0 is best, 10 is a unit without any protection."""


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: str | Path) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def compose(*names: str, settings: dict[str, str], options: tuple[str, ...] = ("--quiet",)) -> Done:
    """`docker compose config` of compose.yaml with these files over it; skips where there is no docker compose."""
    docker = tool("docker")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    if subprocess.run([docker, "compose", "version"], env=kept, capture_output=True).returncode:
        pytest.skip("docker has no compose plugin")
    files = [ROOT / "compose.yaml", *(ROOT / f"compose/{name}.yaml" for name in names)]
    words = [docker, "compose", *(word for file in files for word in ("--file", str(file))), "config", *options]
    return subprocess.run(words, env=kept | settings, capture_output=True, text=True)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names that a fresh service offers to a scraper."""
    config = Config.model_validate({"serve": {"data": str(tmp_path_factory.mktemp("data"))}})
    jobs = Jobs(config)
    text = create_app(config, jobs).test_client().get("/metrics").text
    jobs.close()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    parts = {
        f"{name}{end}" for name, kind in kinds.items() if kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    return set(kinds) | parts


def test_dashboard_and_alerts_ask_for_metrics_that_exist(metrics: set[str]) -> None:
    board = json.loads((ROOT / "compose/monitoring/grafana/dashboards/splatgate.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += re.findall(r"expr: (.*(?:\n {10,}.*)*)", (ROOT / "compose/monitoring/rules.yml").read_text())
    names = {name for expression in asked for name in re.findall(r"splatgate_\w+", expression)}
    assert len(names) > 10
    assert names - metrics == set()


def test_the_alert_rules_fire_when_they_should() -> None:
    run(tool("promtool"), "test", "rules", ROOT / "compose/monitoring/rules.test.yml")


def test_compose_files_are_what_the_specification_allows(tmp_path: Path) -> None:
    """Drops YAML tags, which the schema does not know: `!reset` is an instruction to Compose."""
    for file in COMPOSE_FILES:
        (tmp_path / file.name).write_text(file.read_text().replace("!reset ", ""))
    copies = [tmp_path / file.name for file in COMPOSE_FILES]
    check = Path(sys.executable).with_name("check-jsonschema")
    run(check, "--builtin-schema", "vendor.compose-spec", *copies)
    (tmp_path / "compose.yaml").write_text("services:\n  app:\n    restrat: always\n")
    with pytest.raises(AssertionError, match="restrat"):
        run(check, "--builtin-schema", "vendor.compose-spec", *copies)


@pytest.mark.parametrize("role", [("cluster",), ("cluster", "cpu"), ("head",), ("head", "cpu"), ("head", "postgres")])
def test_a_cluster_host_is_configured_by_its_compose_files(role: tuple[str, ...]) -> None:
    merged = json.loads(compose(*role, settings=CLUSTER, options=("--format", "json")).stdout)["services"]
    app, environ = merged["app"], merged["app"]["environment"]
    assert environ["SPLATGATE__DATABASE__URL"] == CLUSTER["SPLATGATE_DATABASE_URL"]
    assert environ["SPLATGATE__ASSETS__URL"] == CLUSTER["SPLATGATE_ASSETS_URL"]
    assert environ["AWS_SECRET_ACCESS_KEY"] == CLUSTER["AWS_SECRET_ACCESS_KEY"]
    assert environ["AWS_ENDPOINT_URL"] is None, "what is not set is not set to nothing either"
    assert environ.get("SPLATGATE__SERVE__WEB") == ("false" if "cluster" in role else None)
    assert [port["host_ip"] for port in app.get("ports", [])] == ([] if "cluster" in role else ["127.0.0.1"])
    assert "devices" in app["deploy"]["resources"].get("reservations", {}) or "cpu" in role
    if "postgres" in role:
        assert [port["host_ip"] for port in merged["postgres"]["ports"]] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        (("cluster",), "SPLATGATE_DATABASE_URL"),
        (("cluster",), "SPLATGATE_ASSETS_URL"),
        (("head",), "SPLATGATE_DATABASE_URL"),
        (("head",), "SPLATGATE_ASSETS_URL"),
        (("head", "postgres"), "SPLATGATE_DATABASE_PASSWORD"),
        (("head", "postgres"), "SPLATGATE_DATABASE_ADDRESS"),
    ],
)
def test_a_missing_setting_of_a_cluster_host_is_named(role: tuple[str, ...], missing: str) -> None:
    asked = compose(*role, settings={name: value for name, value in CLUSTER.items() if name != missing})
    assert asked.returncode != 0
    assert f"{missing} is missing a value: set it in .env to the" in asked.stderr


def test_every_cluster_host_gets_the_same_settings() -> None:
    head, engines = (
        set(re.findall(r"^ {6}([A-Z_]+):", (ROOT / f"compose/{name}.yaml").read_text(), re.MULTILINE))
        for name in ("head", "cluster")
    )
    assert engines - head == {"SPLATGATE__SERVE__WEB"}
    assert head < engines


@pytest.mark.parametrize(
    "file", ["Dockerfile", "compose.yaml", "compose/cpu.yaml", "compose/cluster.yaml", "compose/head.yaml"]
)
def test_settings_of_the_container_are_settings_of_ours(file: str) -> None:
    text = (ROOT / file).read_text()
    keys = set(re.findall(rf"\b({ENV_PREFIX}\w+)\s*[:=]", text))
    assert keys
    tree = Config().model_dump(by_alias=True)
    for key in keys:
        section, name = key.removeprefix(ENV_PREFIX).lower().split("__")
        assert name in tree[section], f"{file}: {key}"


def test_a_port_published_on_another_address_asks_for_tokens() -> None:
    environ = {"SPLATGATE__SERVE__PUBLISHED_ON": "0.0.0.0", "SPLATGATE__SERVE__HOST": "0.0.0.0"}
    from app.web.server import listen_address

    assert listen_address(load_config(ROOT / "config.toml", environ)) == "127.0.0.1:10010"
    environ["SPLATGATE__SERVE__PUBLISHED_ON"] = "127.0.0.1"
    assert listen_address(load_config(ROOT / "config.toml", environ)) == "0.0.0.0:10010"


def test_the_image_has_the_versions_that_are_tested() -> None:
    ours, image = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / "scripts" / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "image.lock")
    )
    names, in_image = ({pin.partition("==")[0] for pin in pins} for pins in (ours, image))
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in ("gpu", "s3") for line in project["optional-dependencies"][extra]]
    wanted = {re.split(r"[<>=\[]", line)[0] for line in extras}
    assert wanted <= in_image, "what a GPU and an object store need belongs into the image"
    assert not {pin for pin in image - ours if pin.partition("==")[0] in names}, "the same package in two versions"


def test_the_first_try_installs_the_tested_versions_without_test_tools() -> None:
    ours, tried = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / "scripts" / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "try.lock")
    )
    assert tried < ours
    assert not {"pytest", "playwright", "mypy", "moto"} & {pin.partition("==")[0] for pin in tried}


@pytest.mark.parametrize("unit", [name for name in UNITS if name.endswith(".service")])
def test_units_are_valid_and_sandboxed(unit: str, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for name in UNITS:
        text = (ROOT / "systemd" / name).read_text().replace("@FOLDER@", str(ROOT)).replace("@FILES@", "compose.yaml")
        (tmp_path / name).write_text(text.replace("/usr/bin/docker", "/bin/true"))
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert run(analyze, "verify", tmp_path / unit) == ""
    threshold = f"--threshold={EXPOSURE * 10:.0f}"
    run(analyze, "security", "--offline=true", threshold, tmp_path / unit)


def watch_health(folder: Path, docker: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the watcher until it ends, with a stand-in for docker: a shell script with a case for each subcommand."""
    (folder / "docker").write_text(f'#!/bin/sh\necho "$@" >> "$LOG"\ncase "$1" in\n{docker}\nesac\n')
    (folder / "docker").chmod(0o755)
    environ |= {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(folder / "log")}
    return subprocess.run([ROOT / "systemd/watch-health"], env=environ, capture_output=True, text=True, timeout=60)


def test_the_health_watcher_keeps_to_its_limit(tmp_path: Path) -> None:
    """A container that keeps becoming unhealthy."""
    docker = (
        '  events) for i in 1 2 3 4 5; do echo "c0ffee health_status: unhealthy"; done; exec sleep 60 ;;\n'
        "  inspect) case \"$3\" in *Name*) echo /splatgate-app-1 ;; *) echo 'not ready: no engine' ;; esac ;;"
    )
    done = watch_health(tmp_path, docker, SPLATGATE_HEALTH_LIMIT="3")
    assert done.returncode == 1
    assert (tmp_path / "log").read_text().count("restart --time 60 c0ffee") == 3
    assert "restart 3 of 3 within an hour). It says: not ready: no engine" in done.stdout
    assert "giving up" in done.stdout


@pytest.mark.parametrize("field", ['"restart_helps": false', '"retryable": true'])
def test_the_health_watcher_leaves_alone_what_a_restart_would_not_help(tmp_path: Path, field: str) -> None:
    """A container that waits, and then, without another event, hangs."""
    answer = f'not ready: http://localhost:10010/readyz: {{"ready": false, {field}}}'
    docker = (
        '  events) echo "c0ffee health_status: unhealthy"; exec sleep 60 ;;\n'
        "  ps) echo c0ffee ;;\n"
        '  inspect) case "$3" in *Name*) echo /splatgate-app-1 ;;\n'
        f"    *) [ $(grep -c State \"$LOG\") -lt 4 ] && echo '{answer}' || echo hangs ;; esac ;;"
    )
    done = watch_health(tmp_path, docker, SPLATGATE_HEALTH_LIMIT="1", SPLATGATE_HEALTH_SECONDS="0.1")
    assert done.returncode == 1
    assert done.stdout.count(f"left alone, because a restart would not help: {answer}") == 1
    assert "restart 1 of 1 within an hour). It says: hangs" in done.stdout
    assert (tmp_path / "log").read_text().count("restart --time 60 c0ffee") == 1


def test_readiness_is_printed_as_the_health_watcher_reads_it(tmp_path: Path) -> None:
    """Docker runs `splatgate health`; it would not notice a field with another name."""
    config = Config.model_validate({"serve": {"data": str(tmp_path)}, "limits": {"min_free_mb": 1 << 40}})
    with closing(Jobs(config)) as jobs:
        full = create_app(config, jobs).test_client().get("/readyz")
    assert (full.status_code, '"restart_helps": false' in json.dumps(full.json)) == (503, True)

"""`splatgate serve` as a user, a systemd unit or a container starts it: what it runs and restarts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests
from hosts import client, settings
from service import clean_environ, free_port, wait_until

from app.child import PIPE_VARIABLE, ReadyPipe, report_ready, supervisor_alive
from app.child_process import cause_of_end
from app.config import Config
from app.errors import Unavailable
from app.jobs.records import JobRequest
from app.liveness_probe import LivenessProbe
from app.serve import check_data, environment, plan

SMALL = """
[shapes]
gaussians = 3_000
[validate]
min_gaussians = 1_000
[render]
size = 96
[jobs]
heartbeat_seconds = 0.5
lost_after_seconds = 4
"""


class Serving:
    """A running `splatgate serve`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "data"
        self.log_file = folder / "serve.log"
        self.config_file = folder / "small.toml"
        self.config_file.write_text(SMALL)
        command = ["--config", str(self.config_file), "serve", "--port", str(self.port), "--data", str(self.data)]
        with self.log_file.open("wb") as stream:
            self.process = subprocess.Popen(splatgate(*command), env=clean_environ(), stdout=stream, stderr=stream)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def get(self, path: str) -> requests.Response | None:
        try:
            return requests.get(self.url + path, timeout=10)
        except requests.ConnectionError:
            return None

    def ready(self) -> bool:
        answer = self.get("/readyz")
        return answer is not None and answer.ok

    def pid(self, name: str) -> int:
        """Of the child that was started last under that name."""
        line = next(line for line in reversed(self.log.splitlines()) if f"{name}: started as process" in line)
        return int(line.rpartition(" ")[2])

    def health(self, *options: str) -> subprocess.CompletedProcess[str]:
        environ = clean_environ() | {"SPLATGATE__SERVE__PORT": str(self.port)}
        return subprocess.run(splatgate("health", *options), env=environ, capture_output=True, text=True, timeout=120)


def splatgate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    service = Serving(folder)
    try:
        wait_until(lambda: service.ready() or service.process.poll() is not None, "the service is ready")
        assert service.process.poll() is None, service.log
        yield service
    finally:
        if service.process.poll() is None:
            service.process.terminate()
        service.process.wait(60)


@pytest.mark.e2e
def test_it_serves_restarts_its_children_and_stops_cleanly(tmp_path: Path) -> None:
    """One service through its life: starting it takes longer than all that is asked of it."""
    with serving(tmp_path) as service:
        form = {"prompt": "a blue rocket", "seed": 1}
        answer = requests.post(f"{service.url}/generate/", data=form, timeout=60)
        assert (answer.status_code, answer.content[:3]) == (200, b"ply")
        assert service.health().returncode == 0

        stop, failed = threading.Event(), []
        reader = threading.Thread(target=lambda: _read_until(service, stop, failed))
        reader.start()
        os.kill(service.pid("engine cpu"), signal.SIGKILL)
        wait_until(lambda: not service.ready(), "a dead engine is not ready, before any heartbeat is missed")
        assert service.health().returncode == 1
        assert service.health("--live").returncode == 0
        wait_until(service.ready, "the engine was started again")
        stop.set()
        reader.join()
        assert failed == [], "the web process must answer while the engine is away"

        os.kill(service.pid("web"), signal.SIGKILL)
        wait_until(lambda: service.log.count("web: started") == 2 and service.ready(), "the web process is back")
        assert requests.post(f"{service.url}/generate/", data=form, timeout=60).content == answer.content
        metrics = requests.get(f"{service.url}/metrics", timeout=10).text
        assert "SIGKILL" in metrics

        hung = service.pid("engine cpu")
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: f"process {hung}: no heartbeat" in service.log, "a hung engine is noticed")
        wait_until(lambda: service.pid("engine cpu") != hung and service.ready(), "and replaced")

        for name, what in (("web", "a stopped master of gunicorn"), ("worker", "a worker that does not answer")):
            master = service.pid("web")
            (worker,) = map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())
            os.kill(master if name == "web" else worker, signal.SIGSTOP)
            wait_until(lambda: service.pid("web") != master and service.ready(), f"{what} is replaced")  # noqa: B023

        with client(settings(service.data)) as jobs:
            job = jobs.submit(JobRequest(prompt="a red cube", attempts=1))
            service.process.terminate()
            assert service.process.wait(60) == 0, service.log
            assert jobs.get(job.id).state in ("QUEUED", "DONE"), "a job that waits when the service ends goes on later"
        for name in ("web", "engine cpu"):
            with pytest.raises(ProcessLookupError):
                os.kill(service.pid(name), 0)


def _read_until(service: Serving, stop: threading.Event, failed: list[str]) -> None:
    while not stop.wait(0.05):
        for path, good in (("/v1/jobs", (200,)), ("/livez", (200,)), ("/readyz", (200, 503))):
            answer = service.get(path)
            if answer is None or answer.status_code not in good:
                failed.append(f"{path}: {answer and answer.status_code}")


@pytest.mark.e2e
def test_a_service_that_is_not_there_is_not_healthy() -> None:
    environ = clean_environ() | {"SPLATGATE__SERVE__PORT": str(free_port())}
    asked = subprocess.run(splatgate("health"), env=environ, capture_output=True, text=True, timeout=120)
    assert asked.returncode == 1
    assert "is splatgate serve running?" in asked.stdout


@pytest.mark.e2e
def test_a_port_of_another_program_is_not_healthy() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        command = splatgate("health", "--port", str(other.getsockname()[1]))
        asked = subprocess.Popen(
            command, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        connection, _ = other.accept()
        with closing(connection):
            connection.sendall(b"SSH-2.0-other\r\n")
        out, log = asked.communicate(timeout=120)
    assert (asked.returncode, "does another program use the port?" in out, "Traceback" in log) == (1, True, False)


@pytest.mark.e2e
def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    command = splatgate("serve", "--data", str(tmp_path / "file" / "data"), "--port", str(free_port()))
    asked = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert asked.returncode == 1
    assert "the data folder cannot be written" in asked.stderr
    assert "Traceback" not in asked.stderr


# ---- the supervisor alone --------------------------------------------------------------------------------------------


def supervised(tmp_path: Path, *programs: str, within: float = 60, silence: float = 60) -> subprocess.Popen[str]:
    """A supervisor, in a process of its own, of children that run these Python programs.

    within: seconds in which so many ends are too many; 0 lets a test wait less for what is slow in life.
    silence: seconds without a heartbeat after which a child is killed.
    """
    code = f"""
import os, sys
from app import child_process
from app.child_process import ChildProcess
from app.log import start_logging
from app.supervisor import Supervisor
child_process.WITHIN_SECONDS = {within}
start_logging("INFO")
programs = {programs!r}
command = [sys.executable, "-c"]
children = [ChildProcess(f"child {{i}}", [*command, each], dict(os.environ)) for i, each in enumerate(programs)]
sys.exit(Supervisor(children, silence={silence}, grace=0.5).run())
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=clean_environ(), cwd=tmp_path
    )


@pytest.mark.e2e
def test_a_child_that_keeps_dying_ends_the_service_with_an_error(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, "raise SystemExit(71)", "import time; time.sleep(600)")
    _, log = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 1
    assert log.count("child 0: ended: database down") == 5
    assert "ended 5 times" in log
    assert "child 1: started as process" in log


READY = "from app.child import report_ready; report_ready(); "


@pytest.mark.e2e
def test_a_child_that_never_becomes_ready_ends_the_service_however_long_each_try_takes(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, "raise SystemExit(72)", "import time; time.sleep(600)", within=0)
    _, log = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 1
    assert log.count("child 0: ended: not ready") == 5
    assert "ended 5 times in a row without ever becoming ready, the last time by not ready: giving up" in log


@pytest.mark.e2e
def test_a_child_that_was_ready_is_started_again_at_once_and_for_ever(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, READY + "raise SystemExit(70)", within=0)
    assert supervisor.stderr
    ends = [next(line for line in supervisor.stderr if "restarting in" in line) for _ in range(7)]
    assert all("broken GPU; restarting in 0.25 s" in line for line in ends)
    supervisor.send_signal(signal.SIGTERM)
    _, log = supervisor.communicate(timeout=60)
    assert (supervisor.returncode, "giving up" in log) == (0, False)


BEATS = "from app.child import start_heartbeats; import time; start_heartbeats(0.1); time.sleep(600)"


@pytest.mark.e2e
def test_a_child_that_hangs_is_killed_and_restarted_without_any_database(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, BEATS, silence=2)
    assert supervisor.stderr
    lines = iter(supervisor.stderr.readline, "")
    hung = int(next(line for line in lines if "started as process" in line).rpartition(" ")[2])
    wait_until(lambda: len(list(Path(f"/proc/{hung}/task").iterdir())) > 1, "it sends heartbeats")
    os.kill(hung, signal.SIGSTOP)
    assert "no heartbeat for" in next(line for line in lines if "killed" in line)
    assert "SIGKILL" in next(line for line in lines if "restarting in" in line)
    assert "started as process" in next(lines)
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_restarted_child_is_told_why_the_ones_before_it_ended(tmp_path: Path) -> None:
    program = "from app.child import earlier_ends; print(earlier_ends()); raise SystemExit(70 + len(earlier_ends()))"
    supervisor = supervised(tmp_path, "import sys; sys.stdout = sys.stderr; " + program)
    _, log = supervisor.communicate(timeout=120)
    assert "('broken GPU', 'database down')" in log


def test_a_child_knows_when_its_supervisor_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = ReadyPipe()
    monkeypatch.setenv(PIPE_VARIABLE, str(os.dup(pipe.writing)))
    assert supervisor_alive()
    pipe.close()
    assert not supervisor_alive()
    os.close(int(os.environ[PIPE_VARIABLE]))


def test_a_pipe_that_nobody_reads_blocks_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(ReadyPipe()) as pipe:
        monkeypatch.setenv(PIPE_VARIABLE, str(pipe.writing))
        for _ in range(100_000):
            report_ready()
        pipe.read(7.0)
        assert (pipe.ready, pipe.last_heartbeat) == (True, 7.0)


def test_a_server_that_accepts_and_does_not_answer_is_silent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        probe = LivenessProbe(server.getsockname())
        assert probe.silence(10.0) == 0
        connection, _ = server.accept()
        with closing(connection):
            assert probe.silence(15.0) == 5
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            wait_until(lambda: probe.silence(20.0) == 0, "an answer of any status is one")
        assert probe.silence(30.0) == 10, "it asks again"
        probe.reset()
        assert probe.silence(31.0) == 0
        probe.close()


def test_a_port_that_another_program_uses_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        command = splatgate("serve", "--data", str(tmp_path), "--port", port)
        asked = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert (asked.returncode, "started as process" in asked.stderr) == (1, False)
    assert "another program uses the port" in asked.stderr
    assert "--port" in asked.stderr


@pytest.mark.e2e
def test_pauses_before_a_restart_become_longer(tmp_path: Path) -> None:
    supervisor = supervised(tmp_path, "raise SystemExit(3)")
    _, log = supervisor.communicate(timeout=120)
    pauses = [line.rpartition("in ")[2] for line in log.splitlines() if "restarting in" in line]
    assert pauses == ["0.25 s", "0.5 s", "1 s", "2 s"]


@pytest.mark.e2e
def test_a_child_that_does_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    supervisor = supervised(tmp_path, stubborn)
    assert supervisor.stderr
    lines = iter(supervisor.stderr.readline, "")
    assert any("started as process" in line for line in lines)
    supervisor.send_signal(signal.SIGTERM)
    _, log = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 0
    assert "stopped" in log


@pytest.mark.e2e
def test_a_killed_supervisor_takes_its_children_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    supervisor = supervised(tmp_path, program)
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "", "the child runs")
    supervisor.kill()
    supervisor.communicate()
    child = int(pid_file.read_text())
    wait_until(lambda: not _runs(child), "the child is gone")


@pytest.mark.e2e
def test_orphans_are_collected(tmp_path: Path) -> None:
    """What a child leaves behind comes to the supervisor, as to PID 1, and does not stay a zombie."""
    pid_file = tmp_path / "pid"
    grandchild = "import time; time.sleep(1)"
    program = f"""
import subprocess, sys, time, os
orphan = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {grandchild!r}]); print(p.pid)"
found = subprocess.run([sys.executable, "-c", orphan], capture_output=True, text=True).stdout
open({str(pid_file)!r}, "w").write(found)
time.sleep(600)
"""
    supervisor = supervised(tmp_path, program)
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "there is an orphan")
    orphan = int(pid_file.read_text())
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan was collected")
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=60)


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


# ---- what is started -------------------------------------------------------------------------------------------------


def test_profile_shapes_has_one_engine_on_the_cpu() -> None:
    web, engine = plan(Config(), {})
    assert web.command[-1] == "app.web.server"
    assert "app.engine" in engine.command
    assert engine.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_profile_full_without_a_gpu_says_so() -> None:
    if _has_gpu():
        pytest.skip("this host has a GPU")
    with pytest.raises(Unavailable, match="the driver shows none"):
        plan(Config.model_validate({"profile": {"name": "full"}}), {})


def _has_gpu() -> bool:
    from app.hardware import gpus

    return bool(gpus())


def test_command_line_options_reach_the_children() -> None:
    config = Config.model_validate({"serve": {"port": 1234, "data": "here"}})
    told = environment(config, {"SPLATGATE__SERVE__PORT": "1", "PATH": "/bin"})
    assert (told["SPLATGATE__SERVE__PORT"], told["PATH"]) == ("1234", "/bin")
    assert Path(told["SPLATGATE__SERVE__DATA"]).is_absolute()


def test_causes_of_exits_are_short() -> None:
    assert [cause_of_end(code) for code in (-9, -11, 70, 5)] == ["SIGKILL", "SIGSEGV", "broken GPU", "exit code 5"]


def test_a_data_folder_is_made_and_left_as_it_was(tmp_path: Path) -> None:
    check_data(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []

"""A private Docker engine on a Debian machine, for scripts/e2e: no registry, no GPU, nothing left behind.

Everything is under one temporary folder: the engine's data and socket, the newer compose plugin (unpacked from the next
Debian suite, not installed), and a stand-in for the CUDA base images, a minimal Debian that the Dockerfile gets as
build arguments. Needs root, apt and Linux.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("docker.io", "debootstrap", "iptables", "systemd-container", "chromium", "fonts-liberation", "prometheus")
NEWER = ("docker-compose", "docker-buildx", "docker.io", "docker-cli", "containerd")
"""From the next suite: compose v2, and an engine that supports health start intervals."""
STAND_IN = "splatgate-stand-in:cuda"
"""The name of the image that takes the place of the Dockerfile's BUILD_BASE and RUN_BASE."""
CA = Path("/etc/ssl/certs/ca-certificates.crt")
Say = Callable[[str], None]


def install(say: Say, packages: tuple[str, ...] = PACKAGES) -> None:
    """Installs the Debian packages that are missing."""
    known = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *packages], capture_output=True, text=True
    )
    there = {line.split()[0] for line in known.stdout.splitlines() if line.endswith("ok installed")}
    if wanted := [name for name in packages if name not in there]:
        say(f"installing {', '.join(wanted)}")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        # keep docker.io from starting another engine
        blocked = Path("/usr/sbin/policy-rc.d")
        ours = not blocked.exists()
        if ours:
            blocked.write_text("#!/bin/sh\nexit 101\n")
            blocked.chmod(0o755)
        try:
            _run("apt-get", "-o", "DPkg::Lock::Timeout=300", "update", "-qq", env=environment)
            apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends")
            _run(*apt, *wanted, env=environment)
        finally:
            if ours:
                blocked.unlink()


class Engine:
    """dockerd under `folder`. `docker(...)` and `compose(...)` talk to this engine only."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        self.data = folder / "docker"
        self.bin = folder / "bin"
        self.environment = os.environ | {
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "config"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        self._daemon: subprocess.Popen[bytes] | None = None

    def unpack(self) -> None:
        """Unpacks the newer engine and compose plugin into our folder."""
        self.say("unpacking the engine and compose of the next Debian suite")
        apt, sources = self.folder / "apt", self.folder / "apt" / "sources.list.d"
        for place in (sources, apt / "lists" / "partial", apt / "cache" / "archives" / "partial", apt / "debs"):
            place.mkdir(parents=True, exist_ok=True)
        here = _field("VERSION_CODENAME")
        for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
            if path.is_file():
                lines = path.read_text().replace(here, "trixie").splitlines()
                (sources / path.name).write_text(
                    "\n".join(one for one in lines if not one.startswith("Signed-By")) + "\n"
                )
        options = [f"Dir::State::Lists={apt}/lists", f"Dir::Cache={apt}/cache", "Dir::Etc::sourcelist=/dev/null"]
        options += [f"Dir::Etc::sourceparts={sources}", "APT::Sandbox::User=root"]
        get = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        _run(*get, "update")
        _run(*get, "download", *NEWER, cwd=apt / "debs")
        for package in (apt / "debs").glob("*.deb"):
            _run("dpkg-deb", "-x", str(package), str(apt / "root"))
        self.bin.mkdir(exist_ok=True)
        for name in ("bin/containerd", "bin/containerd-shim-runc-v2", "bin/docker", "sbin/dockerd"):
            shutil.copy2(apt / "root" / "usr" / name, self.bin)
        shutil.copytree(
            apt / "root" / "usr/libexec/docker/cli-plugins", self.folder / "config/cli-plugins", dirs_exist_ok=True
        )

    def start(self) -> None:
        """Starts dockerd and waits until it answers. Raises RuntimeError with the end of its log if it does not."""
        log = self.folder / "dockerd.log"
        command = [self.bin / "dockerd", "--data-root", self.data, "--exec-root", self.folder / "exec"]
        command += ["-H", self.environment["DOCKER_HOST"], "-p", self.folder / "dockerd.pid"]
        with log.open("ab") as stream:
            self._daemon = subprocess.Popen(
                command, stdout=stream, stderr=stream, env=self.environment, process_group=0
            )
        wait_for(lambda: self.docker("info", check=False).returncode == 0, 60, lambda: log.read_text()[-2000:])

    @contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """Sets an environment variable for the commands in the block."""
        self.environment[name] = value
        try:
            yield
        finally:
            del self.environment[name]

    @property
    def running(self) -> bool:
        return self._daemon is not None and self._daemon.poll() is None

    def stop(self) -> None:
        """Sends SIGTERM, then SIGKILL. Containers end with the engine."""
        if self._daemon and self.running:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._daemon.pid, signal.SIGKILL)
        self._daemon = None

    def docker(self, *words: str | Path, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        return _run("docker", *map(str, words), env=self.environment, check=check, **options)

    def base_image(self) -> None:
        """Builds the stand-in for the CUDA images."""
        self.say("making the stand-in base image")
        root = self.folder / "base"
        debootstrap(root, "ca-certificates,python3,python3-venv,python3-pip,curl")
        names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        change = "ENV " + " ".join(f"{name}={CA}" for name in names)
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            self.docker("import", "-c", change, "-", STAND_IN, stdin=tar.stdout)
        shutil.rmtree(root)


def debootstrap(root: Path, packages: str) -> None:
    """A minimal Debian of this machine's suite with these packages (names with commas), with its keyring."""
    _run("debootstrap", "--variant=minbase", f"--include={packages}", _field("VERSION_CODENAME"), str(root))
    shutil.copy2(CA, root / CA.relative_to("/"))


def small_disk(image: Path, folder: Path) -> None:
    """Mounts a file system of 1 GiB, stored in a file, at `folder`, to be filled instead of the machine's disk."""
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    _run("mkfs.ext4", "-q", "-E", "root_owner=10001:10001", str(image))
    _run("mount", "-o", "loop", str(image), str(folder))


def wait_for(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> float:
    """Polls the condition five times a second. Returns the seconds waited. Raises TimeoutError, with `explain()`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s. {explain()}")
        time.sleep(0.2)
    return time.monotonic() - began


def _field(name: str) -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith(name + "="))


def _run(*words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done

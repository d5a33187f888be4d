"""Fetching weights: the real huggingface_hub client against a small hub over HTTP, and everything that can go wrong."""

import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub, serving

from app.config import Config
from app.digest import sha256_of
from app.errors import FetchFailed, NotFetched, WrongWeights
from app.weights import fetching, store
from app.weights.fetching import Plan
from app.weights.hub import RemoteFile
from app.weights.lock import read_lock
from app.weights.manifest import find

DINO = find("dinov2-with-registers-large")
CHUNK = 10 * 2**20
"""What huggingface_hub writes at a time: less than that of a broken download is not kept."""

FETCH = """
import sys
from app.config import load_config
from app.weights import fetching
from app.weights.manifest import find
config = load_config()
plan = fetching.plan(find(sys.argv[1]), config)
fetching.fetch(plan, config, lambda count: print(count, flush=True))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    folder = tmp_path / "hub" / DINO.repository
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(os.urandom(200_000))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("about")
    with serving(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, server: FakeHub) -> Config:
    return Config.model_validate({"models": {"folder": str(tmp_path / "models"), "endpoint": server.url}})


def fetch(config: Config, model: object = DINO) -> None:
    plan = fetching.plan(model, config)
    assert plan is not None
    fetching.fetch(plan, config, lambda _count: None)


def with_models(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"models": config.models.model_copy(update=changes)})


def downloads(server: FakeHub) -> list[str]:
    return [request.path.rpartition("/")[2] for request in server.requests if "/resolve/" in request.path]


def grow(server: FakeHub, size: int) -> Path:
    path = server.root / DINO.repository / "model.safetensors"
    path.write_bytes(os.urandom(size))
    return path


def test_what_is_fetched_is_what_the_hub_has_and_the_lock_says_so(config: Config, server: FakeHub) -> None:
    fetch(config)
    folder = store.locate(DINO.name, config)
    source = server.root / DINO.repository
    assert store.files_in(folder) == ["config.json", "model.safetensors"]
    locked = read_lock(store.root(config)).models[DINO.name]
    assert (locked.repository, locked.commit, locked.licence) == (DINO.repository, DINO.revision, "apache-2.0")
    for name, file in locked.files.items():
        assert file.sha256 == sha256_of(source / name) == sha256_of(folder / name)
        assert file.bytes == (source / name).stat().st_size


def test_a_second_fetch_verifies_and_asks_the_hub_nothing(config: Config, server: FakeHub) -> None:
    fetch(config)
    before = len(server.requests)
    assert fetching.plan(DINO, config) is None
    assert len(server.requests) == before


def test_a_branch_is_resolved_once_and_then_pinned(config: Config, server: FakeHub) -> None:
    model = replace(DINO, revision="main")
    commit = server.commit(DINO.repository)
    fetch(config, model)
    assert read_lock(store.root(config)).models[DINO.name].commit == commit
    grow(server, 300_000)
    assert server.commit(DINO.repository) != commit
    assert fetching.plan(model, config) is None


def test_a_new_commit_takes_the_place_of_the_old_one_whole(config: Config, server: FakeHub) -> None:
    (server.root / DINO.repository / "extra.json").write_text("{}")
    model = replace(DINO, files=("*.json", "*.safetensors"))
    fetch(config, model)
    (server.root / DINO.repository / "extra.json").unlink()
    moved = replace(model, revision="b" * 40)
    with pytest.raises(WrongWeights, match="this release uses"):
        store.verify(moved, config)
    fetch(config, moved)
    assert store.files_in(store.folder_of(moved, config)) == ["config.json", "model.safetensors"]
    assert store.verify(moved, config).commit == "b" * 40


def test_a_cut_connection_is_resumed_where_it_broke(config: Config, server: FakeHub) -> None:
    path = grow(server, 2 * CHUNK + 1_000)
    server.cuts = [CHUNK + 500_000]
    arrived: list[int] = []
    plan = fetching.plan(DINO, config)
    assert plan is not None
    fetching.fetch(plan, config, arrived.append)
    assert [request.range for request in server.requests if "/storage/" in request.path] == ["", f"bytes={CHUNK}-"]
    assert sum(arrived) == plan.bytes
    assert sha256_of(store.locate(DINO.name, config) / "model.safetensors") == sha256_of(path)


def test_a_killed_fetch_is_resumed_by_the_next_process(config: Config, server: FakeHub) -> None:
    path = grow(server, 2 * CHUNK)
    server.stall_after = CHUNK + 500_000
    with subprocess.Popen([sys.executable, "-c", FETCH, DINO.name], env=environment(config), stdout=-1) as process:
        part = store.folder_of(DINO, config) / fetching.PARTS / f"model.safetensors.{sha256_of(path)[:16]}"
        wait_for(lambda: part.is_file() and part.stat().st_size == CHUNK)
        process.send_signal(signal.SIGKILL)
    server.stall_after = None
    server.go_on.set()
    with pytest.raises(NotFetched):
        store.locate(DINO.name, config)
    before = len(server.requests)
    plan = fetching.plan(DINO, config)
    assert plan is not None
    assert plan.arrived >= CHUNK
    fetching.fetch(plan, config, lambda _count: None)
    ranges = [request.range for request in server.requests[before:] if "/storage/" in request.path]
    assert f"bytes={CHUNK}-" in ranges
    assert sha256_of(store.locate(DINO.name, config) / "model.safetensors") == sha256_of(path)


@pytest.mark.parametrize("size", [100_000, 200_000, 200_001])
def test_a_part_that_does_not_fit_is_thrown_away(config: Config, size: int) -> None:
    plan = fetching.plan(DINO, config)
    assert plan is not None
    part = store.folder_of(DINO, config) / fetching.PARTS / plan.files[1].part
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(size))
    if size <= plan.files[1].bytes:
        with pytest.raises(FetchFailed, match=r"model\.safetensors was received damaged and deleted"):
            fetch(config)
    fetch(config)
    store.locate(DINO.name, config)


def test_files_of_one_content_do_not_get_in_each_others_way(config: Config, server: FakeHub) -> None:
    folder = server.root / DINO.repository
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    model = replace(DINO, files=("*.safetensors",))
    fetch(config, model)
    assert store.files_in(store.folder_of(model, config)) == ["copy.safetensors", "model.safetensors"]


def test_only_what_is_broken_is_fetched_again(config: Config, server: FakeHub) -> None:
    fetch(config)
    path = store.folder_of(DINO, config) / "model.safetensors"
    os.truncate(path, 100)
    with pytest.raises(WrongWeights, match=r"is truncated: 100 of 200,000 bytes; run `splatgate models fetch dinov2"):
        store.locate(DINO.name, config)
    before = len(downloads(server))
    fetch(config)
    assert downloads(server)[before:] == ["model.safetensors"]
    store.locate(DINO.name, config)


def test_a_tampered_file_is_found_and_repaired(config: Config) -> None:
    fetch(config)
    path = store.locate(DINO.name, config) / "model.safetensors"
    flip_a_byte(path)
    with pytest.raises(WrongWeights, match=r"model\.safetensors has changed: its sha256"):
        store.locate(DINO.name, config)
    fetch(config)
    store.locate(DINO.name, config)


def test_content_other_than_listed_is_thrown_away(config: Config, server: FakeHub) -> None:
    plan = fetching.plan(DINO, config)
    assert plan is not None
    flip_a_byte(server.root / DINO.repository / "model.safetensors")
    with pytest.raises(FetchFailed, match=r"model\.safetensors was received damaged"):
        fetching.fetch(plan, config, lambda _count: None)
    assert "model.safetensors" not in store.files_in(store.folder_of(DINO, config))


def test_content_other_than_this_release_pins_is_never_fetched(config: Config, server: FakeHub) -> None:
    model = find("u2net")
    (server.root / model.repository).mkdir(parents=True)
    (server.root / model.repository / "u2net.onnx").write_bytes(b"another network")
    with pytest.raises(
        WrongWeights, match=r"u2net\.onnx is not the one that this release pins \(sha256 8d10d2f3bb75\)"
    ):
        fetching.plan(model, config)
    assert downloads(server) == []


@pytest.mark.parametrize("token", ["", "hf_without_permission"])
def test_a_gated_repository_says_how_to_get_in(
    config: Config, server: FakeHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated = {DINO.repository}
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(FetchFailed) as error:
        fetch(config)
    for words in ("is gated", f"https://huggingface.co/{DINO.repository}", "hf auth login", "HF_TOKEN"):
        assert words in str(error.value)
    assert not token or token not in str(error.value)


def test_a_gated_repository_opens_with_a_token_that_no_output_shows(
    config: Config, server: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server.gated = {DINO.repository}
    monkeypatch.setenv("HF_TOKEN", server.token)
    fetch(config)
    store.locate(DINO.name, config)
    assert {request.authorization for request in server.requests} == {f"Bearer {server.token}"}
    assert server.token not in "".join(capfd.readouterr())
    kept = [path for path in store.root(config).rglob("*") if path.is_file()]
    assert not [path for path in kept if server.token.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"repository": "facebook/nothing-there"}, r"facebook/nothing-there is not on the hub, or it is private"),
        ({"revision": "gone"}, r"no longer has the commit"),
        ({"files": ("weights.safetensors",)}, r"has none of weights\.safetensors"),
    ],
)
def test_what_the_hub_does_not_have_is_named(config: Config, change: dict[str, str], expected: str) -> None:
    with pytest.raises(FetchFailed, match=expected):
        fetching.plan(replace(DINO, **change), config)


def test_the_lock_outlives_a_hub_that_changes_its_mind(config: Config, server: FakeHub) -> None:
    fetch(config)
    before = read_lock(store.root(config))
    grow(server, 200_000)
    os.truncate(store.folder_of(DINO, config) / "model.safetensors", 0)
    with pytest.raises(
        WrongWeights, match=r"model\.safetensors of commit e4c89a4e0558 differs from models\.lock\.json"
    ):
        fetch(config)
    assert read_lock(store.root(config)) == before
    with pytest.raises(WrongWeights, match="has changed"):
        store.locate(DINO.name, config)


def test_a_file_that_is_not_the_models_is_named(config: Config) -> None:
    (store.folder_of(DINO, config)).mkdir(parents=True)
    (store.folder_of(DINO, config) / "stray.safetensors").write_bytes(b"")
    with pytest.raises(WrongWeights, match=r"stray\.safetensors does not belong to .*; move it elsewhere"):
        fetch(config)


def test_a_server_that_is_no_hub_is_reported(config: Config, server: FakeHub) -> None:
    server.nonsense = b"<html>a login page</html>"
    with pytest.raises(FetchFailed, match=r"does not answer like a Hugging Face hub .*; check models\.endpoint"):
        fetching.plan(DINO, config)


def test_no_network_names_the_endpoint_and_the_remedy(config: Config) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(FetchFailed, match=r"cannot reach http://127\.0\.0\.1:\d+.*Check the network"):
            fetching.plan(DINO, with_models(config, endpoint=endpoint))


def test_offline_never_touches_the_network(config: Config, server: FakeHub) -> None:
    offline = with_models(config, offline=True)
    with pytest.raises(FetchFailed, match=r"models\.offline = true"):
        fetching.plan(DINO, offline)
    with pytest.raises(NotFetched):
        store.locate(DINO.name, offline)
    store.state_of(DINO, offline)
    assert server.requests == []
    fetch(config)
    before = len(server.requests)
    assert fetching.plan(DINO, offline) is None
    store.locate(DINO.name, offline)
    assert len(server.requests) == before


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(config: Config, server: FakeHub) -> None:
    file = RemoteFile("model.safetensors", 10**18, "a" * 64)
    plan = Plan(DINO, DINO.revision, (file,), (file,), 0)
    with pytest.raises(
        FetchFailed, match=r"needs 1000000000\.0 GB, has [\d.]+ GB free; make room, or set models\.folder"
    ):
        fetching.check_disk_space([plan], config)
    assert server.requests == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_is_reported_and_leaves_nothing_half_done(
    config: Config, server: FakeHub, small_disk: Path
) -> None:
    grow(server, 3_000_000)
    small = with_models(config, folder=str(small_disk))
    with pytest.raises(FetchFailed, match=r"the disk is full \(No space left on device\); make room"):
        fetch(small)
    with pytest.raises(NotFetched):
        store.locate(DINO.name, small)
    grow(server, 300_000)
    fetch(small)
    store.locate(DINO.name, small)


def test_a_file_size_limit_is_a_full_disk_too(config: Config, server: FakeHub) -> None:
    grow(server, 3_000_000)
    limited = subprocess.run(
        [sys.executable, "-c", FETCH, DINO.name],
        env=environment(config),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert limited.returncode == 1
    assert "the disk is full (File too large); make room" in limited.stderr


def test_one_fetch_at_a_time(config: Config) -> None:
    plan = fetching.plan(DINO, config)
    assert plan is not None
    store.root(config).mkdir(parents=True, exist_ok=True)
    with (store.root(config) / ".fetching").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(FetchFailed, match="another `splatgate models fetch` is running"):
            fetching.fetch(plan, config, lambda _count: None)


def environment(config: Config) -> dict[str, str]:
    settings = {"FOLDER": config.models.folder, "ENDPOINT": config.models.endpoint}
    return os.environ | {f"SPLATGATE__MODELS__{key}": value for key, value in settings.items()}


def flip_a_byte(path: Path) -> None:
    """In place, with the time of the last write put back, as someone who wants to hide it would."""
    times = path.stat()
    with path.open("r+b") as stream:
        first = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([first ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def wait_for(happens: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)

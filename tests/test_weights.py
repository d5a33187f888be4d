"""The manifest, the lock, and the verification of models on disk; no network."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Config
from app.digest import sha256_of
from app.errors import BadInput, BadWeights, NotFetched, WrongWeights
from app.weights import store
from app.weights.lock import Lock, LockedFile, LockedModel, is_commit, read_lock, write_lock
from app.weights.manifest import MODELS, SUFFIXES, Model, check_path, find, needed

DINO = find("dinov2-with-registers-large")


def settings(folder: Path, **sections: dict[str, object]) -> Config:
    return Config.model_validate({"profile": {"name": "full"}, "models": {"folder": str(folder)}, **sections})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """With the model DINO in place, small and of random content, as `models fetch` leaves it."""
    config = settings(tmp_path / "models")
    put(DINO, config, {"config.json": b"{}", "model.safetensors": os.urandom(10_000)})
    return config


def put(model: Model, config: Config, files: dict[str, bytes]) -> None:
    folder = store.folder_of(model, config)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    locked = {name: LockedFile(sha256=sha256_of(folder / name), bytes=len(files[name])) for name in files}
    entry = LockedModel(repository=model.repository, commit=model.revision, licence=model.licence, files=locked)
    write_lock(store.root(config), read_lock(store.root(config)).with_model(model.name, entry))


# ---- manifest --------------------------------------------------------------------------------------------------------


def test_every_model_is_pinned_to_a_commit_and_states_licence_and_size() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    for model in MODELS:
        assert is_commit(model.revision) or model.by_hand, model.name
        assert model.licence
        assert model.about_bytes > 0
        assert "/" not in model.name, "a name with a slash is a path in the configuration"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "a.npz", "a.py", "a"])
def test_what_could_hold_code_is_refused(name: str) -> None:
    with pytest.raises(BadWeights, match=r"is refused: allowed are \.safetensors"):
        check_path(name, "m")
    with pytest.raises(BadWeights):
        Model("m", "scorer", "o/m", "main", (name,), "mit", 1, "test")


@given(st.text(alphabet=st.sampled_from(list("ab./\\~ \0")), max_size=12), st.sampled_from(SUFFIXES))
def test_a_path_that_is_accepted_stays_inside_the_folder(start: str, suffix: str) -> None:
    try:
        check_path(start + suffix, "m")
    except BadWeights:
        return
    path = Path("/models/m") / (start + suffix)
    assert Path(os.path.normpath(path)).is_relative_to("/models/m")


def test_pipelines_leave_the_copies_for_other_programs_out() -> None:
    flux = find("FLUX.1-schnell")
    wanted = (
        "model_index.json",
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
        "tokenizer/vocab.json",
    )
    assert all(map(flux.wants, wanted))
    assert not any(map(flux.wants, ("flux1-schnell.safetensors", "ae.safetensors", "README.md", "text_encoder/a.bin")))


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({"profile": {"name": "shapes"}}, ()),
        ({}, ("FLUX.1-schnell", "u2net", "TRELLIS-image-large", "dinov2-with-registers-large", "ViT-L-14-openai")),
        (
            {
                "image": {"model": "Z-Image-Turbo"},
                "cutout": {"model": "birefnet-general"},
                "validate": {"enabled": False},
            },
            ("Z-Image-Turbo", "birefnet-general", "TRELLIS-image-large", "dinov2-with-registers-large"),
        ),
        (
            {"trellis": {"flows": "MDT-dist"}, "validate": {"enabled": False}},
            ("FLUX.1-schnell", "u2net", "TRELLIS-image-large", "MDT-dist", "dinov2-with-registers-large"),
        ),
        (
            {"image": {"model": "./mine"}, "trellis": {"encoder": "/own"}, "score": {"weights": "clip.safetensors"}},
            ("u2net", "TRELLIS-image-large"),
        ),
    ],
)
def test_the_configuration_decides_what_is_needed(sections: dict[str, dict], names: tuple[str, ...]) -> None:
    config = Config.model_validate({"profile": {"name": "full"}} | sections)
    assert tuple(model.name for model in needed(config)) == names


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"unknown model 'flux'; known models: FLUX\.1-schnell"):
        find("flux")


# ---- lock ------------------------------------------------------------------------------------------------------------


def test_the_lock_comes_back_as_it_was_written(config: Config) -> None:
    lock = read_lock(store.root(config))
    write_lock(store.root(config), lock)
    assert read_lock(store.root(config)) == lock != Lock()


def test_the_digest_of_a_model_follows_its_files(config: Config) -> None:
    before = store.lock_of(DINO, config).sha256
    put(DINO, config, {"config.json": b"{}", "model.safetensors": b"other"})
    assert store.lock_of(DINO, config).sha256 != before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda tree: tree["models"][DINO.name]["files"].update({"a.bin": {"sha256": "0" * 64, "bytes": 1}}),
            r"'a\.bin'",
        ),
        (
            lambda tree: tree["models"][DINO.name]["files"].update({"../a.json": {"sha256": "0" * 64, "bytes": 1}}),
            "leaves the model",
        ),
        (lambda tree: tree["models"][DINO.name].update(commit="main"), r"commit: .*delete it and fetch"),
        (lambda tree: tree.update(format="splatgate-models-lock/9"), "format"),
        (lambda tree: tree.update(more=1), "more"),
    ],
)
def test_a_lock_that_is_not_ours_is_refused(config: Config, change: object, expected: str) -> None:
    path = store.root(config) / "models.lock.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(BadWeights, match=expected):
        store.locate(DINO.name, config)


def test_a_lock_that_is_no_json_is_named(config: Config) -> None:
    (store.root(config) / "models.lock.json").write_text("{")
    with pytest.raises(BadWeights, match=r"models\.lock\.json: content: Invalid JSON"):
        store.locate(DINO.name, config)


# ---- store -----------------------------------------------------------------------------------------------------------


def test_a_whole_model_is_located(config: Config, tmp_path: Path) -> None:
    assert store.locate(DINO.name, config) == tmp_path / "models" / DINO.name
    assert store.state_of(DINO, config).condition == "verified"


def test_a_model_of_one_file_is_located_by_the_file(config: Config) -> None:
    put(find("birefnet-general"), config, {"onnx/model.onnx": b"graph"})
    assert store.locate_file("birefnet-general", config).read_bytes() == b"graph"
    with pytest.raises(BadWeights, match="has 2 files, expected one"):
        store.locate_file(DINO.name, config)


def test_without_weights_the_error_says_what_to_fetch_how_large_and_under_which_licence(tmp_path: Path) -> None:
    with pytest.raises(NotFetched) as error:
        store.require(settings(tmp_path))
    message = str(error.value)
    for words in (
        "FLUX.1-schnell",
        "33.7 GB",
        "licence apache-2.0",
        "black-forest-labs/FLUX.1-schnell; gated",
        "39.5 GB",
    ):
        assert words in message
    assert message.endswith(
        "splatgate models fetch FLUX.1-schnell u2net TRELLIS-image-large dinov2-with-registers-large ViT-L-14-openai"
    )


def test_only_what_is_missing_is_asked_for(config: Config) -> None:
    with pytest.raises(NotFetched) as error:
        store.require(config)
    assert DINO.name not in str(error.value)
    assert "splatgate models fetch FLUX.1-schnell u2net TRELLIS-image-large ViT-L-14-openai" in str(error.value)


def test_files_without_a_lock_are_not_trusted(config: Config) -> None:
    (store.root(config) / "models.lock.json").unlink()
    with pytest.raises(NotFetched, match=r"has files that are not in models\.lock\.json; run `splatgate models"):
        store.locate(DINO.name, config)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9), "is truncated: 9 of 10,000 bytes"),
        (lambda folder: (folder / "model.safetensors").write_bytes(bytes(10_001)), "is too long"),
        (lambda folder: (folder / "model.safetensors").write_bytes(bytes(10_000)), "has changed"),
        (
            lambda folder: (folder / "pytorch_model.bin").write_bytes(b""),
            "does not belong to dinov2-with-registers-large",
        ),
        (lambda folder: (folder / "more.safetensors").symlink_to("model.safetensors"), "does not belong to"),
    ],
)
def test_what_is_not_as_locked_stops_the_load(config: Config, harm: object, expected: str) -> None:
    harm(store.locate(DINO.name, config))
    with pytest.raises(WrongWeights, match=expected):
        store.locate(DINO.name, config)


def test_another_commit_than_this_release_uses_is_refused(config: Config) -> None:
    root = store.root(config)
    entry = read_lock(root).models[DINO.name].model_copy(update={"commit": "a" * 40})
    write_lock(root, read_lock(root).with_model(DINO.name, entry))
    with pytest.raises(WrongWeights, match=r"the lock has .* at aaaaaaaaaaaa, this release uses .* at e4c89a4e0558"):
        store.locate(DINO.name, config)


def test_a_file_is_hashed_once_and_again_when_it_was_written(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(
        "app.weights.digests.sha256_of", lambda path, told: hashed.append(path.name) or sha256_of(path, told)
    )
    store.locate(DINO.name, config)
    store.locate(DINO.name, config)
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    path = store.folder_of(DINO, config) / "model.safetensors"
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the time of change cannot be put back
    store.locate(DINO.name, config)
    assert hashed[2:] == ["model.safetensors"]
    store.verify(DINO, config, rehash=True)
    assert len(hashed) == 5


@pytest.mark.parametrize("what", ["hashed", "remembered"])
def test_progress_counts_every_byte_of_a_model(config: Config, what: str) -> None:
    put(DINO, config, {"config.json": b"{}", "model.safetensors": os.urandom(3_000_000)})
    if what == "remembered":
        store.locate(DINO.name, config)
    told: list[tuple[str, int, int]] = []
    store.locate(DINO.name, config, lambda *each: told.append(each))
    assert sum(more for _, more, _ in told) == 3_000_002
    assert {(words, of) for words, _, of in told} == {(f"verifying {DINO.name}", 3_000_002)}
    assert len(told) == (2 if what == "remembered" else 4), "large files are reported in pieces"


def test_what_has_arrived_counts_the_parts_of_a_fetch(config: Config) -> None:
    before = store.arrived([DINO], config)
    assert before == 10_002
    parts = store.folder_of(DINO, config) / ".parts"
    parts.mkdir()
    (parts / "model.safetensors.0123").write_bytes(bytes(500))
    assert store.arrived([DINO, find("u2net")], config) == before + 500


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2]}', "null"])
def test_a_broken_memory_of_digests_only_costs_hashing_again(config: Config, content: str) -> None:
    store.locate(DINO.name, config)
    (store.root(config) / store.VERIFIED).write_text(content)
    assert store.state_of(DINO, config).condition == "present"
    store.locate(DINO.name, config)
    assert store.state_of(DINO, config).condition == "verified"


def own_files(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / "b.safetensors", folder / "a.json"]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    return files


def hashed_by(files: list[Path], config: Config, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read. The digests are checked, and the progress."""
    read: list[Path] = []
    monkeypatch.setattr("app.weights.digests.sha256_of", lambda path, on: read.append(path) or sha256_of(path, on))
    told: list[int] = []
    found = store.digests_of_own(files, config, told.append)
    assert found == {file: sha256_of(file) for file in files}
    assert sum(told) == sum(file.stat().st_size for file in files)
    return sorted(path.name for path in read)


def test_weights_given_by_path_are_hashed_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path / "data")}})
    files = own_files(tmp_path / "mine")
    assert hashed_by(files, config, monkeypatch) == ["a.json", "b.safetensors"]
    assert hashed_by(files, config, monkeypatch) == []
    before = files[0].stat()
    files[0].write_bytes(b"x" * before.st_size)
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # ctime still tells
    assert hashed_by(files, config, monkeypatch) == ["b.safetensors"]
    (tmp_path / "new").write_bytes(files[1].read_bytes())
    (tmp_path / "new").replace(files[1])
    assert hashed_by(files, config, monkeypatch) == ["a.json"]


def test_a_relative_path_is_the_same_file_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"serve": {"data": str(tmp_path / "data")}})
    own_files(tmp_path / "here/mine")
    for name in ("a.json", "b.safetensors"):
        (tmp_path / "there/mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / "there/mine" / name).write_bytes(b"other content")
    relative = [Path("mine/a.json"), Path("mine/b.safetensors")]
    for place, expected in (("here", 2), ("there", 2), ("here", 0), ("there", 0)):
        monkeypatch.chdir(tmp_path / place)
        assert len(hashed_by(relative, config, monkeypatch)) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_data_folder_that_cannot_be_written_only_costs_hashing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    config = Config.model_validate({"serve": {"data": str(tmp_path / "closed/data")}})
    files = own_files(tmp_path / "mine")
    for _ in range(2):
        assert hashed_by(files, config, monkeypatch) == ["a.json", "b.safetensors"]


def test_a_quick_check_distinguishes_missing_present_and_broken(config: Config) -> None:
    assert store.state_of(find("u2net"), config).condition == "missing"
    assert store.state_of(DINO, config).condition == "present"
    os.truncate(store.folder_of(DINO, config) / "model.safetensors", 9)
    state = store.state_of(DINO, config)
    assert state.condition == "broken"
    assert "is truncated" in state.problem

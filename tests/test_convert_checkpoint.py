"""scripts/convert_checkpoint: weights come out as they were, everything else is refused, and there is no network."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from app.config import Config
from app.errors import FetchFailed
from app.weights import fetching, store
from app.weights.manifest import find

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "convert_checkpoint"
FLOWS = find("MDT-dist")


class Hostile:
    """Calls something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("convert_checkpoint", str(SCRIPT))
    spec = importlib.util.spec_from_loader("convert_checkpoint", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_keep_names_values_and_types(script: ModuleType, tmp_path: Path, *, legacy: bool) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a.weight": whole.half(), "b": whole, "shares": whole[1:], "turned": whole.T, "c": torch.tensor([1, 2])}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    script.convert(tmp_path / "a.pt", tmp_path / "out" / "a.safetensors")
    found = load_file(tmp_path / "out" / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with pytest.raises(SystemExit, match="exists already"):
        script.convert(tmp_path / "a.pt", tmp_path / "out" / "a.safetensors")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("kind", ["plain", "in a checkpoint", "beside weights", "old protocol"])
def test_a_hostile_pickle_is_refused_and_does_not_run(script: ModuleType, tmp_path: Path, kind: str) -> None:
    trap, source = tmp_path / "trap", tmp_path / "a.pt"
    if kind == "plain":
        source.write_bytes(pickle.dumps(Hostile(trap)))
    elif kind == "old protocol":
        source.write_bytes(pickle.dumps(Hostile(trap), protocol=0))
    else:
        weights = {"w": torch.ones(2)} if kind == "beside weights" else {}
        torch.save(weights | {"x": Hostile(trap)}, source)
    with pytest.raises(SystemExit, match=r"a\.pt: refused: it "):
        script.convert(source, tmp_path / "a.safetensors")
    assert not trap.exists()
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "refused"),
        (b"hello world", "refused"),
        (b"PK\x03\x04" + bytes(64), "refused"),
        ([torch.ones(2)], "holds a list"),
        ({}, "holds a dict, expected a dictionary of tensors"),
        ({"state_dict": {"a": torch.ones(2)}}, "'state_dict' is a dict"),
        ({"a": torch.ones(2), "epoch": 3}, "'epoch' is a int"),
        (torch.nn.Linear(2, 2), r"it names torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(
    script: ModuleType, tmp_path: Path, content: object, words: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "a.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "a.pt")
    with pytest.raises(SystemExit, match=words):
        script.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_the_process_gives_up_the_network() -> None:
    code = f"""
import importlib.machinery, socket, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
script = importlib.machinery.SourceFileLoader("convert_checkpoint", {str(SCRIPT)!r}).load_module()
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close()
script.leave_network()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
except OSError as error:
    print("unreachable:", error.strerror)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-W", "ignore", "-c", code, str(server.getsockname()[1])]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if "cannot give up the network" in ran.stderr:
        pytest.skip("this system does not allow it, and the script refuses to run")
    assert "unreachable:" in ran.stdout, ran.stderr


def test_the_files_of_a_model_are_converted_into_the_models_folder_and_the_lock(
    script: ModuleType, tmp_path: Path
) -> None:
    config = Config.model_validate({"models": {"folder": str(tmp_path / "models")}})
    with pytest.raises(FetchFailed, match="is not fetched: the licence of its weights is not stated"):
        fetching.plan(FLOWS, config)
    (tmp_path / "download/ckpts").mkdir(parents=True)
    for number, path in enumerate(FLOWS.files):
        torch.save({"w": torch.full((3,), number)}, (tmp_path / "download" / path).with_suffix(".pt"))
    script.convert_model(FLOWS, tmp_path / "download", "a" * 40, config)
    assert store.state_of(FLOWS, config).condition == "verified"
    locked = store.lock_of(FLOWS, config)
    assert (locked.commit, set(locked.files)) == ("a" * 40, set(FLOWS.files))
    assert fetching.plan(FLOWS, config) is None
    (store.locate("MDT-dist", config) / FLOWS.files[0]).write_bytes(b"changed")
    assert "delete the folder and run `scripts/convert_checkpoint" in store.state_of(FLOWS, config).problem


def test_a_download_without_a_file_is_named_before_anything_is_written(script: ModuleType, tmp_path: Path) -> None:
    config = Config.model_validate({"models": {"folder": str(tmp_path / "models")}})
    torch.save({"w": torch.ones(3)}, tmp_path / Path(FLOWS.files[0]).with_suffix(".pt").name)
    with pytest.raises(SystemExit, match=r"slat_flow_img_dit_L_64l8p2_fp16\.pt: no such file"):
        script.convert_model(FLOWS, tmp_path, "a" * 40, config)
    assert not (tmp_path / "models").exists()
    with pytest.raises(SystemExit, match="TRELLIS-image-large needs no conversion"):
        script.convert_model(find("TRELLIS-image-large"), tmp_path, "a" * 40, config)


def test_the_application_neither_loads_pickles_nor_imports_the_script() -> None:
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            assert not names & {"pickle", "cloudpickle", "joblib", "dill", "convert_checkpoint"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "hub")}, path

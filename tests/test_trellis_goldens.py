"""scripts/check_goldens: every array of our own goldens and, if present, of those recorded from the original."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "tests" / "goldens"
RECORDED = ROOT.parent / "shared" / "trellis" / "goldens"


@pytest.fixture(scope="module")
def checker():
    loader = importlib.machinery.SourceFileLoader("check_goldens", str(ROOT / "scripts" / "check_goldens"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_goldens", loader))
    loader.exec_module(module)
    return module


def run(checker, monkeypatch, capsys, folder: Path) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["check_goldens", str(folder)])
    code = checker.main()
    return code, capsys.readouterr().out


def changed(tmp_path: Path, name: str, **arrays: np.ndarray) -> Path:
    """A folder with one of our goldens, some arrays replaced or added."""
    np.savez(tmp_path / f"{name}.npz", **(dict(np.load(OWN / f"{name}.npz")) | arrays))
    return tmp_path


def test_own_goldens_of_a_float64_reference(checker, monkeypatch, capsys):
    code, text = run(checker, monkeypatch, capsys, OWN)
    assert code == 0, text
    assert "51 arrays of 7 files compared, 0 wrong" in text


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the goldens recorded from the original are not here")
def test_goldens_recorded_from_the_original(checker, monkeypatch, capsys):
    code, text = run(checker, monkeypatch, capsys, RECORDED)
    assert code == 0, text
    assert "135 arrays of 14 files compared, 0 wrong" in text


def test_an_error_above_tolerance_is_a_miss(checker, monkeypatch, capsys, tmp_path):
    v = np.load(OWN / "ss_flow.npz")["out/v"].copy()
    v[1, 2, 3, 0, 1] += 0.5
    code, text = run(checker, monkeypatch, capsys, changed(tmp_path, "ss_flow", **{"out/v": v}))
    assert code == 1
    assert "WRONG  ss_flow.npz: out/v: error 5.00e-01, tolerance 5e-05" in text


def test_one_voxel_more_is_a_miss(checker, monkeypatch, capsys, tmp_path):
    coords = np.load(OWN / "ss_decoder.npz")["out/coords"]
    more = np.concatenate([coords, coords[-1:]])
    code, text = run(checker, monkeypatch, capsys, changed(tmp_path, "ss_decoder", **{"out/coords": more}))
    assert code == 1
    assert "out/coords: error inf" in text


def test_a_value_that_is_not_a_number_is_a_miss(checker, monkeypatch, capsys, tmp_path):
    cond = np.load(OWN / "dino.npz")["out/cond"].copy()
    cond[0, 0, 0] = np.nan
    code, _ = run(checker, monkeypatch, capsys, changed(tmp_path, "dino", **{"out/cond": cond}))
    assert code == 1


def test_an_array_that_nobody_compares_is_wrong(checker, monkeypatch, capsys, tmp_path):
    code, text = run(checker, monkeypatch, capsys, changed(tmp_path, "dino", **{"out/attention": np.zeros(3)}))
    assert code == 1
    assert "dino.npz: out/attention: not compared" in text


def test_files_of_another_kind_are_not_understood(checker, monkeypatch, capsys, tmp_path):
    shutil.copy(OWN / "dino.npz", tmp_path)
    np.savez(tmp_path / "mesh.npz", **{"in/faces": np.zeros(3), "out/area": np.zeros(1)})
    (tmp_path / "notes.bin").write_bytes(b"?")
    code, text = run(checker, monkeypatch, capsys, tmp_path)
    assert code == 1
    assert "mesh.npz: not understood" in text
    assert "notes.bin: not understood" in text


def test_an_empty_folder_is_not_a_success(checker, monkeypatch, capsys, tmp_path):
    assert run(checker, monkeypatch, capsys, tmp_path)[0] == 1


def test_a_ply_is_compared_column_by_column(checker):
    rng = np.random.default_rng(0)
    splat = checker.Splat(*(rng.normal(size=shape) for shape in ((5, 3), (5, 4), (5, 3), (5,), (5, 1, 3))))
    data = checker.ply_bytes(splat)
    assert checker.compare_ply(data, data, 3e-5) == (0.0, 5e-4, True)
    for column, too_much in ((0, 1e-4), (6, 1e-4), (9, 5e-4), (11, 5e-4), (16, 1e-3)):
        table = checker.ply_table(splat).astype("<f4")
        table[3, column] += too_much
        worse = data[: -table.nbytes] + table.tobytes()
        assert not checker.compare_ply(data, worse, 3e-5)[2]
    assert not checker.compare_ply(data, data.replace(b"rot_3", b"rot_4"), 3e-5)[2]
    assert not checker.compare_ply(data, data[:-4], 3e-5)[2]

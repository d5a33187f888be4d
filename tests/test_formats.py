"""The registry of formats, and that the format of docs/extending.md needs one file and one line."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from healthy import ball

from app.commands.main import main
from app.errors import BadFile, BadInput
from app.splat import formats
from app.splat.files import decode_splat, read_splat, stored_as, write_splat
from app.splat.format import Format

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
LIMIT = 1_000_000


@pytest.fixture
def npy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Format:
    """The example of the page, as a file of its own, registered."""
    text = PAGE.read_text()
    code = re.search(r"<!-- tested: tests/test_formats.py -->\n```python\n(.*?)```", text, re.DOTALL)
    assert code, "the page marks its example"
    file = tmp_path / "npy.py"
    file.write_text(code[1])
    spec = importlib.util.spec_from_file_location("npy", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(formats.FORMATS, "npy", module.FORMAT)
    return module.FORMAT


def test_the_documented_format_is_read_and_written_like_any_other(npy: Format, tmp_path: Path) -> None:
    splat, path = ball(50), tmp_path / "a.npy"
    write_splat(path, splat)
    assert stored_as(path) is npy
    back = read_splat(path, LIMIT)
    for field in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        np.testing.assert_array_equal(getattr(back, field), getattr(splat, field))
    with pytest.raises(BadFile, match="50 Gaussians are more than"):
        read_splat(path, 49)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadFile, match="cut off"):
        read_splat(path, LIMIT)


@pytest.mark.usefixtures("npy")
def test_the_documented_format_is_served_and_kept_by_its_own_names() -> None:
    assert {"asset.npy", "input.npy"} < set(formats.media_types())
    assert "input.npy" in formats.input_names()
    assert formats.input_name(b"\x93NUMPY\x01\x00") == "input.npy"


@pytest.mark.usefixtures("npy")
def test_a_generated_splat_is_stored_and_certified_in_the_documented_format(tmp_path: Path) -> None:
    environment = {"SPLATGATE__SHAPES__GAUSSIANS": "6000", "SPLATGATE__RENDER__SIZE": "96"}
    run = CliRunner(env=environment).invoke
    made = run(main, ["generate", "--profile", "shapes", "a blue rocket", "-o", str(tmp_path / "out"), "--json"])
    assert {asset["name"] for asset in json.loads(made.stdout)["certificate"]["assets"]} == {
        "asset.ply",
        "asset.spz",
        "asset.npy",
    }
    checked = run(main, ["check", str(tmp_path / "out" / "certificate.json"), str(tmp_path / "out" / "asset.npy")])
    assert (checked.exit_code, "MATCH" in checked.stdout) == (0, True), checked.output


@pytest.mark.parametrize("name", ["a.txt", "a", "ply", "a.ply.gz"])
def test_a_path_without_a_known_suffix_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"use \.ply or \.spz"):
        formats.written_as(Path(name))


def test_a_name_chooses_the_format_whatever_the_suffix(tmp_path: Path) -> None:
    write_splat(tmp_path / "a.bin", ball(5), "spz")
    assert stored_as(tmp_path / "a.bin") is formats.FORMATS["spz"]
    with pytest.raises(BadInput, match="format 'obj' is not written"):
        write_splat(tmp_path / "a.ply", ball(5), "obj")


def test_a_format_that_is_only_read_is_not_offered_for_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    only_read = Format("old", ".old.ply", read=formats.FORMATS["ply"].read, recognizes=lambda _start: False)
    monkeypatch.setitem(formats.FORMATS, "old", only_read)
    with pytest.raises(BadInput, match="is of a format that is only read; use"):
        formats.written_as(Path("a.old.ply"))
    assert formats.written_as(Path("a.ply")).name == "ply"


def test_bytes_that_no_format_knows_are_one_bad_file() -> None:
    with pytest.raises(BadFile, match="give a 3D Gaussian splat"):
        decode_splat(b"abcd", LIMIT)

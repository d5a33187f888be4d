"""The examples of docs/extending.md, imported as the modules that the page tells the reader to write."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


def example(path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example of the page that goes to that path, imported from a file under that name."""
    code = re.search(rf"<!-- tested: {path} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code, f"the page marks {path}"
    file = folder / path.replace("/", "-")
    file.write_text(code[1])
    name = path.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module

"""The source of app/: no private name of a dependency, no module over 400 lines, no class over 150."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

APP = Path(__file__).parent.parent / "app"

ADAPTER = "private_api.py"
"""The one module that may use private names. It says why it needs each, and what would replace it."""

DOCUMENTED = {"_exit", "_asdict", "_make", "_replace", "_mapping"}
"""Public in spite of the underscore: os._exit, the methods of named tuples, and the mapping of a SQLAlchemy row."""

MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_CLASS = 400, 150


def test_no_private_name_of_a_dependency_is_used() -> None:
    uses = {path: private_uses(tree) for path, tree in trees().items() if path != ADAPTER}
    assert {path: names for path, names in uses.items() if names} == {}


def test_no_module_and_no_class_is_too_long_to_read() -> None:
    modules = {path for path in trees() if len((APP / path).read_text().splitlines()) > MOST_LINES_OF_A_MODULE}
    classes = {
        f"{path}: {node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_CLASS
    }
    assert modules | classes == set()


def test_every_way_to_a_private_name_is_seen() -> None:
    ways = {
        "import lib._a": {"_a"},
        "import lib.b._c as d": {"_c"},
        "from lib._e import f": {"_e"},
        "from lib import _g": {"_g"},
        "import lib\nlib.h._i()": {"_i"},
        "def f(database):\n    return database._j.k": {"_j"},
        "class A(Foreign):\n    def b(self):\n        return self._l": {"_l"},
        "getattr(thing, '_m')": {"_m"},
        'PROGRAM = """\nimport lib._n\nlib._o\n"""': {"_n", "_o"},
        "from app.a import _b": set(),
        "import os\nos._exit(1)\nlib.__version__": set(),
        "class A:\n    def b(self):\n        self._own = 1\n        return self._own": set(),
    }
    assert {source: private_uses(ast.parse(source)) for source in ways} == ways


def private_uses(tree: ast.Module) -> set[str]:
    """The private names of dependencies that a module imports, reads or calls.

    An attribute with an underscore that nothing in the module or in app/ defines belongs to a dependency.
    """
    own = defined(tree) | defined_in_app() | DOCUMENTED
    return {name for name in imported(tree) if private(name)} | {
        name for name in attributes(tree) if private(name) and name not in own
    }


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imported(tree: ast.Module) -> Iterator[str]:
    """Every part of the names that are imported from outside of app/."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] != "app":
            yield from node.module.split(".")
            yield from (alias.name for alias in node.names)


def attributes(tree: ast.Module) -> Iterator[str]:
    """Every attribute that is named, also in a call of getattr and its like."""
    for node in nodes(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Those of the module, and of the programs for other processes in its strings."""
    for node in ast.walk(tree):
        yield node
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nimport " in node.value:
            yield from ast.walk(ast.parse(node.value))


def defined(tree: ast.Module) -> set[str]:
    """Functions, classes, variables, and the attributes that methods assign to their object."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


@cache
def defined_in_app() -> frozenset[str]:
    return frozenset().union(*(defined(tree) for tree in trees().values()))


@cache
def trees() -> dict[str, ast.Module]:
    """Each module of app/ by its path from there."""
    return {path.relative_to(APP).as_posix(): ast.parse(path.read_text()) for path in sorted(APP.rglob("*.py"))}

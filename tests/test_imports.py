"""Imports run one way, down the layers, and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

APP = Path(__file__).parent.parent / "app"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "errors",
            "reason",
            "bounds",
            "stage",
            "generators",
            "metrics",
            "section",
            "webhooks",
            "config",
            "reading",
            "writing",
            "digest",
            "log",
            "prompt",
            "picture_format",
            "samplers",
            "sampler_request",
            "encoded_picture",
            "child",
            "address",
            "private_api",
        }
    ),
    frozenset({"splat", "turntable"}),
    frozenset({"weights", "trellis"}),
    frozenset({"stages"}),
    frozenset({"attempts", "decoding", "gate", "validation", "pipeline", "certificate", "outputs", "checking"}),
    frozenset({"jobs"}),
    frozenset({"feedback"}),
    frozenset(
        {
            "hardware",
            "identity",
            "selftest",
            "load_progress",
            "engine",
            "serve",
            "supervisor",
            "child_process",
            "liveness_probe",
        }
    ),
    frozenset({"web"}),
    frozenset({"cli", "commands", "__main__"}),
)
"""Top-level packages and modules of app/: each may import from its own layer and from those before it."""

TORCH = ("splat.raster", "trellis", "stages", "engine", "private_api")


def test_no_module_imports_from_a_later_layer() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, imported in _modules().items()
        for other in imported
        if _layer(other) > _layer(name)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(_modules()).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_every_module_belongs_to_a_layer() -> None:
    assert [name for name in _modules() if _layer(name) is None] == []


def test_torch_stays_where_it_belongs() -> None:
    users = [
        name
        for name, tree in _trees().items()
        if any(module.split(".")[0] == "torch" for module in _imported(tree)) and not name.startswith(TORCH)
    ]
    assert users == []


def _trees() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(APP).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted(APP.rglob("*.py"))
    }


def _modules() -> dict[str, set[str]]:
    trees = _trees()
    known = set(trees)
    found = {}
    for name, tree in trees.items():
        if name == "__init__":
            continue
        ours = {module.removeprefix("app.") for module in _imported(tree) if module.startswith("app.")}
        found[name] = {module if module in known else module.rpartition(".")[0] for module in ours} - {name, ""}
    return {name: imported for name, imported in found.items() if name not in ("splat", "stages")}


def _imported(tree: ast.Module) -> set[str]:
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute, so that this test sees them"
            assert node.module
            modules |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return modules


def _layer(name: str) -> int | None:
    top = name.partition(".")[0]
    return next((number for number, names in enumerate(LAYERS) if top in names), None)

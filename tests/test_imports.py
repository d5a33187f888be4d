"""Imports run one way: what stands lower in the list may import what stands higher, never the other way round."""

import ast
from pathlib import Path

APP = Path(__file__).parent.parent / "app"

ORDER = [
    *("app", "errors", "config", "reading", "digest", "log", "prompt", "child", "address"),
    *("splat.model", "splat.ply", "splat.spz", "splat.files", "splat.cameras", "splat.raster_cpu", "splat.raster"),
    *("splat.neighbours", "splat.diagnosis", "splat.opacity", "splat.repair", "splat.damage"),
    "turntable",
    *("weights", "weights.manifest", "weights.lock", "weights.store", "weights.hub", "weights.fetching"),
    "trellis",
    *("stages.solids", "stages.kinds", "stages.scene", "stages.picture", "stages.shapes", "stages.score"),
    *(
        "stages.memory",
        "stages.quantize",
        "stages.text_to_image",
        "stages.cutout",
        "stages.image_to_splat",
        "stages.full",
    ),
    *("gate", "pipeline", "certificate"),
    *("jobs", "jobs.records", "jobs.store", "jobs.bell", "jobs.assets", "jobs.room", "jobs.orders", "jobs.watch"),
    *("jobs.rollcall", "jobs.client", "jobs.backup", "jobs.queue", "jobs.ledger", "jobs.retention"),
    *("jobs.progress", "jobs.steps", "jobs.workflow"),
    *("feedback", "feedback.lines", "feedback.statistics", "feedback.advice", "feedback.join", "feedback.book"),
    *("feedback.report", "feedback.plot"),
    *("hardware", "identity", "selftest", "starting", "engine", "serve"),
    *("web.context", "web.models", "web.problems", "web.auth", "web.limits", "web.headers", "web.access"),
    *("web.assets", "web.events", "web.intake", "web.endings", "web.metrics", "web.pages"),
    *("web.health", "web.api", "web.splats", "web.worker", "web.docs", "web.feedback", "web", "web.server"),
    *("cli", "commands", "__main__"),
]

TORCH = ("splat.raster", "trellis", "stages", "engine")


def test_imports_run_one_way() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, imported in _modules().items()
        for other in imported
        if _rank(other) > _rank(name)
    ]
    assert not wrong


def test_every_module_has_its_place_in_the_order() -> None:
    assert [name for name in _modules() if _rank(name) < 0] == []


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


def _rank(name: str) -> int:
    while name and name not in ORDER:
        name = name.rpartition(".")[0]
    return ORDER.index(name) if name else (0 if name == "" else -1)

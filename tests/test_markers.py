"""The default run stays quick: a test that starts a service, an engine, a server or a browser has the marker e2e."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
STARTERS = {"host", "web", "engine", "engine_host", "object_store", "serving", "supervised", "sync_playwright"}
"""Functions of the tests that start processes."""
FIXTURES = {"browser", "bucket", "postgres_server", "s3_server", "served", "visit"}
"""Fixtures that do."""
SMOKE_TESTS = {
    "test_a_client_that_knows_a_form_field_only_gets_its_ply",
    "test_a_refusal_is_a_status_with_the_reason",
}
"""The tests of the default run with a whole service, a web process and an engine."""


def test_a_test_that_starts_processes_is_marked() -> None:
    unmarked = {
        f"{path.name}: {function.name}"
        for path in sorted(TESTS.glob("test_*.py"))
        for function in unmarked_tests(ast.parse(path.read_text()))
        if starts_processes(function) and function.name not in SMOKE_TESTS
    }
    assert unmarked == set()


def test_a_test_that_starts_processes_is_seen() -> None:
    source = """
def test_call(tmp_path):
    with web(tmp_path): pass
def test_fixture(postgres_server): pass
def test_neither(tmp_path): pass
@pytest.mark.e2e
def test_marked(bucket): pass
"""
    tests = unmarked_tests(ast.parse(source))
    assert [function.name for function in tests if starts_processes(function)] == ["test_call", "test_fixture"]


def unmarked_tests(module: ast.Module) -> list[ast.FunctionDef]:
    """Those without the marker, on the function or for the whole file."""
    whole = [ast.unparse(node) for node in module.body if isinstance(node, ast.Assign)]
    if any(line.startswith("pytestmark") and "mark.e2e" in line for line in whole):
        return []
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [test for test in tests if not any("mark.e2e" in ast.unparse(mark) for mark in test.decorator_list)]


def starts_processes(function: ast.FunctionDef) -> bool:
    called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    return bool(called & STARTERS or {argument.arg for argument in function.args.args} & FIXTURES)

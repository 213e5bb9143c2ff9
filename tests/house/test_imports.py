"""What import-linter cannot see: submodules of packages, what is loaded, what is code from data."""

import ast
import subprocess
import sys
from pathlib import Path

HEAVY = ["duckdb", "grpc", "pandas", "polars", "pyarrow.flight", "pyspark"]
CODE_FROM_DATA = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "yaml"}
RUNS_TEXT = {"__import__", "compile", "eval", "exec"}
# Writes one function from a checked expression tree; its docstring says what never becomes text.
WRITES_CODE = "hofflight/transform/row_code.py"
MAY_IMPORT_FLIGHT = ("hofflight/cli/", "hofflight/client/")
MAY_IMPORT_THE_FACE = ("hofflight/cli/", "hofflight/templates/", "hofflight/testing/")


def python(code):
    """What a fresh interpreter prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_import_hofflight_loads_nothing_heavy():
    """A user who only wants the definitions does not wait for engines."""
    loaded = python(f"import sys, hofflight; print(*[m for m in {HEAVY!r} if m in sys.modules])")

    assert loaded == ""


def test_import_hofflight_takes_less_than_300_ms():
    """The best of five, since a busy machine only ever adds time."""
    timed = (
        "import time; start = time.perf_counter()\n"
        "import hofflight\n"
        "print((time.perf_counter() - start) * 1_000)"
    )

    assert min(float(python(timed)) for _ in range(5)) < 300


def test_heavy_packages_are_imported_inside_functions(house):
    """They load when a user's data needs them, never with a module of ours."""
    at_the_top = [
        f"{path}:{node.lineno}"
        for path in house.python()
        if not path.startswith("hofflight/spark_bridge/")
        for node in house.tree(path).body
        if top_packages(node) & {"pandas", "polars", "pyspark"}
    ]

    assert at_the_top == []


def top_packages(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def test_only_clients_import_pyarrow_flight(house):
    """Two copies of gRPC in one process are unsafe, so the server's side never names Flight's."""
    offenders = [
        path
        for path in house.python()
        if not path.startswith(MAY_IMPORT_FLIGHT) and names_flight(house, path)
    ]

    assert offenders == []


def names_flight(house, path):
    """Whether a file imports it, anywhere, or holds its name as importlib would want it."""
    return "pyarrow.flight" in house.imports(path) or any(
        isinstance(node, ast.Constant) and node.value == "pyarrow.flight"
        for node in ast.walk(house.tree(path))
    )


def test_the_server_process_does_not_load_pyarrow_flight(house):
    """The same, asked of the running interpreter: everything a server imports, imported."""
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in house.python("hofflight/server", "hofflight/engine")
    ]
    loaded = python(
        "import importlib, sys\n"
        f"for name in {[*modules, 'hofflight.assemble']!r}: importlib.import_module(name)\n"
        "print('pyarrow.flight' in sys.modules)"
    )

    assert loaded == "False"


def test_rooms_import_rooms_not_the_public_face(house):
    """`import hofflight` inside would go around the contract of the rooms."""
    rooms = {path.split("/")[1].removesuffix(".py") for path in house.python()}
    offenders = [
        path
        for path in house.python()
        if not path.startswith(MAY_IMPORT_THE_FACE)
        for node in ast.walk(house.tree(path))
        if imports_the_face(node, rooms)
    ]

    assert offenders == []


def imports_the_face(node, rooms):
    names = {alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
    if isinstance(node, ast.Import):
        return "hofflight" in names
    return isinstance(node, ast.ImportFrom) and node.module == "hofflight" and names - rooms


def test_data_is_never_code(house):
    """Nothing is unpickled, evaluated or executed, whoever wrote it."""
    offenders = [
        f"{path}:{line}"
        for path in house.python()
        for line in lines_that_run_data(house.tree(path))
        if str(path) != WRITES_CODE
    ]

    assert offenders == []


def lines_that_run_data(tree):
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        options = {option.arg for option in node.keywords} if called else set()
        if (
            top_packages(node) & CODE_FROM_DATA
            or (isinstance(called, ast.Name) and called.id in RUNS_TEXT)
            or "allow_pickle" in options
            or (isinstance(node, ast.Attribute) and node.attr == "read_pickle")
        ):
            yield node.lineno


def test_init_files_only_re_export(house):
    """A package's `__init__` says what the room is and which names it offers; code has a file."""
    offenders = [
        f"{path}:{node.lineno}"
        for path in house.python()
        if path.endswith("/__init__.py")
        for node in house.tree(path).body
        if not is_re_export(node)
    ]

    assert offenders == []


def is_re_export(node):
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr):  # a docstring
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):  # if TYPE_CHECKING:
        return all(is_re_export(child) for child in node.body + node.orelse)
    if isinstance(node, ast.FunctionDef):  # lazy names, PEP 562
        return node.name in {"__getattr__", "__dir__"}
    if isinstance(node, ast.Assign):
        return all(isinstance(name, ast.Name) and name.id.startswith("_") for name in node.targets)
    return isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "").startswith("_")

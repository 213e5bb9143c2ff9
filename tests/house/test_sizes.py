"""Files and functions stay small enough to be read at once."""

import ast

import pytest

NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "base", "manager", "helpers", "misc"}


@pytest.mark.parametrize(
    ("room", "lines_max"), [("hofflight", 400), ("benchmarks", 400), ("tests", 800)]
)
def test_no_file_is_longer_than_its_cap(house, room, lines_max):
    """A file that outgrows its cap holds two things: split it by what they are."""
    lengths = {path: len(house.text(path).splitlines()) for path in house.python(room)}

    assert {p: n for p, n in lengths.items() if n > lines_max} == {}


def test_no_function_is_longer_than_60_lines(house):
    """A function fits on a screen; its docstring is not counted."""
    too_long = {
        f"{path}:{node.lineno} {node.name}": length
        for path in house.python("hofflight", "benchmarks")
        for node in ast.walk(house.tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := lines_of_code(node)) > 60
    }

    assert too_long == {}


def lines_of_code(function):
    first = function.body[0]
    is_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = first.end_lineno - first.lineno + 1 if is_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_every_module_is_named_after_what_it_holds(house):
    """`utils` and its kind say nothing, so everything ends up in them."""
    modules = house.python("hofflight", "benchmarks", "tests")
    stems = {path: path.rsplit("/", 1)[-1].removesuffix(".py") for path in modules}

    assert [path for path, stem in stems.items() if stem in NAMES_THAT_SAY_NOTHING] == []

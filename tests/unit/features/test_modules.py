"""Code comes in only from modules that the operator named, and what is wrong with one is said."""

import sys

import pytest

from hofflight.errors import DefinitionError, InvalidDuration, SettingsError
from hofflight.features.modules import collect, collect_views

GROUP = """
{name} = hof.feature_group(
    "{name}", version={version}, key="card", event_time="ts", late={late!r},
    input={{"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()}},
    windows={{"n_10m": hof.count().over("10m")}},
)
"""


def declared(name, version=1, late="10m"):
    return GROUP.format(name=name, version=version, late=late)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of a name that no other test uses into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(text, name="features"):
        own = f"{name}_of_{tmp_path.name.replace('-', '_')}"
        head = "import pyarrow as pa, hofflight as hof\n"
        (tmp_path / f"{own}.py").write_text(head + text)
        return own

    yield write
    for name in set(sys.modules) - before:
        if f"_of_{tmp_path.name.replace('-', '_')}" in name:
            del sys.modules[name]


def names(found):
    return [f"{group.name}@{group.version}" for _, group in found]


def test_groups_come_in_the_order_of_their_declaration(module):
    own = module(declared("zebra") + declared("apple") + "other = 1\n")

    found = collect(own)

    assert names(found) == ["zebra@1", "apple@1"]
    assert {where for where, _ in found} == {own}


def test_one_name_of_a_module_can_be_chosen(module):
    own = module(declared("zebra") + declared("apple"))

    assert names(collect(f"{own}:apple")) == ["apple@1"]


def test_several_modules_are_separated_by_commas(module):
    one, two = module(declared("zebra"), "one"), module(declared("apple"), "two")

    assert names(collect(f"{one}, {two},")) == ["zebra@1", "apple@1"]


def test_a_group_under_two_names_counts_once(module):
    own = module(declared("zebra") + "again = zebra\n")

    assert names(collect(own)) == ["zebra@1"]


def test_a_version_declared_twice_differently_is_refused(module):
    one, two = module(declared("zebra"), "one"), module(declared("zebra", late="5m"), "two")

    with pytest.raises(DefinitionError, match="zebra@1 is declared twice, differently"):
        collect(f"{one},{two}")


def test_a_module_that_is_not_there_is_named(module):
    with pytest.raises(SettingsError, match=r"no module 'no_such_module\.inside'"):
        collect("no_such_module.inside")


def test_a_name_that_is_not_there_is_named(module):
    own = module(declared("zebra"))

    with pytest.raises(SettingsError, match="no name 'missing'"):
        collect(f"{own}:missing")


def test_a_module_without_groups_is_refused(module):
    own = module("value = 1\n")

    with pytest.raises(DefinitionError, match="holds no feature group"):
        collect(own)


def test_a_name_that_is_no_group_is_refused(module):
    own = module("value = 1\n" + declared("zebra"))

    with pytest.raises(DefinitionError, match=":value holds no feature group"):
        collect(f"{own}:value")


def test_a_module_that_fails_says_what_and_where(module):
    own = module("raise RuntimeError('broken')\n")

    with pytest.raises(SettingsError, match=rf"RuntimeError: broken at {own}\.py:2"):
        collect(own)


def test_a_module_whose_own_import_fails_is_not_called_missing(module):
    own = module("import no_such_module\n")

    with pytest.raises(SettingsError, match=f"importing '{own}' failed .*no_such_module"):
        collect(own)


def test_a_wrong_declaration_keeps_its_own_error(module):
    own = module(declared("zebra", late="soon"))

    with pytest.raises(InvalidDuration, match="late="):
        collect(own)


def test_no_module_is_no_group():
    assert collect("") == []


def test_views_come_with_their_module(module):
    fraud = 'fraud = hof.view("fraud", version=2, features="zebra.*", labels=["is_fraud"])'
    own = module(declared("zebra") + fraud)

    (view,) = collect_views(own)

    assert (view.name, view.version) == ("fraud", 2)
    assert (view.features, view.labels) == (("zebra.*",), ("is_fraud",))
    assert collect_views(f"{own}:zebra") == []

"""Views out of the registry: what an engine would serve, without a line of its code."""

import dataclasses

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.engine.views import single_view
from hofflight.errors import NotSupported, RegistryUnavailable, UnknownView
from hofflight.features.dataset import Dataset, Model
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.features.view import declare_view, find_view, implicit_view
from hofflight.server.catalog import RegistryCatalog
from tests.unit.engine.conftest import make_group

ONE, TWO, OTHER = make_group(), make_group(version=2), make_group("other")
WIDER = make_group(version=3, input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64(),
                                     "y": pa.int64()})  # fmt: skip
PARTITIONS = {"g.1": 8, "g.2": 4, "other.1": 2}


@pytest.fixture
def registry():
    registry = Registry(SqliteDatabase(None))
    yield registry
    registry.close()


def register(registry, *groups):
    for group in groups:
        registry.save_group(group, module="", created_us=0)


def declare(registry, name, features, *groups, version=1):
    def group_of(group, wanted):
        found = [g for g in groups if g.name == group and wanted in (None, g.version)]
        return found[-1]

    registry.save_view(declare_view(name, version, features, (), group_of), created_us=0)


def catalog_of(registry, partitions=PARTITIONS):
    return RegistryCatalog(registry, lambda stream: partitions.get(stream, 0))


def names(catalog):
    return [(served.view, served.version) for served in catalog.views()]


def test_views_are_those_that_an_engine_serves(registry):
    """The same names, schemas, hashes and labels; only how rows are spread is added."""
    register(registry, ONE, TWO)
    declare(registry, "narrow", ["g.total", "g.n"], ONE)
    catalog = catalog_of(registry)

    assert names(catalog) == [("g", 1), ("g", 2), ("narrow", 1)]
    for group in (ONE, TWO):
        expected = dataclasses.replace(
            single_view(implicit_view(group), [group]), partition_key=("card",), partitions=8
        )
        assert catalog.bind("g", group.version) == expected
    view = find_view("narrow", 1, registry.views(), registry.any_group)
    expected = dataclasses.replace(single_view(view, [ONE]), partition_key=("card",), partitions=8)
    assert catalog.bind("narrow", None) == expected


def test_the_newest_version_is_meant_where_none_is_named(registry):
    """As everywhere."""
    register(registry, ONE, TWO)
    assert catalog_of(registry).bind("g", None).version == 2


def test_each_input_schema_has_a_log_and_a_topic_of_its_own(registry):
    """Versions with equal input columns read one, others read another."""
    register(registry, ONE, TWO, WIDER)
    catalog = catalog_of(registry)
    streams = {v: catalog.stream_of(catalog.bind("g", v)) for v in (1, 2, 3)}
    assert streams == {1: "g.1", 2: "g.1", 3: "g.2"}
    assert catalog.bind("g", 3).partitions == 4


@pytest.mark.parametrize("name", ["nobody", "", "g; DROP TABLE groups", "g\0", "é" * 300, "../g"])
@pytest.mark.parametrize("version", [None, 1, 0, -1, 2**63, 2**200])
def test_what_nobody_registered_is_unknown(registry, name, version):
    """Whatever a client makes up."""
    register(registry, ONE)
    with pytest.raises(UnknownView, match="HOF-201"):
        catalog_of(registry).bind(name, version)


@pytest.mark.parametrize("version", [0, -1, 9, 2**63, 2**200])
def test_a_version_that_nobody_registered_is_unknown(registry, version):
    """Of a group and of a view."""
    register(registry, ONE)
    declare(registry, "narrow", ["g.n"], ONE)
    for name in ("g", "narrow"):
        with pytest.raises(UnknownView, match="HOF-201"):
            catalog_of(registry).bind(name, version)


def test_a_view_of_several_groups_is_not_served_and_not_listed(registry):
    """It says so, each time it is asked for; the others are served beside it."""
    register(registry, ONE, OTHER)
    declare(registry, "both", ["g.n", "other.n"], ONE, OTHER)
    catalog = catalog_of(registry)
    assert names(catalog) == [("g", 1), ("other", 1)]
    for _ in range(2):
        with pytest.raises(NotSupported, match=r"HOF-213.*several streaming groups"):
            catalog.bind("both", None)


def test_a_group_without_a_topic_is_not_listed(registry):
    """Nobody could answer."""
    register(registry, ONE, OTHER)
    assert names(catalog_of(registry, {"g.1": 8})) == [("g", 1)]


def test_a_group_without_a_topic_says_so(registry):
    """And how one is made."""
    register(registry, ONE)
    with pytest.raises(NotSupported, match=r"HOF-213.*no topic.*hof register"):
        catalog_of(registry, {}).bind("g", None)


@pytest.mark.parametrize("versions", [(None, None), (1, 1)])
def test_a_group_without_a_topic_says_so_each_time(registry, versions):
    """Else its rows would be spread over no partition at all."""
    register(registry, ONE)
    catalog = catalog_of(registry, {})
    for version in versions:
        with pytest.raises(NotSupported, match="HOF-213"):
            catalog.bind("g", version)


def test_a_topic_that_was_made_meanwhile_is_found_after_a_refresh(registry):
    """No restart for it."""
    register(registry, ONE)
    partitions = {}
    catalog = catalog_of(registry, partitions)
    with pytest.raises(NotSupported):
        catalog.bind("g", None)
    partitions["g.1"] = 3
    catalog.refresh()
    assert catalog.bind("g", None).partitions == 3
    assert names(catalog) == [("g", 1)]


def test_what_others_registered_is_seen_after_a_refresh(registry):
    """Versions and views; what was bound by version stays what it was."""
    register(registry, ONE)
    catalog = catalog_of(registry)
    first = catalog.bind("g", None)
    register(registry, TWO)
    declare(registry, "narrow", ["g.n"], TWO)
    catalog.refresh()
    assert catalog.bind("g", None).version == 2
    assert catalog.bind("g", 1) is first
    assert catalog.bind("narrow", None).group_version == 2


def test_what_was_registered_since_the_last_refresh_is_served_or_unknown(registry):
    """Never an internal error: the registry is asked, what is known of it is a second old."""
    register(registry, ONE)
    catalog = catalog_of(registry)
    catalog.refresh()
    register(registry, TWO, OTHER)
    for name, version in (("other", None), ("g", 2), ("g", None)):
        try:
            served = catalog.bind(name, version)
            catalog.stream_of(served)
        except UnknownView as error:
            assert str(error).startswith("HOF-201")  # noqa: PT017


def test_any_number_of_views_may_be_in_use_at_once(registry):
    """Those that are known are found in what was seen: the registry is not asked for them."""
    register(registry, ONE, TWO, OTHER)
    for number in range(20):
        declare(registry, f"v{number}", ["g.n"], ONE)
    catalog = catalog_of(registry)
    catalog.refresh()
    registry.groups = registry.views = None  # whoever asks, fails
    for _ in range(2):
        bound = [catalog.bind(f"v{number}", None).view for number in range(20)]
        assert bound == [f"v{number}" for number in range(20)]
        assert catalog.bind("g", None).version == 2
        assert catalog.bind("g", 1).version == 1


def test_datasets_and_models_mean_their_view(registry):
    """As where the code is."""
    register(registry, ONE)
    declare(registry, "narrow", ["g.n"], ONE)
    dataset = Dataset(
        "days", 2, "narrow", 1, None, None, "arrival", "days.parquet", 0, {}, {}, {}, {}
    )
    registry.save_document(dataset, created_us=0)
    registry.save_document(Model("forest", 1, "days", 2, {}), created_us=0)
    catalog = catalog_of(registry)
    for name in ("days", "forest"):
        assert (catalog.bind(name, None).view, catalog.bind(name, None).version) == ("narrow", 1)
    with pytest.raises(UnknownView, match="HOF-201"):
        catalog.bind("days", 1)


def test_a_registry_that_is_away_costs_no_view_that_is_known(registry):
    """What was bound is bound; a refresh that fails changes nothing."""
    register(registry, ONE)
    catalog = catalog_of(registry)
    first = catalog.bind("g", 1)

    def away():
        raise RegistryUnavailable("away")

    registry.groups = away
    with pytest.raises(RegistryUnavailable):
        catalog.refresh()
    assert catalog.bind("g", 1) is first
    assert catalog.stream_of(first) == "g.1"
    assert names(catalog) == [("g", 1)]

"""Where a registry is: what the settings take, and what they refuse without repeating it."""

import traceback
from contextlib import closing

import pytest

import hofflight as hof
from hofflight.assemble_registry import open_registry, planned_registry, read_registry
from hofflight.errors import SettingsError, StoreFormat
from hofflight.settings import with_registry
from tests.conformance.registries import make_group, save

SECRET = "s3cr3t"


def settings(url):
    return hof.load_settings(registry={"url": url})


@pytest.mark.parametrize("url", [
    "", "sqlite:///registry.sqlite", "sqlite:////var/lib/hof/r.sqlite", "sqlite:///a b%20@#?.x",
    "postgresql://hof@db.example.org/hof", "postgresql://hof:a%40b@h1:5432,h2:5433/hof?sslmode=x",
    "postgresql:///hof?host=%2Frun%2Fpostgresql", "postgresql://",
])  # fmt: skip
def test_an_address_is_taken_as_it_is(url):
    assert settings(url).registry.url == url


@pytest.mark.parametrize("url", [
    f"mysql://hof:{SECRET}@h/d", f"postgres://hof:{SECRET}@h/d", f"{SECRET}", "sqlite:///",
    f"sqlite://{SECRET}", f"sqlite:/{SECRET}", f"postgresql://hof:{SECRET}@x@h/d",
    f"postgresql://hof:{SECRET}/x@h/d", f"postgresql://hof:{SECRET}#x@h/d",
    f"postgresql://hof:{SECRET}?x@h/d", f"postgresql://h/d?password={SECRET}@",
])  # fmt: skip
def test_another_is_refused_without_a_word_of_it(url):
    """Not in what led to the error either: a traceback shows that too."""
    with pytest.raises(SettingsError, match=r"HOF-601.*registry\.url") as caught:
        settings(url)

    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_settings_do_not_show_an_address():
    found = settings(f"postgresql://hof:{SECRET}@h/d")

    assert SECRET not in repr(found) + repr(found.registry) + str(found)


def test_an_argument_goes_before_the_environment(monkeypatch):
    """An empty one means the store's own."""
    monkeypatch.setenv("HOF_REGISTRY__URL", "sqlite:///a")
    monkeypatch.setenv("HOF_LOG__DURABILITY", "batch")

    found = [with_registry(None, url).registry.url for url in (None, "sqlite:///b", "")]
    assert found == ["sqlite:///a", "sqlite:///b", ""]
    given = hof.load_settings(log={"durability": "interval"}, registry={"url": "sqlite:///c"})
    assert with_registry(given, None) is given
    assert with_registry(given, "sqlite:///d").registry.url == "sqlite:///d"
    assert with_registry(given, "sqlite:///d").log.durability == "interval"
    with pytest.raises(SettingsError, match="HOF-601"):
        with_registry(given, "nonsense")


def test_without_a_store_and_an_address_there_is_nothing_to_open():
    with pytest.raises(SettingsError, match=r"HOF-601.*--store DIR, or --registry URL"):
        open_registry(settings(""))
    with pytest.raises(SettingsError, match="HOF-601"):
        planned_registry(settings(""), None)


def test_a_file_in_a_folder_that_is_not_there_is_refused(tmp_path):
    """And none is made on the way."""
    with pytest.raises(StoreFormat, match=r"HOF-503.*a folder that exists"):
        open_registry(settings(f"sqlite:///{tmp_path}/nowhere/r.sqlite"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_still_to_be_made_is_planned_in_memory(tmp_path):
    """A plan writes nothing."""
    address = settings(f"sqlite:///{tmp_path}/r.sqlite")
    for found, path in ((address, None), (settings(""), tmp_path / "store")):
        with closing(planned_registry(found, path)) as registry:
            assert registry.plan_group(make_group()).state == "created"
    assert list(tmp_path.iterdir()) == []
    with closing(open_registry(address)) as registry:
        save(registry, make_group())
    with closing(planned_registry(address, None)) as registry:
        assert registry.plan_group(make_group()).state == "unchanged"


def test_a_store_keeps_no_registry_where_it_has_a_shared_one(tmp_path):
    """Two stores, one registry: what one of them registers, both know."""
    url = f"sqlite:///{tmp_path}/shared.sqlite"
    with hof.open(tmp_path / "a", registry=url) as app:
        app.register(make_group())
        app.vector("card_tx", {"card": 1, "ts": 0})
    with hof.open(tmp_path / "b", settings=settings(url)) as app:
        assert app.engine.registry.group("card_tx").version == 1
        assert app.register(make_group(2, minutes=20)).partition == "card_tx.1"

    assert not (tmp_path / "a" / "registry.sqlite").exists()
    for attempt in (
        lambda: hof.open(tmp_path / "a"),
        lambda: read_registry(settings(""), tmp_path / "a"),
    ):
        with pytest.raises(StoreFormat, match=r"HOF-503.*--registry URL"):
            attempt()
    with closing(read_registry(settings(url), tmp_path / "a")) as registry:
        assert [g.version for g in registry.groups()] == [1, 2]


def test_a_store_with_a_registry_of_its_own_is_not_opened_with_another(tmp_path):
    """Its logs are named by the numbers which its own registry gave."""
    own = tmp_path / "store" / "registry.sqlite"
    with hof.open(tmp_path / "store") as app:
        app.register(make_group())

    for url in (f"sqlite:///{tmp_path}/other.sqlite", "postgresql://hof@127.0.0.1:1/d"):
        with pytest.raises(SettingsError, match=r"HOF-601.*of its own"):
            hof.open(tmp_path / "store", registry=url)
        with pytest.raises(SettingsError, match=r"HOF-601.*of its own"):
            read_registry(settings(url), tmp_path / "store")
    with hof.open(tmp_path / "store", registry=f"sqlite:///{own}") as app:
        assert app.engine.registry.group("card_tx").version == 1
    own.rename(tmp_path / "other.sqlite")
    with hof.open(tmp_path / "store", registry=f"sqlite:///{tmp_path}/other.sqlite") as app:
        assert app.engine.registry.group("card_tx").version == 1

"""The registry keeps every version as evidence, refuses changes, and runs nothing it holds."""

import pickle
import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import MissingFunction, ReadOnly, StoreFormat, UnknownView, VersionChanged
from hofflight.features.registry import Registry
from hofflight.features.view import Feature, View


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path):
    with closing(Registry(path)) as opened:
        yield opened


def make_group(version=1, *, name="card_tx", minutes=10, extra=None):
    return hof.feature_group(
        name, version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, **(extra or {})},
        windows={"n": hof.count().over(f"{minutes}m")},
    )  # fmt: skip


def save(registry, group):
    return registry.save_group(group, module="shop.features", created_us=7)


def test_plan_says_created_then_unchanged_then_changed(registry):
    """A plan never writes; what is unchanged may be registered any number of times."""
    assert registry.plan_group(make_group()).state == "created"
    assert registry.groups() == []

    first = save(registry, make_group())
    again = save(registry, make_group())

    assert registry.plan_group(make_group()).state == "unchanged"
    assert registry.plan_group(make_group(minutes=20)).state == "changed"
    assert first == again
    assert registry.groups() == [first]


def test_a_changed_definition_is_refused_with_a_readable_diff(registry):
    """The diff shows the line before and after, and the hint says what to do."""
    save(registry, make_group())

    with pytest.raises(VersionChanged, match="HOF-107") as caught:
        save(registry, make_group(minutes=20))

    lines = str(caught.value).splitlines()
    assert any(line.startswith("-") and "over(10m)" in line for line in lines)
    assert any(line.startswith("+") and "over(20m)" in line for line in lines)
    assert "raise its version to 2" in str(caught.value)
    assert registry.group("card_tx").code_hash == make_group().code_hash()


def test_a_changed_function_is_refused_with_its_source_in_the_diff(registry):
    """The source text is what changed, so the source text is what is shown."""

    def build(function):
        return hof.feature_group(
            "opaque", version=1, key="card", event_time="ts",
            input={"card": pa.int64(), "ts": hof.TIMESTAMP}, output={"y": pa.int64()},
        )(function)  # fmt: skip

    def one(batch):
        return {"y": batch["card"]}

    def two(batch):
        return {"y": batch["card"].take([0])}

    save(registry, build(one))
    change = registry.plan_group(build(two))

    assert change.state == "changed"
    assert '+    return {"y": batch["card"].take([0])}' in change.diff


def test_what_was_saved_is_there_after_reopening(path):
    """A version is kept with its source, schema, packages, module and time."""
    with closing(Registry(path)) as registry:
        save(registry, make_group())
        registry.save_view(View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",)), created_us=8)

    with closing(Registry(path)) as registry:
        record = registry.group("card_tx", 1)
        assert (record.module, record.created_us) == ("shop.features", 7)
        assert record.code_hash == make_group().code_hash()
        assert pa.ipc.read_schema(pa.py_buffer(record.input_schema)) == make_group().input
        assert record.packages["pyarrow"] == pa.__version__
        assert registry.views() == [View("fraud", 1, (Feature("card_tx", 1, "n"),), ("y",))]


def test_versions_with_the_same_input_schema_share_a_log(registry):
    """A later version can then fold the events that an earlier one was sent."""
    extra = {"amount": pa.float64()}
    numbers = [
        save(registry, make_group(1)).partition,
        save(registry, make_group(2, minutes=20)).partition,
        save(registry, make_group(3, extra=extra)).partition,
        save(registry, make_group(4, minutes=30)).partition,
        save(registry, make_group(1, name="other")).partition,
    ]

    assert numbers == ["card_tx.1", "card_tx.1", "card_tx.2", "card_tx.1", "other.1"]


def test_the_newest_version_is_the_highest_number_not_the_last_saved(registry):
    """Version 10 comes after 9, and after a late registration of 2."""
    for version in (9, 10, 2):
        save(registry, make_group(version))

    assert registry.group("card_tx").version == 10
    assert [g.version for g in registry.groups()] == [2, 9, 10]


def test_unknown_names_and_versions_say_what_there_is(registry):
    """A typing error is mended by reading the message."""
    save(registry, make_group())

    for name, version in (("card", None), ("card_tx", 2)):
        with pytest.raises(UnknownView, match=r"HOF-201.*card_tx@1"):
            registry.group(name, version)


def test_a_group_without_its_function_is_refused(registry):
    """Half a definition is never written."""
    half = hof.feature_group(
        "half", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP}, output={"y": pa.int64()},
    )  # fmt: skip

    with pytest.raises(MissingFunction, match="HOF-106"):
        save(registry, half)

    assert registry.groups() == []


def test_a_changed_view_is_refused(registry):
    """The order of a view's features is part of it."""
    one, two = Feature("card_tx", 1, "n"), Feature("card_tx", 1, "card")
    registry.save_view(View("fraud", 1, (one, two)), created_us=1)
    registry.save_view(View("fraud", 1, (one, two)), created_us=2)

    with pytest.raises(VersionChanged, match=r"view fraud@1"):
        registry.save_view(View("fraud", 1, (two, one)), created_us=3)

    assert registry.views() == [View("fraud", 1, (one, two))]


def test_a_read_only_registry_sees_what_a_writer_saves_and_writes_nothing(path):
    """Readers stand beside the one writer."""
    with closing(Registry(path)) as writer, closing(Registry(path, read_only=True)) as reader:
        save(writer, make_group())

        assert reader.group("card_tx") == writer.group("card_tx")
        with pytest.raises(ReadOnly, match="HOF-505"):
            save(reader, make_group(2))


def test_a_read_only_registry_is_never_created(path):
    """Looking at a store that is not there must not make one."""
    with pytest.raises(StoreFormat, match="HOF-503"):
        Registry(path, read_only=True)

    assert not path.exists()


def test_a_newer_format_is_refused(path):
    """An older release must not guess at what a newer one wrote."""
    with closing(Registry(path)):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 4")

    for read_only in (True, False):
        with pytest.raises(StoreFormat, match=r"HOF-503.*format 4.*upgrade"):
            Registry(path, read_only=read_only)


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(99)]
)
def test_a_file_that_is_no_registry_is_refused_and_left_alone(path, content):
    """The wrong file named by mistake is not overwritten."""
    path.write_bytes(content)

    with pytest.raises(StoreFormat, match=r"HOF-503.*registry.sqlite"):
        Registry(path)

    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["x'; DROP TABLE groups; --", 'x" OR 1=1', "card_tx\0", "%", "*"])
def test_sql_in_a_name_is_only_a_name(registry, name):
    """Names that come from clients go to the database as values."""
    save(registry, make_group())

    with pytest.raises(UnknownView):
        registry.group(name)

    assert [g.name for g in registry.groups()] == ["card_tx"]


class _Trap:
    """Unpickling one of these leaves a mark."""

    sprung = False

    def __reduce__(self):
        return (setattr, (_Trap, "sprung", True))


def test_a_pickle_in_the_file_stays_bytes(path, registry):
    """Whoever can write the file cannot make the reader run anything."""
    save(registry, make_group())
    trap = pickle.dumps(_Trap())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE groups SET input_schema = ?, source = ?, module = ?", (trap,) * 3)

    record = registry.group("card_tx")

    assert (record.input_schema, record.source) == (trap, trap)
    assert not _Trap.sprung


def format_1(path, *groups):
    """A registry as the first release left it: no types of answers."""
    with closing(Registry(path)) as registry:
        for group in groups:
            save(registry, group)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE groups DROP COLUMN full_schema")
        database.execute("PRAGMA user_version = 1")
        database.commit()


def columns_of_groups(path):
    with closing(sqlite3.connect(path)) as database:
        found = [row[1] for row in database.execute("PRAGMA table_info(groups)")]
        return found, database.execute("PRAGMA user_version").fetchone()[0]


def test_a_group_is_kept_with_the_types_of_its_full_row(registry):
    """Sealing needs them where the code is not at hand."""
    record = save(registry, make_group(extra={"x": pa.float64()}))

    assert record.full == make_group(extra={"x": pa.float64()}).schema
    assert record.input == make_group(extra={"x": pa.float64()}).input
    assert (record.key, record.event_time) == (("card",), "ts")


def test_a_registry_of_format_1_is_read_and_brought_up_to_date(path):
    """Everything stays; the types of answers come when a version is registered again."""
    format_1(path, make_group(), make_group(2, minutes=20))
    with closing(Registry(path)) as registry:
        before = registry.groups()
        assert [record.version for record in before] == [1, 2]
        assert [record.full for record in before] == [None, None]
        assert [record.input for record in before] == [make_group().input] * 2

        noted = save(registry, make_group())
        assert noted.full == make_group().schema
        assert (noted.created_us, noted.code_hash) == (before[0].created_us, before[0].code_hash)
        assert registry.group("card_tx", 2).full is None
        with pytest.raises(VersionChanged):
            save(registry, make_group(2, minutes=30))
        assert registry.group("card_tx", 2).full is None
    with closing(Registry(path)) as registry:
        assert registry.group("card_tx", 1).full == make_group().schema
        new = save(registry, make_group(3, minutes=40))
        assert new.full == make_group(3, minutes=40).schema


def test_a_registry_of_format_1_is_read_as_it_is_beside_an_older_server(path):
    """Reading changes nothing in the file."""
    format_1(path, make_group())
    with closing(Registry(path, read_only=True)) as registry:
        assert registry.group("card_tx").full is None
        assert registry.group("card_tx").module == "shop.features"
        with pytest.raises(ReadOnly):
            save(registry, make_group(9))

    found, number = columns_of_groups(path)
    assert "full_schema" not in found
    assert number == 1


def test_a_migration_that_was_killed_is_ended_by_the_next_start(path):
    """The column was there, the number of the format was not."""
    format_1(path, make_group())
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE groups ADD COLUMN full_schema BLOB NOT NULL DEFAULT x''")
        database.commit()

    with closing(Registry(path, read_only=True)) as registry:
        assert registry.group("card_tx").full is None
    with closing(Registry(path)) as registry:
        assert save(registry, make_group()).full == make_group().schema
    assert columns_of_groups(path)[1] == 3

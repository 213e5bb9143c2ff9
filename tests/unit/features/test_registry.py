"""The registry keeps every version as evidence, refuses changes, and runs nothing it holds."""

import pickle
import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import ReadOnly, RegistryUnavailable, StoreFormat, VersionChanged
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path):
    with closing(Registry(SqliteDatabase(path))) as opened:
        yield opened


def make_group(version=1, *, name="card_tx", minutes=10, extra=None):
    return hof.feature_group(
        name, version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, **(extra or {})},
        windows={"n": hof.count().over(f"{minutes}m")},
    )  # fmt: skip


def save(registry, group):
    return registry.save_group(group, module="shop.features", created_us=7)


def test_a_read_only_registry_is_never_created(path):
    """Looking at a store that is not there must not make one."""
    with pytest.raises(StoreFormat, match="HOF-503"):
        Registry(SqliteDatabase(path, read_only=True))

    assert not path.exists()


def test_a_newer_format_is_refused(path):
    """An older release must not guess at what a newer one wrote."""
    with closing(Registry(SqliteDatabase(path))):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 4")

    for read_only in (True, False):
        with pytest.raises(StoreFormat, match=r"HOF-503.*format 4.*upgrade"):
            Registry(SqliteDatabase(path, read_only=read_only))


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(99)]
)
def test_a_file_that_is_no_registry_is_refused_and_left_alone(path, content):
    """The wrong file named by mistake is not overwritten."""
    path.write_bytes(content)

    with pytest.raises(StoreFormat, match=r"HOF-503.*registry.sqlite"):
        Registry(SqliteDatabase(path))

    assert path.read_bytes() == content


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
    with closing(Registry(SqliteDatabase(path))) as registry:
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


def test_a_registry_of_format_1_is_read_and_brought_up_to_date(path):
    """Everything stays; the types of answers come when a version is registered again."""
    format_1(path, make_group(), make_group(2, minutes=20))
    with closing(Registry(SqliteDatabase(path))) as registry:
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
    with closing(Registry(SqliteDatabase(path))) as registry:
        assert registry.group("card_tx", 1).full == make_group().schema
        new = save(registry, make_group(3, minutes=40))
        assert new.full == make_group(3, minutes=40).schema


def test_a_registry_of_format_1_is_read_as_it_is_beside_an_older_server(path):
    """Reading changes nothing in the file."""
    format_1(path, make_group())
    with closing(Registry(SqliteDatabase(path, read_only=True))) as registry:
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

    with closing(Registry(SqliteDatabase(path, read_only=True))) as registry:
        assert registry.group("card_tx").full is None
    with closing(Registry(SqliteDatabase(path))) as registry:
        assert save(registry, make_group()).full == make_group().schema
    assert columns_of_groups(path)[1] == 3


def test_who_writes_does_not_keep_others_from_opening_it(path, registry):
    """A process may be stopped in the middle of a write; reading goes on."""
    save(registry, make_group())
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(Registry(SqliteDatabase(path))) as opened:
            assert opened.group("card_tx", 1).version == 1


def test_one_that_stays_locked_is_not_there_for_now(path, registry):
    """It is a registry all the same, and the next try may find it."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryUnavailable, match=r"HOF-515.*locked"):
            SqliteDatabase(path, busy_s=0.05)
    SqliteDatabase(path, busy_s=0.05).close()

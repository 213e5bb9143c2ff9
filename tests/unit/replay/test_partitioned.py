"""A store in partitions is one history: nothing missing, nothing twice, and no row mistaken."""

from contextlib import ExitStack

import pytest

import hofflight as hof
from hofflight.assemble import backfill_group, read_offline
from hofflight.errors import StoreFormat, UnknownView
from hofflight.eventlog.store import Store
from hofflight.replay.offline import Ask
from hofflight.settings import load_settings
from tests.unit.engine.conftest import S, make_group

PARTITIONS, CARDS, REQUESTS = (0, 1, 12), 9, 60
GROUP = make_group(late="2m")


class World:
    """The same requests to one store, and, by card, to those of partitions."""

    def __init__(self, directory):
        self.settings = load_settings(registry={"url": f"sqlite:///{directory}/registry.sqlite"})
        self.one, self.many = directory / "one", directory / "many"
        Store(self.many).require(create=True)
        paths = [self.one, *(self.many / str(number) for number in PARTITIONS)]
        with ExitStack() as stack:
            one, *parts = [
                stack.enter_context(hof.open(path, settings=self.settings)) for path in paths
            ]
            for app in (one, *parts):
                app.register(GROUP)
            one.view("labelled", 1, ["g.n"], labels=["is_fraud"])
            for number in range(REQUESTS):
                id_ = number.to_bytes(16, "big")
                card = number * 7 % CARDS
                row = {"card": card, "ts": number * 20 * S, "x": number}
                for app in (one, parts[card % len(parts)]):
                    app.vector("g", row, request_id=id_)

    def offline(self, path):
        return read_offline(path, [GROUP], self.settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("partitioned"))


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_a_training_table_is_that_of_one_store(world, engine):
    tables = []
    for path in (world.one, world.many):
        with world.offline(path) as (offline, _):
            found = offline.training_data("g", None, Ask(ids=True, engine=engine))
            tables.append(found.sort_by("request_id").to_pylist())
    assert len(tables[0]) == REQUESTS
    assert tables[0] == tables[1]


def test_every_answer_is_proven(world):
    with world.offline(world.many) as (offline, names):
        assert offline.partitions == [*PARTITIONS]
        assert names == ["0/g.1", "1/g.1", "12/g.1"]
        parity = offline.verify("g")
        explained = offline.explain("g", None, (5).to_bytes(16, "big"))
    assert (parity.rows, parity.mismatches, parity.unserved) == (REQUESTS, 0, 0)
    assert [(e.row, all(f["equal"] for f in e.features.values())) for e in explained] == [(0, True)]


def test_labels_find_their_rows_in_any_partition(world):
    labels = [{"request_id": n.to_bytes(16, "big"), "is_fraud": n % 2} for n in range(REQUESTS)]
    with world.offline(world.many) as (offline, _):
        table = offline.training_data("labelled", None, Ask(labels=labels, ids=True))
    rows = table.to_pylist()
    assert len(rows) == REQUESTS
    assert all(row["is_fraud"] == row["request_id"][-1] % 2 for row in rows)


def test_a_log_of_one_partition_has_its_own_name(world):
    with world.offline(world.many) as (offline, _):
        whole = offline.history_of("g.1").counts()
        parts = [offline.history_of(f"{number}/g.1") for number in PARTITIONS]
        rows = [
            counts.live_rows + counts.sealed_rows
            for counts in (whole, *(p.counts() for p in parts))
        ]
        assert rows[0] == sum(rows[1:]) == REQUESTS
        assert [*parts[0].ranges()] == [(0, parts[0].extent().last)]
        with pytest.raises(StoreFormat, match=r"HOF-503.*numbered in each of its partitions"):
            next(offline.history_of("g.1").ranges())
        with pytest.raises(StoreFormat, match=r"there is no log '7/g\.1'"):
            offline.history_of("7/g.1")


def test_sealing_goes_partition_by_partition_and_changes_no_row(world):
    with world.offline(world.many) as (offline, names):
        before = offline.training_data("g", None, Ask(ids=True)).to_pylist()
        reports = [offline.seal(name) for name in names]
        after = offline.training_data("g", None, Ask(ids=True)).to_pylist()
        counts = offline.history_of("g.1").counts()
    assert [report.stream for report in reports] == names
    assert counts.sealed_rows == REQUESTS
    assert (counts.live_rows, after) == (0, before)


def test_windows_are_backfilled_in_each_partition(world):
    """A version that comes later is warm wherever its cards are."""
    found = backfill_group(world.many, GROUP, settings=world.settings)
    assert found["keys"] == CARDS
    for number in PARTITIONS:
        assert [*Store(world.many / str(number)).snapshots.rglob("*")]
    with pytest.raises(StoreFormat, match=r"HOF-503.*kept in partitions"):
        backfill_group(world.many, GROUP, settings=world.settings, mapping=lambda batch: batch)


def test_a_folder_that_is_no_store_is_not_passed_over(world, tmp_path):
    """A part of the rows must never look like all of them."""
    root = Store(tmp_path / "root")
    root.require(create=True)
    (root.path / "3").mkdir()
    with pytest.raises(StoreFormat, match=r"HOF-503: '3'"), world.offline(root.path):
        pass
    for name in ("03", "x1", "1x", "٣"):
        (root.path / name).mkdir()
    (root.path / "3").rmdir()
    assert root.partitions() == {}


def test_it_is_not_opened_for_writing(world):
    """What came in beside the partitions would be in none of them."""
    with pytest.raises(StoreFormat, match=r"HOF-503.*kept in partitions"):
        hof.open(world.many, settings=world.settings)


def test_a_view_that_is_not_there_is_unknown_as_ever(world):
    with world.offline(world.many) as (offline, _), pytest.raises(UnknownView, match="HOF-201"):
        offline.verify("nobody")

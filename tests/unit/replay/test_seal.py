"""A seal turns whole entries into files, then says so; whatever ends it, the next one goes on."""

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hofflight.errors import StoreFormat, StoreLocked
from hofflight.eventlog.lock import one_at_a_time


def test_the_report_says_what_was_sealed(store, live):
    """Rows that count, marks that do not, and how far."""
    rows = len(live(store))
    told = []
    report = store.seal(progress=told.append)

    entries = [entry for _, entry in store.log.read()]
    voids = sum(entry.meta.code != "OK" for entry in entries)
    assert (report.stream, report.rows, report.voids) == ("g.1", rows, voids)
    assert (report.records, report.sealed_to) == (len(entries), store.log.last_number())
    assert report.bytes == sum(f.stat().st_size for f in store.sealed.directory.rglob("*.parquet"))
    assert sum(told) == rows


def test_sealing_again_seals_only_what_came_since(store, send):
    """And nothing where nothing came."""
    store.seal()
    first = store.sealed.manifest()
    assert store.seal().records == 0
    assert store.sealed.manifest() == first

    send(store.app, 100)
    store.seal()
    again = store.sealed.manifest()
    assert again.files[: len(first.files)] == first.files
    assert min(f.first for f in again.files[len(first.files) :]) == first.sealed_to + 1


@pytest.mark.parametrize("rows_max", [1, 5, 10_000])
def test_parts_have_about_as_many_rows_as_asked_for(store, rows_max):
    """A request is never cut, so the last one of a part may go beyond."""
    store.seal(rows_max=rows_max)
    parts = {}
    for file in store.sealed.manifest().files:
        parts[file.first, file.last] = parts.get((file.first, file.last), 0) + file.rows

    assert all(rows < rows_max + 8 for rows in parts.values())
    assert (len(parts) > 3) == (rows_max < 10)


def test_files_are_sorted_by_key_and_time_and_parted_by_day(store, send):
    """What makes them small, and quick to look into."""
    send(store.app, 100)
    store.seal()
    files = [file for file in store.sealed.manifest().files if file.version]
    assert len({file.path.split("/")[1] for file in files}) > 1
    for file in files:
        table = pq.ParquetFile(store.sealed.directory / file.path).read()
        order = list(zip(*(table[n].to_pylist() for n in ("card", "ts", "_seq")), strict=True))
        assert order == sorted(order)
        day = file.path.split("day=")[1][:10]
        assert {str(at.date()) for at in table["_arrival"].to_pylist()} == {day}


def test_void_marks_keep_the_bytes_that_were_refused(store, void):
    """What could not be read is evidence; it has no schema that a column could have."""
    number = store.log.last_number() + 1
    store.log.append([void(number), void(number + 1)])
    store.seal()
    [file] = [file for file in store.sealed.manifest().files if not file.version]
    marks = store.sealed.read_voids(file).to_pylist()
    live = [entry for _, entry in store.log.read() if entry.meta.code != "OK"]

    assert [(mark["head"], mark["body"]) for mark in marks] == [(e.head, e.body) for e in live]
    assert [mark["request_id"] for mark in marks] == [e.meta.id for e in live]
    assert marks[-1]["code"] == "HOF-402"
    assert marks[-1]["error"] == "it hung"


def test_a_log_of_void_marks_alone_is_sealed(open_store, void, replayed):
    """No file of rows, and none is missed."""
    store = open_store()
    store.log.append([void(1), void(2)])
    report = store.seal()

    assert (report.records, report.rows, report.voids) == (2, 0, 2)
    assert replayed(store.history) == []
    assert [v.number for v in store.history.voids(0, 2)] == [1, 2]


def test_an_empty_log_has_nothing_to_seal(open_store):
    """No manifest is made for it."""
    store = open_store()

    assert store.seal().records == 0
    assert store.sealed.manifest().files == ()
    assert not store.sealed.path.exists()


def test_only_one_seals_at_a_time(store):
    """The second is told, and nothing is written twice."""
    store.sealed.directory.mkdir(parents=True)
    refused = pytest.raises(StoreLocked, match=r"HOF-501.*g\.1")
    with one_at_a_time(store.sealed.directory / "lock", wait=False), refused:
        store.seal()
    store.seal()


def test_what_an_interrupted_seal_left_is_removed(store, live, replayed):
    """Files that no manifest lists, whole or not."""
    store.seal(rows_max=5)
    rows = live(store)
    folder = store.sealed.directory / "version=1/day=2026-01-01"
    folder.mkdir(parents=True, exist_ok=True)
    left = [folder / f"{1:019d}-{9:019d}.parquet", folder / f"{1:019d}-{9:019d}.parquet.tmp"]
    left.append(store.sealed.directory / "manifest.tmp")
    for path in left:
        path.write_bytes(b"half")
    assert replayed(store.history) == rows
    store.seal()

    assert not any(path.exists() for path in left)
    assert replayed(store.history) == rows


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_seal_that_fails_in_the_middle_is_gone_on_with(store, live, replayed, stop_after):
    """Whatever it had published stays, what it had not is done again."""
    rows = live(store, answers=2)
    count = 0

    def give_up(_):
        nonlocal count
        count += 1
        if count == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.seal(rows_max=4, progress=give_up)
    done = store.sealed.manifest().sealed_to
    assert 0 < done < store.log.last_number()
    assert replayed(store.history, answers=2) == rows
    store.seal(rows_max=4)
    assert store.sealed.manifest().sealed_to == store.log.last_number()
    assert replayed(store.history, answers=2) == rows


def test_a_full_folder_leaves_no_half_file(store, live, replayed):
    """A file stands where a folder belongs: an error, and the manifest is as it was."""
    store.sealed.directory.mkdir(parents=True)
    (store.sealed.directory / "version=1").write_bytes(b"")
    with pytest.raises(OSError, match="version=1"):
        store.seal()

    assert store.sealed.manifest().sealed_to == 0
    (store.sealed.directory / "version=1").unlink()
    rows = live(store)
    store.seal()
    assert replayed(store.history) == rows
    assert list(store.sealed.directory.rglob("*.tmp")) == []


def test_two_threads_that_seal_and_a_writer_lose_nothing(store, live, replayed, row):
    """Who comes second is refused; together they seal every row once."""
    stop = threading.Event()

    def seal():
        while not stop.is_set():
            try:
                store.seal(rows_max=30)
            except StoreLocked:
                stop.wait(0.001)

    threads = [threading.Thread(target=seal) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(300, 400):
        store.app.vector("g", row(number), version=2)
    stop.set()
    for thread in threads:
        thread.join()
    store.seal()

    assert replayed(store.history) == live(store)
    assert store.sealed.manifest().sealed_to == store.log.last_number()


def test_a_version_whose_types_are_not_known_is_not_sealed(store):
    """A registry of an older release: registering it again is the way, and is said."""
    store.app.engine.registry._database.change(
        "UPDATE groups SET full_schema = x'' WHERE version = 2"
    )

    with pytest.raises(StoreFormat, match="register it once"):
        store.app.seal()
    assert replayed_without_answers(store)


def replayed_without_answers(store):
    return sum(part.rows.num_rows for part in store.history.parts())


def test_sealed_files_are_plain_parquet(store):
    """Any tool reads them; only our own time is no text."""
    store.seal()
    for file in store.sealed.manifest().files:
        table = pq.read_table(store.sealed.directory / file.path, partitioning=None)
        assert table.num_rows == file.rows
        if file.version:
            assert table.schema.field("_arrival").type == pa.timestamp("us", "UTC")

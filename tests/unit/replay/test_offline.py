"""Training data through the store's verbs: labels, files, and many who ask at once."""

import threading

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import BadRange, Draining, WrongType

S = 1_000_000
START = 1_780_000_000


def make_group(version=1):
    return hof.feature_group(
        "g", version=version, key="k", event_time="ts",
        input={"k": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64()},
        windows={"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")},
    )  # fmt: skip


def row(number, **changes):
    return {"k": number % 2, "ts": (START + number) * S, "x": float(number), **changes}


@pytest.fixture
def app(tmp_path):
    """Ten rows of two keys, and a view with two labels."""
    chosen = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})
    with hof.open(tmp_path / "store", settings=chosen) as app:
        app.register(make_group())
        app.view("v", 1, ["g.x", "g.n"], labels=["bad", "note"])
        for number in range(10):
            app.vector("v", row(number), request_id=number.to_bytes(16, "big"))
        yield app


def by_key(number, **labels):
    return {"k": number % 2, "ts": (START + number) * S, **labels}


def by_id(number, **labels):
    return {"request_id": number.to_bytes(16, "big"), **labels}


def numbers(table, name):
    """`x` -> label, of the rows that have one."""
    pairs = zip(table["g.x"].to_pylist(), table[name].to_pylist(), strict=True)
    return {int(x): label for x, label in pairs if label is not None}


def counts(report):
    return {name: report[name] for name in ("rows", "unlabeled", "labels_unmatched")}


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_both_ways_of_finding_a_row_at_once(app, engine):
    """Loads by id and by key: the newest wins of each column, and each label is counted once."""
    app.label("v", [by_key(1, bad=True, note="key"), by_key(2, bad=True)])
    app.label("v", [by_id(1, bad=False), by_id(3, bad=False), by_id(77, bad=True)])
    app.label("v", [by_key(2, note="late"), by_key(-5, note="early")])
    table = app.training_data("v", engine=engine)

    assert numbers(table, "bad") == {1: False, 2: True, 3: False}
    assert numbers(table, "note") == {1: "key", 2: "late"}
    assert counts(hof.report_of(table)) == {"rows": 10, "unlabeled": 7, "labels_unmatched": 2}


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_a_label_of_before_the_first_event_finds_nothing(app, engine):
    """Times match exactly; none is taken for the next one."""
    labels = [by_key(4, bad=True), by_key(4, bad=False) | {"ts": (START + 4) * S + 1},
              by_key(0, bad=True) | {"ts": -1}]  # fmt: skip
    table = app.training_data("v", labels=labels, engine=engine)

    assert numbers(table, "bad") == {4: True}
    assert counts(hof.report_of(table)) == {"rows": 10, "unlabeled": 9, "labels_unmatched": 2}


def test_a_null_label_is_a_label(app):
    """Its row is not counted as unlabeled."""
    table = app.training_data("v", labels=[by_key(1, bad=None), by_key(2, bad=True)])

    assert numbers(table, "bad") == {2: True}
    assert counts(hof.report_of(table)) == {"rows": 10, "unlabeled": 8, "labels_unmatched": 0}


def test_without_any_labels_their_columns_are_null(app):
    """Every row is unlabeled."""
    table = app.training_data("v")

    assert table.column_names == ["g.x", "g.n", "bad", "note"]
    assert (table["bad"].null_count, table["note"].null_count) == (10, 10)
    assert counts(hof.report_of(table)) == {"rows": 10, "unlabeled": 10, "labels_unmatched": 0}


def test_a_label_of_a_row_outside_the_range_is_unmatched(app):
    """The report speaks of the table."""
    app.label("v", [by_id(1, bad=True), by_id(8, bad=True)])
    table = app.training_data("v", (START + 5) * S)

    assert numbers(table, "bad") == {8: True}
    assert counts(hof.report_of(table)) == {"rows": 5, "unlabeled": 4, "labels_unmatched": 1}


def test_text_of_labels_is_a_value(app):
    """Whatever stands in it."""
    text = "'; DROP TABLE vectors; --"

    assert numbers(app.training_data("v", labels=[by_id(1, note=text)]), "note") == {1: text}


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_file_holds_what_the_table_holds(app, tmp_path, ending):
    """Folders are made; the report comes back, and lies in a Parquet file's metadata."""
    path = tmp_path / "it's new" / f"train.{ending}"
    ask = {"labels": [by_id(1, bad=True)], "split": {"train": 0.5, "test": 0.5}, "ids": True}
    report = app.write_training_data(path, "v", **ask)
    table = app.training_data("v", **ask)

    read = pq.read_table(path) if ending == "parquet" else pa.ipc.open_file(path).read_all()
    assert read.replace_schema_metadata().equals(table.replace_schema_metadata())
    assert read.schema.remove_metadata() == table.schema.remove_metadata()
    assert (report.rows, report.parts) == (10, {"train": 5, "test": 5})
    if ending == "parquet":
        kept = hof.report_of(pq.read_schema(path))
        assert kept["seconds"] == report.seconds
        assert kept | {"seconds": 0} == hof.report_of(table) | {"seconds": 0}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_is_one_for_pandas_and_polars(app, tmp_path):
    """Neither trips over the report."""
    path = tmp_path / "train.parquet"
    app.write_training_data(path, "v")

    assert pq.read_table(path).to_pandas()["g.n"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert pl.read_parquet(path)["g.x"].to_list() == list(map(float, range(10)))


def test_a_file_is_written_over(app, tmp_path):
    """By the newer table, whole."""
    path = tmp_path / "train.parquet"
    app.write_training_data(path, "v")
    app.write_training_data(path, "v", (START + 8) * S)

    assert pq.read_table(path)["g.x"].to_pylist() == [8.0, 9.0]


def test_an_empty_range_is_an_empty_file(app, tmp_path):
    """With its schema and its report."""
    path = tmp_path / "train.parquet"
    report = app.write_training_data(path, "v", START * S, START * S)

    assert (report.rows, report.dropped) == (0, 10)
    assert pq.read_schema(path).names == ["g.x", "g.n", "bad", "note"]
    assert hof.report_of(pq.read_schema(path))["read"] == 10


def test_a_file_of_another_kind_is_refused(app, tmp_path):
    """By its name, before anything is computed."""
    with pytest.raises(BadRange):
        app.write_training_data(tmp_path / "train.csv", "v")
    assert not (tmp_path / "train.csv").exists()


@pytest.mark.parametrize("ask", [{"engine": "spark"}, {"as_of": "now"}, {"engine": None}])
def test_an_unknown_engine_or_moment_is_refused(app, ask):
    """With what there is."""
    with pytest.raises(WrongType):
        app.training_data("v", **ask)


# --- at once --------------------------------------------------------------------------------------


def test_two_make_training_data_while_a_third_sends(app, tmp_path):
    """Every table is a whole prefix of the log, and every vector is answered."""
    failed, sizes = [], {"duckdb": [], "kernel": []}
    stop = threading.Event()

    def send():
        number = 10
        while not stop.is_set():
            app.vector("v", row(number))
            number += 1

    def train(engine):
        for turn in range(6):
            if turn == 3:
                app.write_training_data(tmp_path / f"{engine}.parquet", "v", engine=engine)
                table = pq.read_table(tmp_path / f"{engine}.parquet")
            else:
                table = app.training_data("v", engine=engine)
            rows = table.num_rows
            assert table["g.x"].to_pylist() == list(map(float, range(rows)))
            assert table["g.n"].to_pylist() == [
                min(1 + number // 2, 1_800) for number in range(rows)
            ]
            sizes[engine].append(rows)

    def watched(call, *args):
        try:
            call(*args)
        except BaseException as error:
            failed.append(error)
            stop.set()

    sender = threading.Thread(target=watched, args=(send,))
    trainers = [threading.Thread(target=watched, args=(train, engine)) for engine in sizes]
    for thread in (sender, *trainers):
        thread.start()
    for thread in trainers:
        thread.join()
    stop.set()
    sender.join()

    assert failed == []
    for engine, grown in sizes.items():
        assert grown == sorted(grown), engine
        assert grown[-1] > 10


def test_a_closed_store_makes_no_training_data(app):
    """It says so."""
    app.close()
    with pytest.raises(Draining):
        app.training_data("v")

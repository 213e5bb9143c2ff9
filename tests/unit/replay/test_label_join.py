"""Labels meet their rows, whichever way they find them; the newest load of each column wins."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

import hofflight as hof

S = 1_000_000
START = 1_780_000_000
KEY = "card"


def at(number):
    return datetime.fromtimestamp(START + number, UTC)


@pytest.fixture
def app(tmp_path):
    """Ten rows, sent one by one and five together, and a view with labels."""
    group = hof.feature_group(
        "g", version=1, key=(KEY, "rate"), event_time="ts",
        input={KEY: pa.string(), "rate": pa.float64(), "ts": hof.TIMESTAMP, "x": pa.float64()},
        windows={"n": hof.count().over("1h")},
    )  # fmt: skip
    settings = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})
    with hof.open(tmp_path / "store", settings=settings) as app:
        app.register(group)
        app.view("fraud", 1, ["g.x", "g.n"], labels=["is_fraud", "note", "known_at", "day"])
        for number in range(5):
            app.vector("fraud", row(number), request_id=number.to_bytes(16, "big"))
        app.vector(
            "fraud", [row(number) for number in range(5, 10)], request_id=b"five together 16"
        )
        yield app


def row(number):
    rate = [0.0, -0.0, 1.5][number % 3]
    return {KEY: f"c{number % 2}", "rate": rate, "ts": at(number), "x": float(number)}


def by_key(number, **labels):
    found = row(number)
    del found["x"]
    return found | labels


def by_id(number, **labels):
    if number < 5:
        return {"request_id": number.to_bytes(16, "big"), "row": 0, **labels}
    return {"request_id": b"five together 16", "row": number - 5, **labels}


def labels_of(app, name="is_fraud", **options):
    """The label of each row, by `x`."""
    table = app.training_data("fraud", **options)
    return dict(zip(table["g.x"].to_pylist(), table[name].to_pylist(), strict=True))


def labelled(**changes):
    """What `labels_of` gives: null, but for these rows."""
    return dict.fromkeys(map(float, range(10))) | {float(k[1:]): v for k, v in changes.items()}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("by", [by_key, by_id])
def test_a_label_finds_its_row_and_no_other(app, by, sealed):
    """By request id and row, or by key and event time; -0.0 and 0.0 are one key."""
    app.label("fraud", [by(1, is_fraud=True), by(6, is_fraud=False), by(7, is_fraud=None)])
    if sealed:
        app.seal()

    assert labels_of(app) == labelled(_1=True, _6=False)
    report = hof.report_of(app.training_data("fraud"))
    assert (report["unlabeled"], report["labels_unmatched"]) == (7, 0)


def test_zero_and_minus_zero_are_one_key(app):
    """As in the windows."""
    app.label("fraud", [by_key(0, is_fraud=True) | {"rate": -0.0}])
    app.label("fraud", [by_key(1, is_fraud=False) | {"rate": 0.0}])

    assert labels_of(app) == labelled(_0=True, _1=False)


def test_the_newest_load_wins_whichever_way_it_found_the_row(app):
    """By id after by key, and the other way round."""
    app.label("fraud", [by_key(1, is_fraud=1), by_key(2, is_fraud=1), by_key(6, is_fraud=1)])
    app.label("fraud", [by_id(1, is_fraud=2), by_id(3, is_fraud=2), by_id(6, is_fraud=2)])
    assert labels_of(app) == labelled(_1=2, _2=1, _3=2, _6=2)
    app.label("fraud", [by_key(1, is_fraud=3), by_key(3, is_fraud=3)])

    assert labels_of(app) == labelled(_1=3, _2=1, _3=3, _6=2)


@pytest.mark.parametrize("by", [by_key, by_id])
def test_a_column_that_a_load_lacks_stays_as_it_was(app, by):
    """Each label has its own newest load."""
    app.label("fraud", [by(1, is_fraud=True), by(2, is_fraud=True)])
    app.label("fraud", [by_key(1, note="seen"), by_key(3, note="new")])
    app.label("fraud", [by(2, is_fraud=False)])

    assert labels_of(app) == labelled(_1=True, _2=False)
    assert labels_of(app, "note") == labelled(_1="seen", _3="new")


@pytest.mark.parametrize("by", [by_key, by_id])
def test_a_null_is_a_label_too_and_takes_one_back(app, by):
    """A load that has the column says so of every row it names."""
    app.label("fraud", [by_key(1, is_fraud=True)])
    app.label("fraud", [by(2, is_fraud=True)])
    app.label("fraud", [by(1, is_fraud=None, note="unclear")])

    assert labels_of(app) == labelled(_2=True)
    assert labels_of(app, "note") == labelled(_1="unclear")


@pytest.mark.parametrize("by", [by_key, by_id])
def test_labels_of_every_type_come_back_as_they_were(app, by):
    """Times and dates among them, also where only some loads have the column."""
    app.label("fraud", [by(1, known_at=at(99) + timedelta(microseconds=1), day=at(0).date())])
    app.label("fraud", [by(2, is_fraud=True)])
    app.label("fraud", [by(3, known_at=at(98), note="x")])
    table = app.training_data("fraud")

    assert table.schema.field("known_at").type == hof.TIMESTAMP
    assert table.schema.field("day").type == pa.date32()
    assert labels_of(app, "known_at") == labelled(_1=at(99) + timedelta(microseconds=1), _3=at(98))
    assert labels_of(app, "day") == labelled(_1=at(0).date())


def test_labels_without_a_row_are_counted(app):
    """Nothing is made up for them."""
    app.label("fraud", [by_key(1, is_fraud=True), by_key(1, is_fraud=True) | {"ts": at(500)}])
    app.label("fraud", [by_id(2, is_fraud=True), {**by_id(2, is_fraud=True), "row": 1}])

    report = hof.report_of(app.training_data("fraud"))
    assert (report["rows"], report["unlabeled"], report["labels_unmatched"]) == (10, 8, 2)


def test_a_view_whose_labels_never_came_has_columns_of_nulls(app):
    """A training table has its labels' columns from the first day on."""
    table = app.training_data("fraud")

    assert table.column_names == ["g.x", "g.n", "is_fraud", "note", "known_at", "day"]
    assert table["is_fraud"].null_count == 10
    app.label("fraud", pa.table({"request_id": pa.array([], pa.binary(16)),
                                 "is_fraud": pa.array([], pa.bool_())}))  # fmt: skip
    assert labels_of(app) == labelled()


def test_labels_given_stand_in_for_those_loaded(app):
    """They are not kept."""
    app.label("fraud", [by_key(1, is_fraud=True)])

    assert labels_of(app, labels=[by_id(2, is_fraud=False)]) == labelled(_2=False)
    assert labels_of(app) == labelled(_1=True)


def test_one_label_by_key_finds_every_row_of_that_time(app):
    """Two rows of one key and time are both what it speaks of."""
    app.vector("fraud", row(4) | {"x": 44.0})
    app.label("fraud", [by_key(4, is_fraud=True)])

    found = labels_of(app)
    assert (found[4.0], found[44.0]) == (True, True)
    assert hof.report_of(app.training_data("fraud"))["labels_unmatched"] == 0

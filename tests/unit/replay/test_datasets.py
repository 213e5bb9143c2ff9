"""Training datasets and models: a file, what is known of it, and a name that requests may give."""

import math
import statistics
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import (
    BadRange,
    HofError,
    InvalidName,
    InvalidView,
    UnknownView,
    WrongType,
)
from hofflight.features.dataset import Dataset, Model
from hofflight.wire.columns import to_python

S = 1_000_000
START = 1_780_000_000
CUSTOMER = hof.stored_group(
    "customer", version=2, key="customer", event_time="at",
    schema={"customer": pa.string(), "at": hof.TIMESTAMP, "age": pa.int32()},
)  # fmt: skip
TX = hof.feature_group(
    "tx", version=1, key="card", event_time="ts", late="1h",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
    windows={"n": hof.count().over("1h")}, derive={"half": hof.col("amount") / 2},
)  # fmt: skip
# Not the order of the declarations.
FEATURES = ["customer.age", "tx.half", "tx.n", "customer.at", "tx.amount"]
SETTINGS = {"online": {"map_bytes": 1 << 26}, "replay": {"threads": 1}}


def tx(number):
    return {"card": number % 2, "ts": (START + number * 60) * S, "amount": number + 0.5}


def loaded(name, seconds, age):
    return {"customer": name, "at": (START + seconds) * S, "age": age}


def ask(app, numbers, **options):
    for number in numbers:
        options["request_id"] = number.to_bytes(16, "big")
        app.vector("fraud", tx(number), keys={"customer": "ab"[number % 2]}, **options)


@pytest.fixture
def opened(open_store):
    """Opens the store; again, after it was closed."""
    return lambda: open_store(TX, CUSTOMER, **SETTINGS).app


@pytest.fixture
def app(opened):
    """Ten rows under the view; after four of them a second load."""
    app = opened()
    app.view("fraud", 1, FEATURES, labels=["is_fraud"])
    app.materialize("customer", [loaded("a", 0, 30), loaded("b", 0, None)])
    ask(app, range(4))
    app.materialize("customer", [loaded("a", 120, 31)])
    ask(app, range(4, 10))
    return app


def written(dataset):
    """The table in a dataset's file."""
    return pq.ParquetFile(dataset.file).read()


# --- the file -------------------------------------------------------------------------------------


def test_a_dataset_is_the_training_table_in_a_file_of_the_store(app):
    """Equal to what `training_data` gives, row by row, and found again by its name."""
    dataset = app.training_dataset("january", "fraud")
    table = app.training_data("fraud")

    assert written(dataset).to_pylist() == table.to_pylist()
    assert written(dataset).column_names == [*FEATURES, "is_fraud"]
    assert dataset.file == str((app.path / "datasets" / "january.1.parquet").resolve())
    assert hof.report_of(written(dataset)) | {"seconds": 0} == hof.report_of(table) | {"seconds": 0}
    assert app.engine.registry.dataset("january") == dataset
    assert app.engine.registry.datasets() == [dataset]


def test_a_dataset_says_of_which_view_code_loads_and_columns_it_is(app):
    """So that it can be told what a model was trained on."""
    dataset = app.training_dataset("january", "fraud")

    assert (dataset.name, dataset.version, dataset.view, dataset.view_version) == (
        "january", 1, "fraud", 1
    )  # fmt: skip
    assert (dataset.start_us, dataset.end_us, dataset.as_of) == (None, None, "arrival")
    assert dataset.rows == 10
    assert dataset.columns == {
        "customer.age": "int32", "tx.half": "double", "tx.n": "int64",
        "customer.at": "timestamp[us, tz=UTC]", "tx.amount": "double", "is_fraud": "null",
    }  # fmt: skip
    assert list(dataset.columns) == [*FEATURES, "is_fraud"]
    hashes = {"tx@1": TX.code_hash(), "customer@2": CUSTOMER.code_hash()}
    assert dataset.code_hashes == hashes
    assert dataset.loads == {"customer@2": 2}


def test_a_dataset_before_any_load_has_load_0(opened):
    """Its stored columns are null."""
    app = opened()
    app.view("fraud", 1, FEATURES)
    ask(app, range(3))
    dataset = app.training_dataset("empty", "fraud")

    assert dataset.loads == {"customer@2": 0}
    assert written(dataset)["customer.age"].null_count == 3
    assert dataset.statistics["customer.age"]["nulls"] == 3


def test_a_view_of_one_streaming_group_has_no_loads(app):
    """Its own code is all there is."""
    dataset = app.training_dataset("plain", "tx")

    assert (dataset.loads, dataset.code_hashes) == ({}, {"tx@1": TX.code_hash()})
    assert written(dataset).column_names == [f"tx.{name}" for name in TX.schema.names]


def test_the_path_may_be_given_and_is_made(app, tmp_path):
    """The dataset knows where it is."""
    path = tmp_path / "far" / "away" / "train.parquet"
    dataset = app.training_dataset("january", "fraud", path=path)

    assert dataset.file == str(path.resolve())
    assert written(dataset).num_rows == 10
    assert not (app.path / "datasets").exists()


@pytest.mark.parametrize("name", ["train.arrow", "train.csv", "train", "train.parquet.gz"])
def test_a_dataset_is_parquet_and_nothing_else(app, tmp_path, name):
    """It is said before anything is read, and nothing is kept."""
    with pytest.raises(BadRange, match=rf"HOF-215.*\.parquet file, not '{name}'"):
        app.training_dataset("january", "fraud", path=tmp_path / name)

    assert app.engine.registry.datasets() == []
    assert not (tmp_path / name).exists()


# --- what was asked -------------------------------------------------------------------------------


def test_range_labels_split_and_as_of_go_through(app):
    """The table is the one that was asked for, and what was asked is kept with it."""
    labels = pa.table({
        "request_id": [n.to_bytes(16, "big") for n in (3, 5)], "is_fraud": [True, False],
    })  # fmt: skip
    asked = {
        "start": tx(2)["ts"], "end": tx(8)["ts"], "labels": labels, "as_of": "event",
        "split": {"train": 0.5, "test": 0.5},
    }  # fmt: skip
    dataset = app.training_dataset("january", "fraud", **asked, ids=True, engine="kernel")
    table = written(dataset)

    assert table.to_pylist() == app.training_data("fraud", **asked, ids=True).to_pylist()
    assert (dataset.start_us, dataset.end_us, dataset.as_of) == (tx(2)["ts"], tx(8)["ts"], "event")
    assert table["request_id"].to_pylist() == [n.to_bytes(16, "big") for n in range(2, 8)]
    assert table["is_fraud"].to_pylist() == [None, True, None, False, None, None]
    assert table["split"].to_pylist() == ["train"] * 3 + ["test"] * 3
    assert dataset.statistics["split"]["top"] == [["test", 3], ["train", 3]]


def test_one_end_of_the_range_may_be_open(app):
    """It is kept as open, not as some number."""
    early = app.training_dataset("early", "fraud", end=tx(4)["ts"])
    late = app.training_dataset("late", "fraud", "2026-05-28T20:30:40Z")

    assert (early.start_us, early.end_us, early.rows) == (None, tx(4)["ts"], 4)
    assert (late.start_us, late.end_us) == (1_780_000_240 * S, None)
    assert late.rows == 6


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"as_of": "now"}, WrongType), ({"engine": "spark"}, WrongType),
        ({"start": "yesterday"}, BadRange), ({"view_version": 7}, UnknownView),
    ],
)  # fmt: skip
def test_a_wrong_question_keeps_nothing(app, asked, error):
    """No dataset, no file, and the name is free."""
    with pytest.raises(error):
        app.training_dataset("january", "fraud", **asked)

    assert app.engine.registry.datasets() == []
    assert list((app.path / "datasets").glob("*")) == []
    assert app.training_dataset("january", "fraud").version == 1


def test_a_view_of_stored_groups_alone_has_no_dataset(app):
    """No event leads to its rows."""
    app.view("stored", 1, ["customer.age"])
    with pytest.raises(InvalidView, match=r"HOF-108.*no event leads to it"):
        app.training_dataset("january", "stored")

    assert app.engine.registry.datasets() == []


# --- names and versions ---------------------------------------------------------------------------


def test_versions_count_up_and_stay_as_they_were(app):
    """Each has a file of its own."""
    first = app.training_dataset("january", "fraud")
    ask(app, [10])
    second = app.training_dataset("january", "fraud")
    fifth = app.training_dataset("january", "fraud", version=5)
    sixth = app.training_dataset("january", "fraud")
    third = app.training_dataset("january", "fraud", version=3)

    made = [first, second, fifth, sixth, third]
    assert [d.version for d in made] == [1, 2, 5, 6, 3]
    assert [d.rows for d in made] == [10, 11, 11, 11, 11]
    assert len({d.file for d in made}) == 5
    assert written(first).num_rows == 10
    registry = app.engine.registry
    assert registry.dataset("january") == sixth
    assert registry.dataset("january", 1) == first


def test_a_version_that_is_there_is_refused(app):
    """With the next free one; the file that is there is not touched."""
    first = app.training_dataset("january", "fraud")
    ask(app, [10])
    with pytest.raises(InvalidName, match=r"HOF-101.*january@1 is there.*take 2"):
        app.training_dataset("january", "fraud", version=1)

    assert written(first).num_rows == 10


@pytest.mark.parametrize(
    ("taken", "what"),
    [("tx", "a group"), ("customer", "a group"), ("fraud", "a view"), ("net", "a model")],
)
def test_a_dataset_cannot_be_called_what_is_called_so_already(app, taken, what):
    """A request that gives the name would not know which is meant."""
    app.training_dataset("january", "fraud")
    app.model("net", training_dataset="january")
    with pytest.raises(InvalidName, match=f"HOF-101.*{taken!r} is the name of {what}"):
        app.training_dataset(taken, "fraud")
    if what != "a model":
        with pytest.raises(InvalidName, match=f"HOF-101.*{taken!r} is the name of {what}"):
            app.model(taken, training_dataset="january")

    assert [d.name for d in app.engine.registry.datasets()] == ["january"]


def test_nothing_else_can_be_called_what_a_dataset_or_model_is(app):
    """Nor the other way round."""
    app.training_dataset("january", "fraud")
    app.model("net", training_dataset="january")

    for name in ("january", "net"):
        stored = hof.stored_group(
            name, version=1, key="customer", event_time="at",
            schema={"customer": pa.string(), "at": hof.TIMESTAMP},
        )  # fmt: skip
        streaming = hof.feature_group(
            name, version=1, key="card", event_time="ts", input=dict(zip(
                TX.input.names, TX.input.types, strict=True)),
        )  # fmt: skip
        for group in (stored, streaming):
            with pytest.raises(InvalidName, match=f"HOF-101.*{name!r} is the name of a"):
                app.register(group)
        with pytest.raises(InvalidName, match=f"HOF-101.*{name!r} is the name of a"):
            app.view(name, 1, ["tx.n"])
    with pytest.raises(InvalidName, match=r"HOF-101.*'january' is the name of a dataset"):
        app.model("january", training_dataset="january")


@pytest.mark.parametrize("name", ["", "January", "1st", "a.b", "a@1", "../x", None, "a" * 64])
def test_a_name_is_a_word(app, name):
    """It is part of a file's name, and of a request."""
    with pytest.raises(HofError, match="HOF-10"):
        app.training_dataset(name, "fraud")
    app.training_dataset("january", "fraud")
    with pytest.raises(HofError, match="HOF-10"):
        app.model(name, training_dataset="january")


@pytest.mark.parametrize("version", [0, -1, 1.5, "1", True, 2**40])
def test_a_version_is_a_number_from_1(app, version):
    """As everywhere."""
    with pytest.raises(HofError, match="HOF-10"):
        app.training_dataset("january", "fraud", version=version)
    assert app.engine.registry.datasets() == []


# --- models ---------------------------------------------------------------------------------------


def test_a_model_keeps_its_dataset_and_its_tags(app):
    """The newest version of the dataset at that time, or the one named."""
    app.training_dataset("january", "fraud")
    app.training_dataset("january", "fraud")
    newest = app.model("net", training_dataset="january", tags={"run": "a1b2", "": "ä"})
    named = app.model("net", training_dataset="january", dataset_version=1)
    chosen = app.model("net", training_dataset="january", version=9)
    app.training_dataset("january", "fraud")

    assert newest == Model("net", 1, "january", 2, {"run": "a1b2", "": "ä"})
    assert named == Model("net", 2, "january", 1, {})
    assert chosen == Model("net", 9, "january", 2, {})
    assert app.engine.registry.models() == [newest, named, chosen]
    with pytest.raises(InvalidName, match=r"HOF-101.*net@9 is there.*take 10"):
        app.model("net", training_dataset="january", version=9)


@pytest.mark.parametrize("tags", [{"run": 1}, {1: "run"}, ["run"], "run", {"run": None}])
def test_tags_are_text_by_text(app, tags):
    """Nothing is kept otherwise."""
    app.training_dataset("january", "fraud")
    with pytest.raises(WrongType, match=r"HOF-103.*text by text"):
        app.model("net", training_dataset="january", tags=tags)
    assert app.engine.registry.models() == []


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("february", None, r"no training dataset 'february'; there are \['january'\]"),
        ("fraud", None, "no training dataset 'fraud'"),
        ("january", 2, r"dataset 'january' has the versions \[1\], not 2"),
    ],
)
def test_a_model_of_an_unknown_dataset_is_refused(app, name, version, said):
    """It says which there are."""
    app.training_dataset("january", "fraud")
    with pytest.raises(UnknownView, match=f"HOF-201.*{said}"):
        app.model("net", training_dataset=name, dataset_version=version)
    assert app.engine.registry.models() == []


# --- requests by their names ----------------------------------------------------------------------


def names_of(vector):
    return vector.batch.schema.names


def test_a_request_by_dataset_or_model_gets_the_vector_that_it_was_trained_on(app, opened):
    """Of the view's version then, in its order; also after the store was opened again."""
    app.training_dataset("january", "fraud")
    app.view("fraud", 2, list(reversed(FEATURES)))
    app.training_dataset("january", "fraud", view_version=2)
    app.model("net", training_dataset="january", dataset_version=1)
    app.model("net", training_dataset="january", dataset_version=2)
    wanted = {("fraud", 1): 1, ("fraud", 2): 2, ("fraud", None): 2, ("january", 1): 1,
              ("january", 2): 2, ("january", None): 2, ("net", 1): 1, ("net", 2): 2,
              ("net", None): 2}  # fmt: skip

    def check(app):
        rows, keys = [tx(20), tx(21)], {"customer": ["a", "nobody"]}
        for (name, version), of in wanted.items():
            vector = app.vector(name, rows, keys=keys, version=version, store=False)
            plain = app.vector("fraud", rows, keys=keys, version=of, store=False)
            assert vector.batch.equals(plain.batch)
            assert names_of(vector) == (FEATURES if of == 1 else FEATURES[::-1])
            assert vector.status == plain.status
            assert (vector.view, vector.version, vector.code_hash) == (
                "fraud", of, plain.code_hash
            )  # fmt: skip

    check(app)
    app.close()
    check(opened())


def test_what_was_asked_by_a_models_name_counts_as_the_views(app):
    """Its rows are in the training table, and verified."""
    app.training_dataset("january", "fraud")
    app.model("net", training_dataset="january")
    for number, name in ((20, "net"), (21, "january")):
        app.vector(name, tx(number), keys={"customer": "a"})
    table, parity = app.training_data("net"), app.verify("january")

    assert table.num_rows == 12
    assert table["customer.age"].to_pylist()[-2:] == [31, 31]
    assert (parity.view, parity.mismatches) == ("fraud", 0)
    assert parity.parts == {"tx": 12, "customer": 12}


def test_a_name_or_version_that_is_not_there_is_said(app):
    """Each by what it is."""
    app.training_dataset("january", "fraud")
    app.model("net", training_dataset="january")
    for name, version, said in [
        ("january", 2, "dataset 'january' has the versions"),
        ("net", 3, "model 'net' has the versions"),
        ("february", None, "no group 'february'"),
    ]:
        with pytest.raises(UnknownView, match=f"HOF-201.*{said}"):
            app.vector(name, tx(20), keys={"customer": "a"}, version=version)


def test_a_dataset_of_a_group_by_name_is_asked_for_as_the_group(app):
    """The implicit view, of the version then."""
    app.training_dataset("plain", "tx")
    vector = app.vector("plain", tx(20), store=False)

    assert names_of(vector) == [f"tx.{name}" for name in TX.schema.names]


# --- statistics -----------------------------------------------------------------------------------


def brute_force(column):
    """The statistics of a column, from its plain values, one by one."""
    values = to_python(column.combine_chunks())
    there = [value for value in values if value is not None]
    found = {"rows": len(values), "nulls": len(values) - len(there)}
    if pa.types.is_list(column.type):
        return found
    # All NaN are one value, both zeros are one.
    found["distinct"] = len({"nan" if v != v else v for v in there})
    if column.type in (pa.string(), pa.bool_(), pa.null()):
        ordered = sorted(Counter(there).items(), key=lambda pair: (-pair[1], pair[0]))
        return found | {"top": [list(pair) for pair in ordered[:10]]}
    if column.type == pa.binary():
        return found
    numbers = [float(v) for v in there if math.isfinite(v)]
    names = ("min", "max", "mean", "std", "q25", "q50", "q75")
    if not numbers:
        return found | dict.fromkeys(names)
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    quarters = [float(q) for q in np.quantile(numbers, (0.25, 0.5, 0.75))]
    mean = math.fsum(numbers) / len(numbers)
    values = [min(numbers), max(numbers), mean, std, *quarters]
    return found | dict(zip(names, values, strict=True))


def assert_statistics(dataset):
    """Those that were kept are those of the file."""
    table = written(dataset)
    assert list(dataset.statistics) == table.column_names
    for name in table.column_names:
        wanted, found = brute_force(table[name]), dataset.statistics[name]
        assert found.keys() == wanted.keys(), name
        for what, value in wanted.items():
            if isinstance(value, float):
                # Some of these columns lie far from zero, which a test of its own is about.
                near = pytest.approx(value, rel=1e-6 if what == "std" else 1e-9, abs=1e-12)
                assert found[what] == near, (name, what)
            else:
                assert found[what] == value, (name, what)


def test_statistics_are_those_of_the_rows_whatever_their_type(open_store, group, row):
    """Integers of every width, floats with NaN and infinities, text, bools, bytes, times, lists."""
    app = open_store(group(), **SETTINGS).app
    # 1e300 squared is no double, and times a microsecond apart are far from zero: see below.
    rows = [row(number, at=None if number % 7 == 3 else START - number * S) for number in range(60)]
    rows = [one | {"x": 7.25} if one["x"] == 1e300 else one for one in rows]
    app.vector("g", rows)
    dataset = app.training_dataset("every", "g")

    assert dataset.rows == 60
    assert_statistics(dataset)
    assert dataset.statistics["g.x"]["nulls"] < dataset.statistics["g.x"]["rows"]
    assert set(dataset.statistics["g.top"]) == {"rows", "nulls"}
    assert dataset.statistics["g.ts"]["min"] == row(0)["ts"]
    assert dataset.statistics["g.shop"]["top"][0][1] > 1


def test_statistics_of_stored_columns_and_labels_are_kept_too(app):
    """Those of the joined table."""
    labels = pa.table({
        "request_id": [n.to_bytes(16, "big") for n in range(5)],
        "is_fraud": [True, False, False, None, True],
    })  # fmt: skip
    dataset = app.training_dataset("january", "fraud", labels=labels)

    assert_statistics(dataset)
    assert dataset.statistics["customer.age"]["nulls"] == 5
    assert dataset.statistics["is_fraud"]["top"] == [[False, 2], [True, 2]]


def test_the_spread_of_numbers_far_from_zero_is_right(open_store):
    """Ids, and times that lie close together: their squares lose what tells them apart."""
    app = open_store(TX, **SETTINGS).app
    app.vector("tx", [tx(n) | {"amount": 1.78e15 + n % 50} for n in range(200)])
    dataset = app.training_dataset("far", "tx")

    wanted = statistics.stdev(written(dataset)["tx.amount"].to_pylist())
    assert dataset.statistics["tx.amount"]["std"] == pytest.approx(wanted, rel=1e-9)


def test_statistics_that_no_double_can_hold_are_null(open_store):
    """The spread of the largest numbers; what can be said is said."""
    app = open_store(TX, **SETTINGS).app
    app.vector("tx", [tx(n) | {"amount": a} for n, a in enumerate((1e300, -1e300, 2.0))])
    found = app.training_dataset("huge", "tx").statistics["tx.amount"]

    assert (found["min"], found["max"], found["q50"]) == (-1e300, 1e300, 2.0)
    assert (found["mean"], found["std"]) == (pytest.approx(2 / 3), None)


def test_statistics_of_one_row_and_of_none(app):
    """What has no meaning is null: one row has no spread, no row has nothing."""
    one = app.training_dataset("one", "fraud", start=tx(9)["ts"])
    none = app.training_dataset("none", "fraud", start=tx(99)["ts"])

    assert (one.rows, none.rows) == (1, 0)
    assert_statistics(one)
    assert_statistics(none)
    assert one.statistics["tx.amount"] == {
        "rows": 1, "nulls": 0, "distinct": 1, "min": 9.5, "max": 9.5, "mean": 9.5, "std": None,
        "q25": 9.5, "q50": 9.5, "q75": 9.5,
    }  # fmt: skip
    assert none.statistics["tx.amount"]["mean"] is None


def test_the_ten_most_frequent_texts_are_kept(open_store, group, row):
    """Of equal counts the smaller ones: the same each time."""
    app = open_store(group(windows={}, derive={}), **SETTINGS).app
    texts = [f"t{n:02}" for n in range(15)] + ["t14", "t13", "t13", None, ""]
    app.vector("g", [row(n) | {"shop": text} for n, text in enumerate(texts)])
    found = app.training_dataset("texts", "g").statistics["g.shop"]

    assert found["top"][:2] == [["t13", 3], ["t14", 2]]
    assert [text for text, _ in found["top"][2:]] == ["", *(f"t{n:02}" for n in range(7))]
    assert (found["rows"], found["nulls"], found["distinct"]) == (20, 1, 16)


def test_what_is_kept_comes_back_as_it_was(app, opened):
    """Through JSON, in another process's eyes: nulls, nested lists, big numbers."""
    labels = pa.table({"request_id": [(1).to_bytes(16, "big")], "is_fraud": [2**53 + 1]})
    dataset = app.training_dataset("january", "fraud", labels=labels, split={"a": 1.0})
    model = app.model("net", training_dataset="january", tags={"note": 'a "b"\n'})
    app.close()
    registry = opened().engine.registry

    assert isinstance(registry.dataset("january"), Dataset)
    assert registry.dataset("january") == dataset
    assert registry.models() == [model]


def test_no_two_datasets_share_a_file(app, tmp_path):
    """The second would write over what the first is known by."""
    app.training_dataset("one", "tx", path=tmp_path / "x.parquet")
    with pytest.raises(BadRange, match=r"'x\.parquet' is the file of dataset one@1"):
        app.training_dataset("two", "tx", path=tmp_path / "x.parquet")

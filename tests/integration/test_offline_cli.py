"""`hof train`, `label`, `verify`, `backfill` and `log seal`, run as processes, as users do."""

import json
import shutil
import subprocess

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from tests.integration.test_cli import COMMAND, ended, environment, serving

FEATURES = """
import pyarrow as pa
import hofflight as hof

INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()}
card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts", late="10m", input=INPUT,
    output={"double": hof.col("amount") * 2},
    windows={"n_10m": hof.count().over("10m"), "mean_1h": hof.mean("amount").over("1h")},
)
fraud = hof.view(
    "fraud", version=1, labels=["is_fraud"],
    features=["card_tx@1.mean_1h", "card_tx@1.n_10m", "card_tx@1.amount"],
)
"""
NEWER = f"""{FEATURES}
newer = hof.feature_group(
    "card_tx", version=2, key="card", event_time="ts", late="10m", input=INPUT,
    windows={{"n_1h": hof.count().over("1h"), "all": hof.sum("amount").lifetime()}},
)
"""
MAPPED = """
import pyarrow as pa
import pyarrow.compute as pc
import hofflight as hof

cents = hof.feature_group(
    "card_tx", version=3, key="card", event_time="ts", late="10m",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "cents": pa.int64()},
    windows={"spent": hof.sum("cents").over("1h")},
)


def to_cents(batch):
    cents = pc.cast(pc.multiply(batch["amount"], 100), pa.int64())
    return {"card": batch["card"], "ts": batch["ts"], "cents": cents}
"""
MODULES = {
    "features": FEATURES, "newer": NEWER, "mapped": MAPPED,
    "changed": FEATURES.replace('"1h"', '"5m"'),
}  # fmt: skip
NOON_US = 1_700_000_000_000_000
NOON = "2023-11-14T22:13:20Z"
ROWS, SEALED_ROWS = 30, 20
LATE, OUT_OF_ORDER = 17, 8
BACK_S = {LATE: 3_600, OUT_OF_ORDER: 150}
FEATURE_NAMES = ["card_tx.mean_1h", "card_tx.n_10m", "card_tx.amount"]


def event(number):
    seconds = number * 60 - BACK_S.get(number, 0)
    return {"card": 7 + number % 2, "ts": NOON_US + seconds * 1_000_000, "amount": number + 0.5}


def id_of(number):
    return number.to_bytes(16, "big")


def groups_in(module):
    """The feature groups that a module of this file declares, by version."""
    names = {}
    exec(MODULES[module], names)
    groups = [value for value in names.values() if isinstance(value, hof.FeatureGroup)]
    return {group.version: group for group in groups}


class Place:
    """A directory with the modules and a store, and `hof` run in it."""

    def __init__(self, folder):
        self.folder = folder
        self.store = folder / "store"

    def __call__(self, *arguments):
        return subprocess.run(
            [*COMMAND, *map(str, arguments), "--store", "store"],
            cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip

    def json(self, *arguments, code=0):
        """What a command printed as JSON, once it ended with a code."""
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def train(self, name, *arguments):
        """The table that `hof train fraud` wrote."""
        done = self("train", "fraud", "--modules", "features", "--out", name, *arguments)
        assert done.returncode == 0, done.stderr
        return pq.ParquetFile(self.folder / name).read()


def filled_place(folder):
    """A store of 30 requests by their numbers, the first 20 sealed; and one that was refused."""
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    place = Place(folder)
    with hof.open(place.store) as app:
        app.register(groups_in("features")[1], module="features")
        app.view("fraud", 1, FEATURE_NAMES, labels=["is_fraud"])
        for number in range(ROWS):
            app.vector("fraud", event(number), request_id=id_of(number))
            if number == SEALED_ROWS - 1:
                app.seal()
        with pytest.raises(hof.HofError):
            app.vector("fraud", {**event(0), "card": None})
    return place


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A filled place, to be read only."""
    return filled_place(tmp_path_factory.mktemp("offline"))


@pytest.fixture
def copied(filled, tmp_path):
    """A filled place of a test's own."""
    shutil.copytree(filled.folder, tmp_path / "copy")
    return Place(tmp_path / "copy")


def in_order(numbers=range(ROWS)):
    """Numbers in the order of a training table: by event time, then by arrival."""
    return sorted(numbers, key=lambda number: event(number)["ts"])


def vectors():
    """What was served, by number, as the reference says."""
    rows = [event(number) for number in range(ROWS)]
    out = hof.testing.run(groups_in("features")[1], rows, batch_rows=1)
    return [
        {"card_tx.mean_1h": mean, "card_tx.n_10m": n, "card_tx.amount": row["amount"]}
        for mean, n, row in zip(out["mean_1h"], out["n_10m"], rows, strict=True)
    ]


# --- seal -----------------------------------------------------------------------------------------


def test_seal_turns_all_logs_into_parquet_and_says_what(copied):
    """A second seal finds nothing; a stream can be named."""
    (first,) = copied.json("log", "seal")["sealed"]
    (again,) = copied.json("log", "seal", "card_tx.1")["sealed"]

    assert (first["stream"], first["rows"], first["voids"]) == ("card_tx.1", 10, 1)
    assert (again["rows"], again["voids"], again["sealed_to"]) == (0, 0, first["sealed_to"])
    files = sorted((copied.store / "sealed").rglob("version=1/*/*.parquet"))
    assert sum(pq.ParquetFile(file).metadata.num_rows for file in files) == ROWS


def test_seal_of_an_unknown_stream_is_2_and_names_those_that_are(filled):
    """Nothing is sealed then."""
    refused = filled("log", "seal", "card_tx.9")

    assert refused.returncode == 2
    assert refused.stderr.startswith("HOF-601: there is no log ['card_tx.9']")
    assert "['card_tx.1']" in refused.stderr


def test_seal_and_verify_run_beside_a_server_that_keeps_answering(copied):
    """The server's own rows are sealed with the others, and equal."""
    with serving(copied.folder, "--modules", "features") as (process, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            client.vector("fraud", event(40))
            (report,) = copied.json("log", "seal")["sealed"]
            after = client.vector("fraud", event(41)).to_dict()
        parity = copied.json("verify", "fraud", "--modules", "features")
        code = ended(process)

    assert report["rows"] == 11
    assert after["card_tx.amount"] == 41.5
    assert (parity["rows"], parity["mismatches"]) == (ROWS + 2, 0)
    assert code == 0


# --- train ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_train_writes_what_was_served_in_the_order_of_time(filled, engine):
    """Sealed and live rows alike, by either engine."""
    table = filled.train(f"{engine}.parquet", "--engine", engine)

    served = vectors()
    assert table.column_names == [*FEATURE_NAMES, "is_fraud"]
    assert table.select(FEATURE_NAMES).to_pylist() == [served[number] for number in in_order()]


def test_the_report_is_printed_and_kept_in_the_parquet_file(filled):
    """So a model's file says what it was trained on."""
    printed = filled.json("train", "fraud@1", "--modules", "features", "--out", "kept.parquet")
    kept = hof.report_of(pq.ParquetFile(filled.folder / "kept.parquet").schema_arrow)

    assert printed.pop("file") == "kept.parquet"
    assert kept == printed
    assert (kept["view"], kept["version"], kept["as_of"]) == ("fraud", 1, "arrival")
    assert (kept["rows"], kept["read"], kept["dropped"], kept["late"]) == (ROWS, ROWS, 0, 1)
    assert kept["code_hash"] == groups_in("features")[1].code_hash()


def test_a_group_by_name_gives_its_columns_as_an_arrow_file(filled):
    """Every column, and no label."""
    done = filled("train", "card_tx", "--modules", "features", "--out", "new/all.arrow")

    assert done.returncode == 0, done.stderr
    with pa.memory_map(str(filled.folder / "new" / "all.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    names = ["card", "ts", "amount", "double", "n_10m", "mean_1h"]
    assert table.column_names == [f"card_tx.{name}" for name in names]
    assert table["card_tx.double"].to_pylist() == [2 * event(n)["amount"] for n in in_order()]
    assert "rows" in done.stdout


def test_train_takes_a_span_ids_and_a_split(filled):
    """--from is in, --until is not; ids stand before the features, the split behind them."""
    table = filled.train(
        "split.parquet", "--ids", "--from", NOON, "--until", "2023-11-14T22:23:20+00:00",
        "--split", '{"train": 0.8, "test": 0.2}',
    )  # fmt: skip

    assert table.column_names == [
        "request_id", "row", "late", *FEATURE_NAMES, "is_fraud", "split",
    ]  # fmt: skip
    assert table["request_id"].to_pylist() == [id_of(n) for n in in_order(range(10))]
    assert table["split"].to_pylist() == ["train"] * 8 + ["test"] * 2


def test_as_of_event_counts_what_came_after_the_answer(filled):
    """An event out of order is in the windows of a younger one then; a late one stays out."""
    table = filled.train("event.parquet", "--ids", "--as-of", "event")

    ids, n_10m = (table[name].to_pylist() for name in ("request_id", "card_tx.n_10m"))
    counts = dict(zip(ids, n_10m, strict=True))
    younger = OUT_OF_ORDER - 2
    assert counts[id_of(younger)] == vectors()[younger]["card_tx.n_10m"] + 1
    assert counts[id_of(LATE)] is None
    assert table["late"].to_pylist().index(True) == in_order().index(LATE)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_train_joins_the_labels_of_a_file(filled, kind):
    """By key and event time, in place of any that were loaded."""
    chosen = [3, 4, 25]
    labels = pa.table({
        "card": [event(n)["card"] for n in chosen],
        "ts": pa.array([event(n)["ts"] for n in chosen], hof.TIMESTAMP),
        "is_fraud": [True, False, True],
    })  # fmt: skip
    file = filled.folder / f"labels.{kind}"
    (pyarrow.csv.write_csv if kind == "csv" else pq.write_table)(labels, file)
    table = filled.train(f"labelled_{kind}.parquet", "--labels", file.name)

    known = {3: True, 4: False, 25: True}
    assert table["is_fraud"].to_pylist() == [known.get(number) for number in in_order()]
    assert hof.report_of(table)["unlabeled"] == ROWS - 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--out", "t.parquet", "--from", "2023-11-14T22:13:20"), 1, "HOF-215: start: '2023"),
        (("--out", "t.csv"), 1, "HOF-215: 't.csv' is neither .parquet nor .arrow"),
        (("--out", "t.parquet", "--engine", "spark"), 2, "HOF-103: engine= is"),
    ],
)
def test_a_wrong_train_says_why_and_writes_nothing(filled, arguments, code, said):
    """No file, not even part of one."""
    refused = filled("train", "fraud", "--modules", "features", *arguments)

    assert refused.returncode == code
    assert refused.stderr.startswith(said)
    assert not list(filled.folder.glob("t.*"))


@pytest.mark.parametrize("verb", ["train", "verify"])
def test_code_that_was_not_named_is_asked_for_with_the_option(filled, verb):
    """The registry knows the module."""
    more = ("--out", "t.parquet") if verb == "train" else ()
    refused = filled(verb, "fraud", *more)

    assert refused.returncode == 1
    assert refused.stderr.startswith("HOF-504")
    assert "--modules features" in refused.stderr


# --- label ----------------------------------------------------------------------------------------


def test_labels_that_were_loaded_are_in_the_next_training_table(copied):
    """By request id; a later load of the same row wins."""
    for name, text in {
        "first.csv": f"request_id,is_fraud\n{id_of(3).hex()},true\n{id_of(4).hex()},true\n",
        "second.csv": f"request_id,is_fraud\n{id_of(4).hex()},false\n",
    }.items():
        (copied.folder / name).write_text(text)
    first = copied.json("label", "fraud", "first.csv")
    second = copied("label", "fraud", "second.csv")
    table = copied.train("labelled.parquet")

    assert first == {"view": "fraud", "rows": 2}
    assert second.stdout == "1 rows of labels of fraud\n"
    known = {3: True, 4: False}
    assert table["is_fraud"].to_pylist() == [known.get(number) for number in in_order()]


def test_labels_that_fit_no_view_are_refused(filled):
    """And nothing is kept."""
    (filled.folder / "wrong.csv").write_text("card,is_fraud\n1,true\n")
    refused = filled("label", "fraud", "wrong.csv")

    assert refused.returncode == 1
    assert refused.stderr.startswith("HOF-214: labels of fraud: the columns ['ts'] are missing")
    assert not list((filled.store / "labels").rglob("*.parquet"))


# --- verify ---------------------------------------------------------------------------------------


def change_a_sealed_answer(place, number, column, value):
    """What a bad disk or a forger would do: one value of one answer is another."""
    directory = place.store / "sealed" / "card_tx.1"
    path = next(directory.glob("version=1/*/*.parquet"))
    table = pq.ParquetFile(path).read()
    row = table["_request_id"].to_pylist().index(id_of(number))
    answers = table["_answer"].to_pylist()
    answers[row][column] = value
    field = table.schema.field("_answer")
    changed = pa.array(answers, field.type)
    pq.write_table(table.set_column(table.schema.names.index("_answer"), field, changed), path)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    (listed,) = [file for file in manifest["files"] if path.match(file["path"])]
    listed["bytes"] = path.stat().st_size
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_verify_ends_with_0_when_every_answer_is_replayed(filled):
    """Live and sealed ones; one line says how many."""
    done = filled("verify", "fraud", "--modules", "features")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"parity: {ROWS} answers of fraud@1 replayed by DuckDB, 0 mismatches, 0 unserved; "
    )


def test_verify_ends_with_1_at_a_difference_and_shows_the_events_of_the_window(copied):
    """Which request, both values, and every event that was in the window."""
    change_a_sealed_answer(copied, 5, "n_10m", 99)
    done = copied("verify", "fraud", "--modules", "features")
    found = copied.json("verify", "fraud", "--modules", "features", code=1)

    assert done.returncode == 1
    said = f"request {id_of(5).hex()} row 0: card_tx.n_10m was served as 99, replay: 3"
    assert said in done.stdout
    assert "n_10m = count().over(10m)" in done.stdout
    assert (found["mismatches"], found["by_feature"]) == (1, {"card_tx.n_10m": 1})
    (explained,) = found["explained"]
    assert explained["request_id"] == id_of(5).hex()
    assert explained["features"]["n_10m"] == {"served": 99, "replayed": 3, "equal": False}
    assert explained["features"]["mean_1h"]["equal"] is True
    times = [one["ts"] for one in explained["windows"]["n_10m"]["events"]]
    assert times == [event(number)["ts"] for number in (1, 3, 5)]


def test_verify_since_and_sample_choose_what_is_compared(filled):
    """What arrived from then on; a share of the keys, so here none."""
    later = filled.json("verify", "fraud", "--modules", "features", "--since", "2100-01-01")
    few = filled.json("verify", "fraud", "--modules", "features", "--sample", "1e-9")

    assert (later["rows"], few["rows"]) == (0, 0)


def test_verify_explains_a_request_that_is_asked_for(filled):
    """An equal one too."""
    found = filled.json("verify", "fraud", "--modules", "features", "--explain", id_of(7).hex())

    (explained,) = found["explained"]
    assert explained["features"]["amount"] == {"served": 7.5, "replayed": 7.5, "equal": True}


def test_verify_with_other_code_is_refused_unless_that_is_asked_for(filled):
    """Then the differences are those of the code."""
    refused = filled("verify", "fraud", "--modules", "changed")
    shown = filled.json("verify", "fraud", "--modules", "changed", "--changed-code", code=1)

    assert refused.returncode == 1
    assert refused.stderr.startswith("HOF-507: card_tx@1 served with code")
    assert "compare all the same" in refused.stderr
    assert set(shown["by_feature"]) == {"card_tx.mean_1h"}
    assert "the code given is" in shown["notes"][0]


# --- backfill -------------------------------------------------------------------------------------


def test_a_version_that_was_backfilled_beside_a_server_is_warm_at_its_first_request(copied):
    """Its answers are those of a run of everything, what came after the backfill included."""
    with serving(copied.folder, "--modules", "features") as (process, address):
        done = copied.json("backfill", "card_tx@2", "--modules", "newer")
        with hof.connect(address, deadline_ms=20_000) as client:
            client.vector("card_tx", event(ROWS))
        assert ended(process) == 0
    with serving(copied.folder, "--modules", "newer") as (process, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            first = client.vector("card_tx", event(ROWS + 1), version=2).to_dict()
        assert ended(process) == 0

    rows = [event(number) for number in range(ROWS + 2)]
    out = hof.testing.run(groups_in("newer")[2], rows, batch_rows=1)
    assert (done["keys"], done["mapped"]) == (2, 0)
    assert {name: first[f"card_tx.{name}"] for name in ("n_1h", "all")} == {
        name: out[name][-1] for name in ("n_1h", "all")
    }


def test_backfill_maps_the_history_of_another_input(copied):
    """A function of the module makes new rows of old ones; without it, the option is named."""
    refused = copied("backfill", "card_tx", "--modules", "mapped")
    unknown = copied("backfill", "card_tx", "--modules", "mapped", "--map", "mapped:nothing")
    done = copied("backfill", "card_tx@3", "--modules", "mapped", "--map", "mapped:to_cents")
    with hof.open(copied.store) as app:
        app.register(groups_in("mapped")[3])
        last = {**event(ROWS), "cents": 7}
        del last["amount"]
        spent = app.vector("card_tx", last, version=3).to_dict()["card_tx.spent"]

    assert (refused.returncode, unknown.returncode) == (1, 2)
    assert "--map MODULE:FUNCTION" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("card_tx@3: 2 keys, after record ")
    old = [event(number) for number in range(ROWS)]
    rows = [{"card": o["card"], "ts": o["ts"], "cents": round(o["amount"] * 100)} for o in old]
    out = hof.testing.run(groups_in("mapped")[3], [*rows, last], batch_rows=1)
    assert spent == out["spent"][-1]

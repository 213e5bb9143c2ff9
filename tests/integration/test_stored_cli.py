"""Stored groups, datasets and models from the command line, beside a server and without one."""

import json
import shutil
import signal
import subprocess

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from tests.integration.test_cli import COMMAND, ended, environment, serving
from tests.integration.test_offline_cli import Place, id_of

NOON_US = 1_700_000_000_000_000
FEATURES = """
import pyarrow as pa
import hofflight as hof

INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "shop": pa.string()}
card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts", input=INPUT,
    windows={"n": hof.count().over("1h")},
)
shop_tx = hof.feature_group(
    "shop_tx", version=1, key="shop", event_time="ts",
    input={"shop": pa.string(), "ts": hof.TIMESTAMP},
    windows={"n": hof.count().over("1h")},
)
customer = hof.stored_group(
    "customer", version=2, key="customer", event_time="updated",
    schema={"customer": pa.int64(), "updated": hof.TIMESTAMP, "age": pa.int32()},
)
fraud = hof.view(
    "fraud", version=1, labels=["is_fraud"],
    features=["customer.age", "card_tx.n", "shop_tx.n"],
)
"""
MODULES = {
    "features": FEATURES,
    "changed": FEATURES.replace("pa.int32()", "pa.int64()"),
    "alone": FEATURES.replace("shop_tx.n", "card_tx.shop"),
}
VECTOR = ["customer.age", "card_tx.n", "shop_tx.n"]


def customer(key, day, age):
    return {"customer": key, "updated": NOON_US + day * 86_400_000_000, "age": age}


def table(*rows):
    types = [("customer", pa.int64()), ("updated", hof.TIMESTAMP), ("age", pa.int32())]
    return pa.Table.from_pylist(list(rows), pa.schema(types))


def event(number):
    return {"card": number % 3, "ts": NOON_US + number * 1_000_000, "shop": "ab"[number % 2]}


def ages(client, *keys):
    """What is served now."""
    return (
        client.vector("customer", keys={"customer": list(keys)}).batch["customer.age"].to_pylist()
    )


@pytest.fixture(scope="module")
def unfilled(tmp_path_factory):
    """A place whose store has the groups and views of the module, and no row yet."""
    place = Place(tmp_path_factory.mktemp("stored"))
    for name, text in MODULES.items():
        (place.folder / f"{name}.py").write_text(text)
    done = place("register", "features")
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def registered(unfilled, tmp_path):
    """The same, of a test's own."""
    return copy_of(unfilled, tmp_path)


def copy_of(place, folder):
    shutil.copytree(place.folder, folder / "copy")
    return Place(folder / "copy")


@pytest.fixture(scope="module")
def filled(unfilled, tmp_path_factory):
    """Twelve requests, after six of them a second load; to be read only."""
    place = copy_of(unfilled, tmp_path_factory.mktemp("filled"))
    names = {}
    exec(FEATURES, names)
    with hof.open(place.store) as app:
        app.register(names["card_tx"])
        app.register(names["shop_tx"])
        app.materialize("customer", table(customer(1, 0, 30), customer(2, 0, None)))
        for number in range(12):
            if number == 6:
                app.materialize("customer", table(customer(1, 1, 31)))
            keys = {"customer": 1 + number % 3}
            app.vector("fraud", event(number), keys=keys, request_id=id_of(number))
            if number == 3:
                app.seal()
    return place


@pytest.fixture
def copied(filled, tmp_path):
    """A filled place of a test's own."""
    return copy_of(filled, tmp_path)


def test_opening_a_store_loads_nothing_heavy():
    """pyarrow loads pandas at its first conversion of a value: 0.7 s for every command."""
    heavy = ("pandas", "duckdb")
    code = f"import sys, hofflight.assemble; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [*COMMAND[:1], "-c", code], env=environment(), capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip

    assert done.stdout.strip() == "[]"


# --- plan and register ----------------------------------------------------------------------------


def test_stored_groups_and_views_over_them_are_planned_and_registered(tmp_path):
    """With the groups beside them; a plan makes nothing."""
    (tmp_path / "features.py").write_text(FEATURES)
    place = Place(tmp_path)
    planned = place("plan", "features")
    made = place.store.exists()
    registered = place("register", "features")

    assert not made
    assert planned.stdout == registered.stdout
    assert registered.stdout.splitlines() == [
        "+ group card_tx@1 created", "+ group shop_tx@1 created",
        "+ stored group customer@2 created", "+ view fraud@1 created",
    ]  # fmt: skip


def test_a_changed_stored_group_is_refused_with_its_diff_and_all_with_it(registered):
    """Another type of one column."""
    refused = registered("register", "changed")
    plan = registered.json("plan", "changed", code=1)

    assert refused.returncode == 1
    assert "! stored group customer@2 changed" in refused.stdout
    assert '-  "age": "int32"' in refused.stdout
    assert '+  "age": "int64"' in refused.stdout
    assert "customer@2: a version never changes" in refused.stderr
    states = {(change["kind"], change["state"]) for change in plan["changes"]}
    assert ("stored group", "changed") in states
    again = registered("plan", "features")
    assert (again.returncode, {line[0] for line in again.stdout.splitlines()}) == (0, {"="})


# --- materialize ----------------------------------------------------------------------------------


def test_a_table_is_loaded_from_parquet_and_from_csv(registered):
    """Whole, with known rows, then what is newer; each report says what became of the rows."""
    pq.write_table(table(customer(1, 0, 30), customer(2, 5, 40)), registered.folder / "one.parquet")
    pyarrow.csv.write_csv(
        table(customer(1, 1, 31), customer(2, 5, 40), customer(3, 6, None), customer(3, 6, 50)),
        registered.folder / "two.csv",
    )
    pyarrow.csv.write_csv(
        table(customer(1, 2, 99), customer(2, 9, 41)), registered.folder / "three.csv"
    )
    first = registered.json("materialize", "customer", "one.parquet")
    second = registered.json("materialize", "customer@2", "two.csv")
    third = registered.json("materialize", "customer", "three.csv", "--mode", "incremental")

    names = ("load", "read", "rows", "known", "older", "duplicates", "keys")
    assert [first[n] for n in names] == [1, 2, 2, 0, 0, 0, 2]
    assert [second[n] for n in names] == [2, 4, 2, 1, 0, 1, 2]
    assert [third[n] for n in names] == [3, 2, 1, 0, 1, 0, 1]
    assert (first["group"], first["refilled"]) == ("customer.2", False)
    with hof.open(registered.store) as app:
        assert ages(app, 1, 2, 3) == [31, 41, 50]


def test_off_a_terminal_progress_is_lines_and_the_report_a_table(registered):
    """On the two outputs, so that a log of either is of use; read and put count each row once."""
    rows = [customer(key, 0, 20) for key in range(1_000)]
    pq.write_table(table(*rows), registered.folder / "many.parquet", row_group_size=100)
    done = registered("materialize", "customer", "many.parquet")

    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 10
    assert all(line.startswith("loading customer: ") for line in lines)
    assert " of 2000, " in lines[-1]
    assert lines[-1].startswith("loading customer: 2000 of 2000")
    assert "customer.2" in done.stdout
    assert "1000" in done.stdout


def test_a_refill_brings_back_what_the_online_store_lost(copied):
    """From the history; no source is needed."""
    shutil.rmtree(copied.store / "online")
    with hof.open(copied.store) as app:
        assert ages(app, 1, 2) == [None, None]
        assert app.vector("customer", keys={"customer": 1}).status["customer.age"] == "UNAVAILABLE"
    refilled = copied.json("materialize", "customer@2", "--refill")

    assert refilled["rows"] == 2
    with hof.open(copied.store) as app:
        assert ages(app, 1, 2) == [31, None]


BAD_FILES = {
    "null.csv": "customer,updated,age\n1,2026-01-01T00:00:00Z,1\n,2026-01-01T00:00:00Z,1\n",
    "cut.parquet": "PAR1",
}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("customer", "null.csv"), 1, "HOF-218: rows of customer, row 1: 'customer' is null"),
        (("customer", "cut.parquet"), 1, "HOF-218: 'cut.parquet' cannot be read"),
        (("customer", "null.csv", "--mode", "new"), 2, "HOF-103: mode= is "),
        (("card_tx", "null.csv"), 1, "HOF-201: 'card_tx' is a streaming group"),
        (("customer", "null.csv", "--refill"), 2, "HOF-601: materialize takes a SOURCE, or "),
    ],
)
def test_a_wrong_load_says_why_and_loads_nothing(filled, arguments, code, said):
    """Whatever is wrong with it: what was asked, or what the file holds."""
    for name, text in BAD_FILES.items():
        (filled.folder / name).write_text(text)
    refused = filled("materialize", *arguments)

    assert (refused.returncode, refused.stdout) == (code, "")
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    manifest = json.loads((filled.store / "stored" / "customer.2" / "manifest.json").read_bytes())
    assert [load["load"] for load in manifest["loads"]] == [1, 2]


def test_an_unknown_group_is_answered_with_those_that_can_be_loaded(filled):
    """The stored ones: the others cannot be meant."""
    refused = filled("materialize", "custmer", "x.csv")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("HOF-201: no group 'custmer'")
    assert "customer@2" in refused.stderr


# --- beside a server ------------------------------------------------------------------------------


def test_a_load_beside_a_server_is_served_when_it_is_whole_and_not_before(registered):
    """The loading process is stopped half-way: nobody sees anything of it; then all do at once."""
    many = 150_000
    old = pa.table({
        "customer": pa.array(range(many)), "updated": pa.array([NOON_US] * many, hof.TIMESTAMP),
        "age": pa.array([1] * many, pa.int32()),
    })  # fmt: skip
    pq.write_table(old.slice(0, 10), registered.folder / "old.parquet")
    new = old.set_column(1, "updated", pa.array([NOON_US + 1] * many, hof.TIMESTAMP))
    new = new.set_column(2, "age", pa.array([2] * many, pa.int32()))
    pq.write_table(new, registered.folder / "new.parquet")
    keys = [0, 5, 9, 10, many // 2, many - 1]

    with serving(registered.folder, "--modules", "features") as (process, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            assert ages(client, *keys) == [None] * 6
            registered.json("materialize", "customer", "old.parquet")
            before = ages(client, *keys)
            with loading(registered, "new.parquet") as loader:
                for line in loader.stderr:
                    done = int(line.split(": ")[1].split()[0])
                    if done > 1.2 * many:  # read, and a fifth of it put
                        break
                loader.send_signal(signal.SIGSTOP)
                under_way = ages(client, *keys)
                opened = json.loads(
                    (registered.store / "stored" / "customer.2" / "manifest.json").read_bytes()
                )
                loader.send_signal(signal.SIGCONT)
                assert loader.wait(60) == 0
            after = ages(client, *keys)
        assert ended(process) == 0

    assert opened["open"] == 2
    assert before == under_way == [1, 1, 1, None, None, None]
    assert after == [2] * 6


def loading(place, name):
    """`hof materialize` as a process whose progress can be read."""
    command = [*COMMAND, "materialize", "customer", name, "--store", "store"]
    return subprocess.Popen(
        command, cwd=place.folder, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# --- train, model, describe -----------------------------------------------------------------------


def test_a_dataset_and_a_model_kept_beside_a_server_may_be_named_at_once(copied):
    """What was kept is printed, statistics included; the server answers in the order trained on."""
    arguments = ("train", "fraud", "--modules", "features", "--save")
    with serving(copied.folder, "--modules", "features") as (process, address):
        with hof.connect(address, deadline_ms=20_000) as client:
            first = copied.json(*arguments, "january", "--from", "2023-11-14T22:13:22Z")
            shown = copied(*arguments, "january@7", "--out", "seven.parquet")
            model = copied.json(
                "model", "net", "--dataset", "january", "--tag", "run=a=b", "--tag", "x="
            )
            vectors = [
                client.vector(name, event(20), keys={"customer": 1}, store=False)
                for name in ("fraud", "january", "net")
            ]
        assert ended(process) == 0

    assert [v.batch.schema.names for v in vectors] == [VECTOR] * 3
    assert [v.to_dict() for v in vectors] == [vectors[0].to_dict()] * 3
    assert (first["name"], first["version"], first["rows"]) == ("january", 1, 10)
    assert (first["start_us"], first["end_us"]) == (NOON_US + 2_000_000, None)
    assert first["loads"] == {"customer@2": 2}
    assert list(first["code_hashes"]) == ["card_tx@1", "shop_tx@1", "customer@2"]
    assert first["statistics"]["customer.age"]["max"] == 31
    assert pq.read_metadata(first["file"]).num_rows == 10
    assert shown.returncode == 0, shown.stderr
    assert "january@7 of fraud@1" in shown.stdout
    assert "shop_tx.n" in shown.stdout
    assert pq.read_metadata(copied.folder / "seven.parquet").num_rows == 12
    assert model == {
        "name": "net", "version": 1, "dataset": "january", "dataset_version": 7,
        "tags": {"run": "a=b", "x": ""},
    }  # fmt: skip
    served = {vector["customer.age"] for vector in pq.read_table(first["file"]).to_pylist()}
    assert served == {30, 31, None}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "fraud", "--modules", "features", "--save", "customer"), 2, "HOF-101: "),
        (("model", "net", "--dataset", "nothing"), 1, "HOF-201: there is no training dataset"),
    ],
)  # fmt: skip
def test_a_wrong_dataset_or_model_says_why(filled, arguments, code, said):
    """And is not kept."""
    refused = filled(*arguments)

    assert refused.returncode == code
    assert refused.stderr.startswith(said)
    assert not list(filled.store.glob("datasets/*"))


def test_describe_prints_the_contract_of_a_joined_view(filled):
    """Rows, keys and vector in their order; as JSON with a schema for each side."""
    shown = filled("describe", "fraud")
    found = filled.json("describe", "fraud@1")

    assert shown.returncode == 0, shown.stderr
    assert "fraud@1 of card_tx@1, shop_tx@1, customer@2" in shown.stdout
    assert [column["name"] for column in found["input"]] == ["card", "ts", "shop"]
    assert found["keys"] == [{"name": "customer", "type": "int64"}]
    assert [column["name"] for column in found["output"]] == VECTOR
    assert (found["on_missing"], found["labels"]) == ("mark", ["is_fraud"])
    vector, request = (found["json_schema"][name] for name in ("vector", "request"))
    assert list(vector["properties"]) == vector["required"] == VECTOR
    assert list(request["properties"]) == ["card", "ts", "shop", "customer"]
    assert vector["properties"]["customer.age"] == {"type": ["integer", "null"]}


# --- verify and the log ---------------------------------------------------------------------------


def test_verify_counts_every_part_of_a_joined_view(filled):
    """Streaming and stored, sealed and live; one line says it."""
    done = filled("verify", "fraud", "--modules", "features")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "parity: 12 answers of fraud@1 replayed by DuckDB, 0 mismatches, 0 unserved "
        "(card_tx 12, shop_tx 12, customer 12); "
    )


def test_verify_ends_with_1_where_the_history_is_another(copied):
    """And shows both sides of the stored feature."""
    folder = copied.store / "stored" / "customer.2"
    path = folder / "00000002.parquet"
    pq.write_table(table(customer(1, 1, 77)), path)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["loads"][1]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = copied.json("verify", "fraud", "--modules", "features", code=1)

    worst = {(w["request_id"], w["served"], w["replayed"]) for w in found["worst"]}
    assert worst == {(id_of(number).hex(), 31, 77) for number in (6, 9)}
    assert (found["mismatches"], found["by_feature"]) == (2, {"customer.age": 2})
    (stored,) = [one for one in found["explained"] if "customer.age" in one["features"]]
    assert stored["features"]["customer.age"] == {"served": 31, "replayed": 77, "equal": False}


def test_log_ls_lists_the_log_of_a_joined_view(filled):
    """Beside those of its groups; sealed like them."""
    streams = {one["stream"]: one for one in filled.json("log", "ls")["streams"]}

    assert set(streams) == {"card_tx.1", "shop_tx.1", "fraud@1"}
    assert streams["fraud@1"]["rows"] == 12
    assert streams["fraud@1"]["sealed_rows"] == 4


def test_log_cat_of_a_joined_views_log_says_what_each_row_was_joined_from(filled):
    """The rows of its groups, the loads that were known and found; for a person and as JSON."""
    shown = filled("log", "cat", "fraud@1")
    rows = filled.json("log", "cat", "fraud@1")["rows"]

    assert shown.returncode == 0, shown.stderr
    assert "customer@2" in shown.stdout
    assert "\\x" not in shown.stdout
    assert [row["id"] for row in rows] == [id_of(number).hex() for number in range(12)]
    assert {row["code"] for row in rows} == {"OK"}
    for number, row in enumerate(rows):
        assert set(row["row"]) == {"card_tx@1", "shop_tx@1", "customer@2"}
        assert row["row"]["card_tx@1"] == row["row"]["shop_tx@1"] == (number + 1) << 20
    found = [row["row"]["customer@2"] for row in rows]
    assert [text and text.split(" of ")[0] for text in (found[0], found[6])] == ["load 1", "load 2"]
    assert found[1].startswith("load 1 ")
    assert not str(found[2]).startswith("load ")

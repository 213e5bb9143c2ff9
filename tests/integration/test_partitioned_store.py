"""A worker's store, one in it for each partition: what offline commands make of all of them."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hofflight as hof
from hofflight.assemble import read_offline
from hofflight.engine.kafka_partition import PartitionWorker
from hofflight.errors import StoreFormat, UnknownView
from hofflight.eventlog.store import Store
from hofflight.features.registry import Registry
from hofflight.features.sqlite import SqliteDatabase
from hofflight.features.view import declare_view
from hofflight.replay.offline import Ask
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.kafka_record import RequestHead, RequestRecord
from hofflight.wire.key_hash import partition_of
from tests.integration.test_cli import COMMAND, environment
from tests.unit.kafka_engines import Engines, answers_of, hash_of
from tests.unit.kafka_fakes import WALL_US, FakeClock

EXAMPLES = {"fast": 10, "ci": 30, "soak": 600}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
S = 1_000_000
FEATURES = """
import pyarrow as pa
import hofflight as hof

card_tx = hof.feature_group(
    "card_tx", version=1, key="card", event_time="ts", late="1m",
    input={"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64()},
    output={"double": hof.col("x") * 2},
    windows={"n": hof.count().over("10m"), "mean": hof.mean("x").over("10m"),
             "std": hof.std("x").last(3), "kinds": hof.count_distinct("x").over("10m"),
             "spell": hof.sum("x").session("30s"), "ever": hof.sum("x").lifetime()},
    derive={"versus": hof.col("x") / hof.col("mean")},
)
fraud = hof.view("fraud", version=1, features=["card_tx.n", "card_tx.x"], labels=["is_fraud"])
"""
_names: dict[str, object] = {}
exec(FEATURES, _names)
CARD_TX = _names["card_tx"]
STREAM = "card_tx.1"
FRAUD = ["card_tx.n", "card_tx.x"]
CARDS = list(range(8))
PARTITIONS = 3


def id_of(number):
    return number.to_bytes(16, "big")


def event(card, second, x=1.0):
    return {"card": card, "ts": WALL_US + second * S, "x": x}


def home_of(card):
    """The partition of a card."""
    return partition_of(hash_of(card), PARTITIONS)


class Place:
    """A folder with a registry that is shared, and a worker's store."""

    def __init__(self, folder, partitions=range(PARTITIONS)):
        self.folder = folder
        self.registry = f"sqlite:///{folder}/registry.sqlite"
        self.settings = hof.load_settings(registry={"url": self.registry})
        self.store = folder / "worker"
        self.clock = FakeClock()
        self.partitions = list(partitions)
        self.sent = []

    @contextlib.contextmanager
    def working(self):
        """Gives what answers a request: each of its rows in the partition that it belongs to."""
        engines = Engines(self.folder, self.clock)
        engines.registry.close()
        engines.registry = Registry(SqliteDatabase(self.folder / "registry.sqlite"))
        Store(self.store).require(create=True)
        workers = {}
        for number in self.partitions:
            Store(self.store / str(number)).require(create=True)
            engine = engines.open(CARD_TX, store=f"worker/{number}")
            workers[number] = PartitionWorker(number, engine, {STREAM: PARTITIONS}, 1 << 20)
        fraud = declare_view("fraud", 1, FRAUD, ["is_fraud"], lambda name, version: CARD_TX)
        engines.registry.save_view(fraud, created_us=0)

        def send(*rows):
            self.sent.append(list(rows))
            number = len(self.sent)
            homes = [home_of(row["card"]) for row in rows]
            for home in sorted(set(homes) & workers.keys()):
                places = [place for place, one in enumerate(homes) if one == home]
                answered(workers[home], number, rows, places)

        yield send
        engines.close()

    @contextlib.contextmanager
    def offline(self):
        with read_offline(self.store, [CARD_TX], self.settings) as (offline, _):
            yield offline

    def trained(self, view="card_tx", **asked):
        with self.offline() as offline:
            return offline.training_data(view, None, Ask(**asked))

    def verified(self, view="card_tx", **asked):
        with self.offline() as offline:
            return offline.verify(view, None, **asked)

    def __call__(self, *arguments, store="worker"):
        return subprocess.run(
            [*COMMAND, *map(str, arguments), "--store", store, "--registry", self.registry],
            cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip

    def json(self, *arguments, **more):
        done = self(*arguments, "--json", **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def answered(worker, number, rows, places):
    """Have a partition answer its rows of a request, as their record would."""
    mine = [rows[place] for place in places]
    head, body = encode_batch(pa.RecordBatch.from_pylist(mine, schema=CARD_TX.input))
    size = len(join_message(head, body))
    request = RequestHead(
        number, id_of(number), size, "card_tx", 1, places=places if len(mine) < len(rows) else []
    )
    came, found = threading.Event(), []

    def done(answers, refused):
        found.extend([answers_of(answers), refused])
        came.set()

    record = RequestRecord(WALL_US, "hof.reply.00", 7, [(request, head, body)])
    worker.work(STREAM, worker.next_offset[STREAM] + number, record, done)
    assert came.wait(20)
    assert (found[0][number].code, found[1]) == ("OK", "")


def embedded(folder, requests):
    """The training table of one store that got the same requests."""
    registry = hof.load_settings(log={"seal_bytes": 0, "seal_age_s": 0})
    with hof.open(folder / "embedded", settings=registry, clock=FakeClock()) as app:
        app.register(CARD_TX)
        for number, rows in enumerate(requests, start=1):
            app.vector("card_tx", rows, request_id=id_of(number))
        return app.training_data("card_tx", engine="kernel", ids=True)


def as_set(table):
    """Rows as text, whose digits are those of the bits; no row is there twice."""
    rows = [repr(row) for row in table.to_pylist()]
    assert len(set(rows)) == len(rows)
    return set(rows)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Thirty requests of eight cards, a late one among them; one partition is sealed half-way."""
    folder = tmp_path_factory.mktemp("partitioned")
    (folder / "features.py").write_text(FEATURES)
    place = Place(folder)
    with place.working() as send:
        for number in range(30):
            send(event(number % 8, number * 10 - 300 * (number == 20), number / 7))
    with place.offline() as offline:
        offline.seal(f"1/{STREAM}")
    with place.working() as send:
        place.sent = place.sent[:30]
        for number in range(30, 40):
            send(event(number % 8, number * 10, number / 7))
    return place


@pytest.fixture
def copied(filled, tmp_path):
    """A filled place of a test's own."""
    shutil.copytree(filled.folder, tmp_path / "copy")
    place = Place(tmp_path / "copy")
    place.sent = list(filled.sent)
    return place


# --- training -------------------------------------------------------------------------------------


def test_the_training_table_has_the_rows_of_every_partition_in_the_order_of_time(filled):
    """Sealed and live ones; the report counts them all."""
    table = filled.trained(ids=True)

    wanted = sorted((row["ts"], row["card"]) for (row,) in filled.sent)
    ts = table["card_tx.ts"].cast(pa.int64()).to_pylist()
    assert list(zip(ts, table["card_tx.card"].to_pylist(), strict=True)) == wanted
    report = hof.report_of(table)
    assert (report["rows"], report["read"], report["dropped"], report["late"]) == (40, 40, 0, 1)


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_a_store_of_one_partition_of_all_is_the_same_as_that_partitions_store(tmp_path, engine):
    """A worker may hold some of the partitions, with any numbers."""
    place = Place(tmp_path, partitions=[2])
    with place.working() as send:
        for number in range(20):
            send(event(number % 8, number))
    whole = place.trained(ids=True, engine=engine)
    with read_offline(place.store / "2", [CARD_TX], place.settings) as (offline, _):
        alone = offline.training_data("card_tx", None, Ask(ids=True, engine=engine))

    assert whole.num_rows > 0
    assert whole.equals(alone)


def test_shares_of_a_split_are_of_the_rows_of_all_partitions(filled):
    """Not of each: the past of all trains, the future of all tests."""
    table = filled.trained(split={"train": 0.75, "test": 0.25})

    assert table["split"].to_pylist() == ["train"] * 30 + ["test"] * 10


VALUES = [0.1, 0.2, -0.0, 1e30, -1e30, float("nan")]
EVENTS = st.tuples(st.sampled_from(CARDS), st.integers(0, 200), st.sampled_from(VALUES))
REQUESTS = st.lists(st.lists(EVENTS, min_size=1, max_size=3), min_size=1, max_size=25)


@given(requests=REQUESTS, sealed=st.sets(st.integers(0, PARTITIONS - 1)))
@settings(max_examples=EXAMPLES)
def test_the_table_over_partitions_is_bit_for_bit_that_of_one_store(requests, sealed):
    """The same requests to one embedded store give the same rows, split ones among them."""
    rows = [[event(*each) for each in events] for events in requests]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        with place.working() as send:
            for request in rows:
                send(*request)
        with place.offline() as offline:
            for number in sealed:
                offline.seal(f"{number}/{STREAM}")
        found = place.trained(ids=True, engine="kernel")
        wanted = embedded(place.folder, rows)
        parity = place.verified()

    assert found.schema.remove_metadata() == wanted.schema.remove_metadata()
    assert as_set(found) == as_set(wanted)
    assert (parity.rows, parity.mismatches) == (found.num_rows, 0)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_file_has_every_row_and_says_which_partitions_they_are_of(filled, tmp_path, name):
    """Whoever trains on it can see that it is the whole, or which part of it."""
    done = filled("train", "card_tx", "--modules", "features", "--out", tmp_path / name, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["partitions"] == [0, 1, 2]
    assert json.loads(done.stdout)["rows"] == 40
    assert "partitions 0, 1, 2" in done.stderr
    if name.endswith("parquet"):
        assert hof.report_of(pq.read_schema(tmp_path / name))["partitions"] == [0, 1, 2]


def test_a_saved_dataset_describes_the_rows_of_all_partitions(copied):
    """Rows, statistics and file; it is kept where all share it."""
    saved = copied.json("train", "card_tx", "--modules", "features", "--save", "monthly")

    assert saved["rows"] == 40
    assert saved["statistics"]["card_tx.card"]["distinct"] == len(CARDS)
    assert saved["code_hashes"] == {"card_tx@1": CARD_TX.code_hash()}
    (file,) = (copied.store / "datasets").iterdir()
    assert pq.ParquetFile(file).metadata.num_rows == 40


def test_partitions_that_are_elsewhere_are_not_named(copied):
    """A worker may hold 0 and 2; the report says that these are what is there."""
    shutil.rmtree(copied.store / "1")
    report = hof.report_of(copied.trained())

    assert report["partitions"] == [0, 2]
    assert report["rows"] == sum(home_of(row["card"]) != 1 for (row,) in copied.sent)


# --- stored features ------------------------------------------------------------------------------

LIMITS = hof.stored_group(
    "limits", version=1, key="card", event_time="at",
    schema={"card": pa.int64(), "at": hof.TIMESTAMP, "limit": pa.float64()},
)  # fmt: skip


def fill_with_limits(paths, settings):
    """The same rows, loads and times in each store; requests to the first, and each to its home."""
    clock = FakeClock()
    with contextlib.ExitStack() as stack:
        apps = [
            stack.enter_context(hof.open(path, settings=settings, clock=clock)) for path in paths
        ]
        for app in apps:
            app.register(CARD_TX)
            app.register(LIMITS)
            app.view("scored", 1, ["card_tx.n", "limits.limit"])
        for number in range(60):
            clock.advance(10)
            if number % 20 == 0:
                rows = [{"card": c, "at": clock.wall_us(), "limit": c + number} for c in CARDS[1:]]
                for app in apps:
                    app.materialize("limits", pa.Table.from_pylist(rows, LIMITS.schema))
            row = event(number % 8, number * 10)
            for app in (apps[0], apps[1 + home_of(row["card"])]):
                app.vector("scored", row, request_id=id_of(number))


@pytest.mark.parametrize("as_of", ["arrival", "event"])
def test_stored_features_are_joined_to_the_rows_of_every_partition(tmp_path, as_of):
    """As one store has them: its record of a lookup is found beside each row."""
    chosen = hof.load_settings(
        registry={"url": f"sqlite:///{tmp_path}/registry.sqlite"},
        online={"map_bytes": 1 << 26}, log={"seal_bytes": 0, "seal_age_s": 0},
    )  # fmt: skip
    one, many = tmp_path / "one", tmp_path / "worker"
    Store(many).require(create=True)
    parts = [many / str(number) for number in range(PARTITIONS)]
    fill_with_limits([one, *parts], chosen)
    shutil.move(parts[0] / "stored", many / "stored")  # their loads are the same
    for part in parts[1:]:
        shutil.rmtree(part / "stored")
    tables = []
    for path in (one, many):
        with read_offline(path, [CARD_TX], chosen) as (offline, _):
            parity = offline.verify("scored")
            tables.append(offline.training_data("scored", None, Ask(ids=True, as_of=as_of)))
        assert (parity.parts, parity.mismatches) == ({"card_tx": 60, "limits": 60}, 0)

    limits = tables[0]["limits.limit"].to_pylist()
    assert len(set(limits)) == 22, "a load that nobody saw proves nothing"
    assert as_set(tables[0]) == as_set(tables[1])


# --- labels ---------------------------------------------------------------------------------------


def two_homes():
    """Two cards of one partition, and between them one of another."""
    first, *others = CARDS
    second = next(card for card in others if home_of(card) == home_of(first))
    return first, next(card for card in others if home_of(card) != home_of(first)), second


def test_a_label_of_a_row_of_a_split_request_finds_that_row(tmp_path):
    """Rows keep the numbers that their client gave them, wherever they were counted."""
    place = Place(tmp_path)
    cards = two_homes()
    with place.working() as send:
        send(*(event(card, 0, float(number)) for number, card in enumerate(cards)))
    labels = [{"request_id": id_of(1), "row": 2, "is_fraud": True}]
    table = place.trained("fraud", labels=labels)

    found = dict(zip(table["card_tx.x"].to_pylist(), table["is_fraud"].to_pylist(), strict=True))
    assert found == {0.0: None, 1.0: None, 2.0: True}
    assert hof.report_of(table)["labels_unmatched"] == 0


def test_labels_are_loaded_for_all_partitions_together(copied):
    """By key and time, or by request; they lie beside the partitions."""
    with copied.offline() as offline:
        offline.label("fraud", None, [{"request_id": id_of(3), "is_fraud": True}])
        (row,) = copied.sent[7]
        by_key = {"card": [row["card"]], "ts": pa.array([row["ts"]], hof.TIMESTAMP)}
        offline.label("fraud", None, pa.table({**by_key, "is_fraud": [False]}))
    table = copied.trained("fraud")

    values = table["is_fraud"].to_pylist()
    assert (values.count(True), values.count(False)) == (1, 1)
    assert hof.report_of(table)["labels_unmatched"] == 0
    assert [path.name for path in (copied.store / "labels").iterdir()] == ["fraud"]


def test_labels_of_one_partition_alone_are_refused_not_left_out(copied):
    """Which of two loads is the newer one cannot be known."""
    with read_offline(copied.store / "1", [CARD_TX], copied.settings) as (offline, _):
        offline.label("fraud", None, [{"request_id": id_of(3), "is_fraud": True}])

    with pytest.raises(StoreFormat, match=r"HOF-503: partition 1 has .*--store worker/1"):
        copied.trained("fraud")


# --- verify ---------------------------------------------------------------------------------------


def change_an_answer(place, partition):
    """What a bug or a forger would do to a sealed answer; gives whose it was."""
    directory = place.store / str(partition) / "sealed" / STREAM
    path = next(directory.glob("version=1/*/*.parquet"))
    table = pq.ParquetFile(path).read()
    answers = table["_answer"].to_pylist()
    answers[0]["n"] = 99
    field = table.schema.field("_answer")
    column = table.schema.names.index("_answer")
    pq.write_table(table.set_column(column, field, pa.array(answers, field.type)), path)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    manifest["files"][0]["bytes"] = path.stat().st_size
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return table["_request_id"][0].as_py().hex()


def test_verify_proves_every_answer_and_says_of_which_partitions(filled):
    """One sum over all of them."""
    said = filled.json("verify", "card_tx", "--modules", "features")

    assert (said["rows"], said["mismatches"], said["late"]) == (40, 0, 1)
    assert said["partitions"] == [0, 1, 2]


def test_a_mismatch_names_the_partition_that_served_it(copied):
    """So that its worker's log can be looked at: the seq shown is the one there."""
    id_ = change_an_answer(copied, 1)
    done = copied("verify", "card_tx", "--modules", "features")
    said = copied("verify", "card_tx", "--modules", "features", "--json")
    with read_offline(copied.store / "1", [CARD_TX], copied.settings) as (offline, _):
        (alone,) = offline.explain("card_tx", None, id_)

    assert (done.returncode, said.returncode) == (1, 1)
    assert f"partition 1, request {id_} row 0: card_tx.n was served as 99" in done.stdout
    found = json.loads(said.stdout)
    assert [worst["partition"] for worst in found["worst"]] == [1]
    (explained,) = found["explained"]
    assert (explained["partition"], explained["seq"]) == (1, alone.seq)
    assert explained["windows"]["n"]["events"] == alone.windows["n"]["events"]


def test_a_split_request_is_explained_with_the_rows_of_every_partition(tmp_path):
    """None of them is left out."""
    place = Place(tmp_path)
    with place.working() as send:
        send(*(event(card, 0) for card in two_homes()))
    with place.offline() as offline:
        explained = offline.explain("card_tx", None, id_of(1))
        with pytest.raises(UnknownView, match="HOF-201"):
            offline.explain("card_tx", None, id_of(2))

    assert [one.row for one in explained] == [0, 1, 2]
    homes = [home_of(card) for card in two_homes()]
    assert [one.partition for one in explained] == homes
    assert all(f["equal"] for one in explained for f in one.features.values())


# --- what must not look like the whole ------------------------------------------------------------


def test_a_store_with_rows_in_no_partition_too_is_refused(copied):
    """An embedded store was opened where workers keep theirs: neither is all there is."""
    shutil.copytree(copied.store / "0" / "log", copied.store / "log")

    with pytest.raises(StoreFormat, match=r"HOF-503: card_tx\.1 has records in no partition"):
        copied.trained()


def test_a_partition_that_cannot_be_read_ends_the_command(copied):
    """No table without its rows, and no file."""
    (copied.store / "2" / "hofflight.json").unlink()
    done = copied("train", "card_tx", "--modules", "features", "--out", "t.parquet")

    assert done.returncode == 1
    assert done.stderr.startswith("HOF-503: '2' is not a store")
    assert not (copied.folder / "t.parquet").exists()


def test_a_damaged_file_of_one_partition_ends_the_command(copied):
    """A hole in one of them is a hole in the table."""
    next((copied.store / "1" / "sealed").rglob("*.parquet")).unlink()
    done = copied("train", "card_tx", "--modules", "features", "--out", "t.parquet")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("HOF-506")
    assert not (copied.folder / "t.parquet").exists()


# --- log ------------------------------------------------------------------------------------------


def test_log_commands_name_each_partitions_logs(copied):
    """`ls` lists them, `seal` seals all, `cat` shows one."""
    listed = copied.json("log", "ls")["streams"]
    sealed = copied.json("log", "seal")["sealed"]
    shown = copied.json("log", "cat", f"0/{STREAM}")["rows"]
    alone = copied.json("log", "cat", STREAM, store="worker/0")["rows"]
    refused = copied("log", "cat", STREAM)

    names = [f"{number}/{STREAM}" for number in range(PARTITIONS)]
    assert [entry["stream"] for entry in listed] == names
    assert sum(entry["rows"] for entry in listed) == 40
    assert [entry["stream"] for entry in sealed] == names
    assert sum(e["rows"] for e in sealed) + sum(e["sealed_rows"] for e in listed) == 40
    assert shown == alone
    assert refused.returncode == 2
    assert f"'0/{STREAM}'" in refused.stderr

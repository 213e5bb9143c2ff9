"""Rows through a window engine: which one is taken, and what it does where memory is short."""

import threading

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from benchmarks.replay_workload import TRAINING, card_tx, fill
from hofflight.errors import ReplayMemory, SealDamaged
from hofflight.replay.equality import SUM_TOLERANCE
from hofflight.replay.windowed import database, whole_keys
from hofflight.settings import ReplaySettings

S = 1_000_000
START = 1_780_000_000
ROWS = 400_000
NO_SEALER = {"seal_bytes": 0, "seal_age_s": 0}


def open_app(path, **replay):
    return hof.open(path, settings=hof.load_settings(log=NO_SEALER, replay=replay))


def make_group(**windows):
    return hof.feature_group(
        "g", version=1, key="k", event_time="ts",
        input={"k": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "s": pa.string()},
        windows={"n": hof.count().over("1h"), **windows},
    )  # fmt: skip


def rows(count, k=0, text="a"):
    return [{"k": k, "ts": (START + n) * S, "x": float(n), "s": text} for n in range(count)]


# --- which engine ---------------------------------------------------------------------------------

HOLISTIC = {
    "kinds": hof.count_distinct("s").over("1h"), "median": hof.quantile("x", 0.5).over("1h"),
    "top": hof.top_k("s", 2).over("1h"),
}  # fmt: skip


def engine_of(app, view, **options):
    return hof.report_of(app.training_data(view, **options))["engine"]


@pytest.mark.parametrize("name", HOLISTIC)
def test_auto_takes_the_kernel_for_windows_that_sql_is_slow_at(tmp_path, name):
    """Only if the view reads one; the report says which engine it was."""
    with open_app(tmp_path / "store") as app:
        app.register(make_group(**{name: HOLISTIC[name]}))
        app.view("slow", 1, ["g.n", f"g.{name}"])
        app.view("plain", 1, ["g.n"])
        app.ingest("g", rows(3))

        assert engine_of(app, "slow") == "kernel"
        assert engine_of(app, "plain") == "duckdb"
        assert engine_of(app, "slow", engine="duckdb") == "duckdb"
        assert engine_of(app, "plain", engine="kernel") == "kernel"


def test_auto_takes_the_kernel_where_memory_is_small_for_the_rows(history):
    """By the rows of the log and the values of each: 400,000 rows are more than 64 MiB."""
    for memory_mib, engine in ((64, "kernel"), (4_096, "duckdb")):
        with open_app(history, memory_mib=memory_mib) as app:
            app.register(card_tx)
            assert engine_of(app, TRAINING, start=START * S, end=START * S) == engine


# --- larger than memory ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A store of 400,000 sealed rows."""
    path = tmp_path_factory.mktemp("history") / "store"
    fill(path, ROWS, part_rows=100_000)
    return path


@pytest.fixture(scope="module")
def unlimited(history):
    """Their training table, without any limit."""
    with open_app(history) as app:
        app.register(card_tx)
        return app.training_data(TRAINING, ids=True, engine="kernel")


class Watched:
    """The most bytes that lay in a folder while the block ran."""

    def __init__(self, folder):
        self.bytes_max = 0
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.wait(0.002):
            try:
                found = sum(path.stat().st_size for path in self._folder.rglob("*.tmp"))
            except FileNotFoundError:  # just deleted, a file or its folder
                continue
            self.bytes_max = max(self.bytes_max, found)


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_a_history_larger_than_memory_gives_the_same_table(history, unlimited, tmp_path, engine):
    """It spills, to a folder with a quote and a space in its name, and leaves nothing there."""
    spill, path = tmp_path / "it's a spill", tmp_path / "train.parquet"
    spill.mkdir()
    with (
        open_app(history, memory_mib=64, threads=1, spill=spill) as app, Watched(spill) as watched
    ):  # fmt: skip
        app.register(card_tx)
        report = app.write_training_data(path, TRAINING, ids=True, engine=engine)

    assert (report.engine, report.rows, report.dropped) == (engine, ROWS, 0)
    assert watched.bytes_max > 1 << 20
    assert list(spill.iterdir()) == []
    table = pq.read_table(path)
    assert table.schema.names == unlimited.schema.names
    for name in table.schema.names:
        one, other = table[name].combine_chunks(), unlimited[name].combine_chunks()
        if ".sum_" in name and engine == "duckdb":
            a, b = one.to_numpy(), other.to_numpy()  # amounts are positive: sum of |x| is the sum
            assert (np.abs(a - b) <= SUM_TOLERANCE * np.abs(b)).all()
        else:
            assert one.equals(other), name


@pytest.mark.parametrize("engine", ["duckdb", "kernel"])
def test_too_little_memory_is_told_in_our_words(tmp_path, engine):
    """One key whose rows cannot be held at once; no file is left, and nothing is left spilled."""
    spill, out = tmp_path / "spill", tmp_path / "out"
    spill.mkdir()
    with open_app(tmp_path / "store", memory_mib=32, threads=1, spill=spill) as app:
        app.register(make_group(last=hof.last("s").over("1h")))
        app.view("lean", 1, ["g.n"])
        for number in range(6):
            app.ingest("g", rows(5_000, text=f"{number}" * 2_000))
        with pytest.raises(ReplayMemory, match=r"replay\.memory_mib = 32") as failed:
            app.write_training_data(out / "train.parquet", "g", engine=engine)
        assert "duckdb.org" not in str(failed.value)
        assert list(out.iterdir()) == list(spill.iterdir()) == []

        # The next one, which asks for less, works.
        assert app.training_data("lean", engine=engine).num_rows == 30_000


def test_a_spill_folder_that_is_not_there_is_told_in_our_words(tmp_path):
    """By name, and with the setting."""
    with open_app(tmp_path / "store", spill=tmp_path / "gone") as app:
        app.register(make_group())
        with pytest.raises(ReplayMemory, match=r"gone.*replay\.spill"):
            app.training_data("g")


def the_failure(error, *, fed=None):
    """What comes of an error of DuckDB's, where a stream had failed before with `fed`."""
    try:
        with database(ReplaySettings()) as db:
            db.failed += [] if fed is None else [fed]
            raise error
    except Exception as failed:
        return failed


def test_each_way_of_running_out_is_ours():
    """Memory, disk, and either of them inside a stream that DuckDB reads from itself."""
    memory = duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block")
    disk = duckdb.IOException("IO Error: Could not write file: No space left on device\nand more")
    told = duckdb.InvalidInputException("reading the stream registered as 'vectors' failed")

    # An answer that fails half-way comes through Arrow, which makes an OSError of it.
    for ours in (
        the_failure(memory), the_failure(told, fed=memory), the_failure(OSError(str(memory))),
        the_failure(told, fed=OSError(str(memory))),
    ):  # fmt: skip
        assert isinstance(ours, ReplayMemory)
        assert "replay.memory_mib" in str(ours)
    for ours in (the_failure(disk), the_failure(told, fed=disk), the_failure(OSError(str(disk)))):
        assert isinstance(ours, ReplayMemory)
        assert "No space left on device" in str(ours)
        assert "and more" not in str(ours)


def test_an_error_of_the_file_that_is_written_is_its_own():
    """A disk that is full where the table goes has nothing to do with spilling."""
    full = OSError(28, "No space left on device")

    assert the_failure(full) is full


def test_what_a_stream_raised_comes_out_as_it_was():
    """Not as DuckDB's tale of it; and an error of DuckDB's own that is not ours stays as it is."""
    damaged = SealDamaged("file 7")
    told = duckdb.InvalidInputException("reading the stream registered as 'source' failed")

    assert the_failure(told, fed=damaged) is damaged
    assert the_failure(told) is told
    assert told.__cause__ is None


# --- chunks of whole keys -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_hold_all_rows_of_their_keys(size):
    """Whatever the size of the batches; keys of two parts, and giant ones."""
    keys = [(0, "a")] * 5 + [(0, "b")] + [(1, "b")] * 12 + [(2, "b"), (3, "a"), (3, "b")]
    table = pa.table({
        "a": [a for a, _ in keys], "b": [b for _, b in keys], "n": list(range(len(keys))),
    })  # fmt: skip
    chunks = list(whole_keys(iter(table.to_batches(max_chunksize=size)), ("a", "b")))

    assert [n for chunk in chunks for n in chunk.column("n").to_pylist()] == list(range(len(keys)))
    found = [set(zip(*(c.column(name).to_pylist() for name in "ab"), strict=True)) for c in chunks]
    assert sum(len(some) for some in found) == len(set(keys))


def test_no_rows_are_no_chunks():
    """Also as batches without rows, wherever they come."""
    empty = pa.record_batch({"a": pa.array([], pa.int64())})
    some = pa.record_batch({"a": pa.array([1, 1, 2])})

    assert list(whole_keys(iter([]), ("a",))) == []
    for batches in ([empty], [empty, empty], [empty, some], [some, empty], [some, empty, some]):
        chunks = list(whole_keys(iter(batches), ("a",)))
        assert sum(chunk.num_rows for chunk in chunks) == sum(b.num_rows for b in batches)

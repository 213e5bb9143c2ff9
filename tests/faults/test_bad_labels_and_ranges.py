"""Training data that cannot be made: the reason in our words, no file, and the next call works."""

import signal
import subprocess
import sys
from datetime import datetime

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.errors import (
    BadLabels,
    BadRange,
    CodeNotLoaded,
    InvalidDuration,
    SealDamaged,
    UnknownView,
)
from hofflight.replay.offline import Ask

S = 1_000_000
START = 1_780_000_000
ENGINES = ["duckdb", "kernel"]
NO_SEALER = {"seal_bytes": 0, "seal_age_s": 0}


def make_group():
    return hof.feature_group(
        "g", version=1, key="k", event_time="ts",
        input={"k": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64()},
        windows={"n": hof.count().over("1h")},
    )  # fmt: skip


def open_app(path, **replay):
    app = hof.open(path, settings=hof.load_settings(log=NO_SEALER, replay=replay))
    app.register(make_group())
    return app


def row(number):
    return {"k": number % 2, "ts": (START + number) * S, "x": float(number)}


@pytest.fixture
def app(tmp_path):
    with open_app(tmp_path / "store") as app:
        app.view("v", 1, ["g.x", "g.n"], labels=["bad"])
        app.view("plain", 1, ["g.n"])
        for number in range(6):
            app.vector("v", row(number))
        yield app


def require_it_works(app):
    """What comes after a failure is as if there had been none."""
    for engine in ENGINES:
        assert app.training_data("v", engine=engine)["g.n"].to_pylist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (datetime(2026, 1, 1), None),  # noqa: DTZ001 that is what is wrong with it
        (None, "2026-01-01T00:00:00"), ("yesterday", None), (None, "2026-13-01"),
        (1.5, None), (None, True), ((START + 1) * S, START * S), ("", None),
    ],
)  # fmt: skip
def test_a_range_that_is_none_is_refused(app, start, end):
    """HOF-215, before the log is read."""
    with pytest.raises(BadRange):
        app.training_data("v", start, end)
    require_it_works(app)


@pytest.mark.parametrize(
    "split",
    [
        {}, {"gap": "1h"}, {"train": 0.5, "test": 0.6}, {"train": 1.5, "test": -0.5},
        {"train": float("nan"), "test": 0.5}, {"train": START * S}, {"test": "soon"},
        {"b": "2026-02-01", "a": "2026-01-01"}, {"a": "2026-01-01", "b": "2026-01-01"},
        {"a": 0.5, "b": "2026-01-01"},
    ],
)  # fmt: skip
def test_a_split_that_is_none_is_refused(app, split):
    """HOF-215, and no file."""
    path = app.path.parent / "train.parquet"
    with pytest.raises(BadRange):
        app.write_training_data(path, "v", split=split)
    assert list(app.path.parent.iterdir()) == [app.path]
    require_it_works(app)


def test_a_gap_that_is_no_duration_is_refused(app):
    """HOF-104, as everywhere."""
    with pytest.raises(InvalidDuration):
        app.training_data("v", split={"train": 0.5, "test": 0.5, "gap": "a while"})


@pytest.mark.parametrize(
    "labels",
    [
        [{"k": 0, "bad": True}], [{"k": 0, "ts": START * S}], [{"k": 0, "ts": None, "bad": 1}],
        [{"k": 0, "ts": START * S, "bad": 1, "worse": 2}], [{"request_id": "no id", "bad": 1}],
        [{"k": 0, "ts": START * S, "bad": 1}] * 2, [{"k": "zero", "ts": START * S, "bad": 1}],
        [{"k": 0, "ts": "2026-01-01T00:00:00", "bad": 1}], [{"request_id": b"short", "bad": 1}],
        [{"k": 0, "ts": START * S, "bad": [1]}], [], 7, "no/such/file.parquet",
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["training_data", "label"])
def test_labels_that_are_none_are_refused(app, labels, verb):
    """HOF-214, given or loaded; nothing of them is kept."""
    with pytest.raises(BadLabels):
        app.label("v", labels) if verb == "label" else app.training_data("v", labels=labels)
    require_it_works(app)
    assert app.training_data("v")["bad"].null_count == 6


def test_labels_of_a_view_that_declares_none_are_refused(app):
    """Here the names of labels come from the view."""
    with pytest.raises(BadLabels, match="declares no labels"):
        app.training_data("plain", labels=[{"k": 0, "ts": START * S, "bad": 1}])


def test_a_label_that_changes_its_type_is_refused(app):
    """Loads of a column are of one type."""
    app.label("v", [{"k": 0, "ts": START * S, "bad": True}])
    with pytest.raises(BadLabels):
        app.label("v", [{"k": 0, "ts": START * S, "bad": "yes"}])
    assert app.training_data("v")["bad"].to_pylist() == [True, *[None] * 5]


@pytest.mark.parametrize(("view", "version"), [("w", None), ("v", 2), ("g.1", None)])
def test_a_view_that_there_is_not_is_named(app, view, version):
    """HOF-201."""
    with pytest.raises(UnknownView):
        app.training_data(view, version=version)


def test_code_that_is_not_loaded_is_named(app, tmp_path):
    """HOF-504: the registry knows the version, this process does not."""
    app.close()
    with (
        hof.open(app.path, settings=hof.load_settings(log=NO_SEALER)) as other,
        pytest.raises(CodeNotLoaded),
    ):
        other.training_data("v")


# --- failures half-way ----------------------------------------------------------------------------


@pytest.fixture
def damage(app):
    """Seals, and spoils the sealed rows; gives what makes them good again."""

    def damage():
        app.seal()
        (path,) = (app.path / "sealed").rglob("*version=1/*/*.parquet")
        good = path.read_bytes()
        end = len(good) * 6 // 10
        path.write_bytes(good[:4] + bytes(b ^ 0xFF for b in good[4:end]) + good[end:])
        return lambda: path.write_bytes(good)

    return damage


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_file_is_named_and_the_next_call_works(app, damage, engine):
    """HOF-506, not DuckDB's tale of it; nothing of the file that was to be written is left."""
    out = app.path.parent / "out"
    mend = damage()
    for split in (None, {"train": 0.5, "test": 0.5}):
        with pytest.raises(SealDamaged, match=r"version=1/day="):
            app.training_data("v", split=split, engine=engine)
        for ending in ("parquet", "arrow"):
            with pytest.raises(SealDamaged):
                app.write_training_data(out / f"train.{ending}", "v", split=split, engine=engine)
    assert list(out.iterdir()) == []
    mend()

    require_it_works(app)


def test_a_write_that_fails_leaves_the_file_that_was_there(app, damage):
    """As it was."""
    path = app.path.parent / "train.parquet"
    app.write_training_data(path, "v")
    before = path.read_bytes()
    damage()
    with pytest.raises(SealDamaged):
        app.write_training_data(path, "v")

    assert path.read_bytes() == before


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interruption_comes_out_and_the_next_call_works(app, engine):
    """Ctrl-C while DuckDB reads a stream stays what it was."""

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.offline().training_data("v", None, Ask(engine=engine), interrupt)
    require_it_works(app)


# --- whole processes ------------------------------------------------------------------------------

PROGRAM = """
import json, os, sys
import pyarrow as pa
import hofflight as hof
from tests.faults import test_bad_labels_and_ranges as here
path, how, engine = sys.argv[1:]
app = here.open_app(path)
if how == "kept":
    try:
        app.training_data("v", engine=engine)
    except hof.HofError as error:
        kept = error
        print(error.code)
elif how == "verify":
    app.verify("v")
elif how == "write":
    with app:
        app.write_training_data(path + ".parquet", "v", engine=engine)
else:
    app.training_data("v", engine=engine, split={"train": 0.5, "test": 0.5})
"""


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True,
        timeout=60, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["uncaught", "kept", "write", "verify"])
def test_a_process_that_fails_leaks_nothing_of_duckdb(app, damage, how, engine):
    """An error that nobody catches, or that somebody keeps, holds no connection at the end."""
    damage()
    app.close()
    ended = run(app.path, how, engine)

    assert "HOF-506" in ended.stdout + ended.stderr
    assert "leaked" not in ended.stderr
    assert ended.returncode == (0 if how == "kept" else 1)


# Stands still in the middle of its write, when most of the file is there.
KILLED = """
import sys, time
from tests.faults import test_bad_labels_and_ranges as here
from hofflight.replay import offline
path, out = sys.argv[1:]
app = here.open_app(path)
def slowly(batches):
    for batch in batches:
        yield batch
    print("ready", flush=True)
    time.sleep(60)
write = offline._write_parquet
offline._write_parquet = lambda path, schema, batches, report: write(
    path, schema, slowly(batches), report
)
app.write_training_data(out, "v")
"""


def test_a_write_that_is_killed_leaves_no_file(app, tmp_path):
    """Nothing under its name, which the next write makes; what is left says that it is half."""
    app.close()
    out = tmp_path / "out/train.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(app.path), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    assert not out.exists()
    with open_app(app.path) as again:
        assert again.write_training_data(out, "v").rows == 6
    left = [path.name for path in out.parent.iterdir() if path != out]
    assert all(name.startswith("train.parquet.") and name.endswith(".tmp") for name in left)


# What a process may write to one file stands in for a disk that is full.
FULL = """
import resource, sys
import hofflight as hof
from benchmarks.replay_workload import TRAINING, card_tx, fill
from tests.faults.test_bad_labels_and_ranges import NO_SEALER
path, spill, engine = sys.argv[1:]
fill(path, 400_000, 100_000)
replay = {"memory_mib": 64, "threads": 1, "spill": spill}
with hof.open(path, settings=hof.load_settings(log=NO_SEALER, replay=replay)) as app:
    app.register(card_tx)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        app.training_data(TRAINING, engine=engine, ids=True)
    except hof.HofError as error:
        print(error)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_too_full_to_spill_is_told_in_our_words(tmp_path, engine):
    """HOF-509 with the setting; what was spilled is gone, and nothing of DuckDB is leaked."""
    spill = tmp_path / "it's full"
    spill.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "store"), str(spill), engine],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert "HOF-509: replay could not spill to disk" in ended.stdout
    assert "replay.spill" in ended.stdout
    assert ended.stderr == ""
    assert list(spill.iterdir()) == []

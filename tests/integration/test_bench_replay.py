"""The replay benchmark at a small size: its history is read, its answers agree, figures come."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import bench_replay
from benchmarks.replay_workload import card_tx, fill, history_of, payments
from hofflight.replay.windowed import How

REPO = Path(__file__).parents[2]
ROWS = 20_000
FIGURES = (
    "speedup_invertible", "speedup_minmax", "speedup_sql", "quarter_memory_time_ratio",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sealed history of three parts."""
    path = tmp_path_factory.mktemp("replay") / "store"
    fill(path, 5_000, part_rows=2_000)
    return path


def test_payments_come_in_the_order_of_time_with_a_few_ties():
    """Ties are what the plain query gets wrong, so the history must have some."""
    found = payments(ROWS)
    ts = found.column("ts").cast(pa.int64()).to_numpy()

    assert found.schema == card_tx.input
    assert (np.diff(ts) >= 0).all()
    assert 0 < np.count_nonzero(bench_replay.tied(found)) < ROWS / 100


def test_a_filled_store_is_read_as_a_sealed_history(store):
    """The benchmark writes the segments itself, in the format that replay reads."""
    parts = [part.rows for part in history_of(store).parts(about=["_seq"])]
    read = pa.Table.from_batches(parts).sort_by("_seq")

    assert [part.num_rows for part in parts] == [2_000, 2_000, 1_000]
    assert read.select(card_tx.input.names).equals(payments(5_000).combine_chunks())


def test_a_wrong_answer_is_counted(store):
    """A check that cannot fail would let a fast and wrong engine through."""
    functions = bench_replay.SUMS
    naive = bench_replay.by_hand(store, functions)
    answers = bench_replay.by_engine(store, functions, How("kernel"))
    place = answers.schema.get_field_index("sum_7d")
    off = pa.array(answers.column("sum_7d").to_numpy() * (1 + 1e-9))

    assert bench_replay.differences(answers, naive, functions) == 0
    assert bench_replay.differences(answers.set_column(place, "sum_7d", off), naive, functions) > 0


def test_the_program_prints_one_line_of_figures():
    """What a report quotes is there, and no engine answered wrongly."""
    command = [sys.executable, "benchmarks/bench_replay.py", "--json"]
    run = subprocess.run(
        [*command, "--rows", str(ROWS), "--rounds", "1"],
        cwd=REPO, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout)

    assert run.stdout.count("\n") == 1
    assert {name: found[name] for name in found if name.startswith("wrong_")} == {
        "wrong_kernel": 0,
        "wrong_sql": 0,
        "wrong_minmax": 0,
    }
    for figure in FIGURES:
        assert found[figure] > 0
        assert len(found[f"{figure}_spread"]) == 2

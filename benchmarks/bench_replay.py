"""Training windows out of sealed segments: what do exactness and little memory cost?

Measures:   from Parquet files to Arrow batches with their windows, in CPU seconds of this process
            (all threads), in interleaved rounds of one run. The floor is what one would write by
            hand: DuckDB, `RANGE w PRECEDING .. CURRENT ROW`, over the same files. It is wrong
            where two rows of a card share a microsecond; elsewhere all are compared first.
            `quarter_memory_time_ratio`: the whole training job as a process of its own, once
            without a bound and once with at most a quarter of the memory by which it grew, its
            peak over what it had after a table of a thousand rows (libraries load at first use).
            `replay.memory_mib` bounds DuckDB alone; what Python holds beside it (a sealed file, a
            chunk of keys, a row group) has no bound. So the setting begins at the quarter and is
            lowered until the peak that the kernel reports (VmHWM) lies below.
Not shown:  disorder, keys of very different size, several machines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import machine, summary
from benchmarks.replay_workload import TRAINING, WINDOW_DAYS, card_tx, fill, history_of, windows_of
from hofflight import limits
from hofflight.assemble import read_offline
from hofflight.replay.duckdb_engine import open_duckdb
from hofflight.replay.offline import Ask
from hofflight.replay.transformed import Transformation
from hofflight.replay.windowed import How, database, windowed
from hofflight.settings import ReplaySettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hofflight.settings import Settings

SUMS: Final = ("count", "sum")
EXTREMES: Final = ("min", "max")
WARM: Final = "warm"
MEMORY_MIB_MIN: Final = 32  # the least that `replay.memory_mib` takes


# --- the jobs -------------------------------------------------------------------------------------


def by_hand(store: Path, functions: tuple[str, ...]) -> pa.Table:
    """The plain query: inclusive of whatever shares the row's microsecond."""
    files = sorted(Path(store).glob("sealed/*/version=1/**/*.parquet"))
    columns = ["card", "ts", "amount", "_seq"]
    parts = [pq.ParquetFile(path).read(columns) for path in files]
    history = pa.concat_tables(parts)
    ts = history.schema.get_field_index("ts")
    history = history.set_column(ts, "ts", history.column("ts").cast(pa.int64()))
    answers = ", ".join(
        f"{function}(amount) OVER d{days} AS {function}_{days}d"
        for days in WINDOW_DAYS for function in functions
    )  # fmt: skip
    # Microseconds are whole: `w - 1` PRECEDING is "younger than w", as our windows are.
    windows = ", ".join(
        f"d{days} AS (PARTITION BY card ORDER BY ts"
        f" RANGE BETWEEN {days * limits.DAY_US - 1} PRECEDING AND CURRENT ROW)"
        for days in WINDOW_DAYS
    )
    con = open_duckdb()
    con.register("history", history)
    query = f"SELECT card, ts, amount, _seq, {answers} FROM history WINDOW {windows}"  # noqa: S608
    found: pa.Table = con.sql(query).to_arrow_table()
    con.close()
    return found


def by_engine(store: Path, functions: tuple[str, ...], how: How) -> pa.Table:
    """What training, parity and backfill go through: history, transformation, windows."""
    transformation = Transformation(card_tx, windows_of(*functions))
    question = transformation.preparation.question
    rows = (
        transformation.apply(part.rows).select(question.schema.names)
        for part in history_of(store).parts(about=["_seq"])
    )
    with database(ReplaySettings()) as con:
        return pa.Table.from_batches(windowed(con, rows, question.schema, question, how))


def jobs_of(store: Path) -> dict[str, Callable[[], pa.Table]]:
    """Every job by its name in the figures."""
    kernel, sql = How("kernel"), How("duckdb")
    return {
        "naive": lambda: by_hand(store, SUMS),
        "kernel": lambda: by_engine(store, SUMS, kernel),
        "sql": lambda: by_engine(store, SUMS, sql),
        "naive_minmax": lambda: by_hand(store, EXTREMES),
        "kernel_minmax": lambda: by_engine(store, EXTREMES, kernel),
    }


# --- right first ----------------------------------------------------------------------------------


def differences(answers: pa.Table, naive: pa.Table, functions: tuple[str, ...]) -> int:
    """How many values differ, ties left out; sums may by what DuckDB's rounding explains."""
    answers, naive = answers.sort_by("_seq"), naive.sort_by("_seq")
    if answers.column("_seq") != naive.column("_seq"):
        return max(answers.num_rows, naive.num_rows)
    alone = ~tied(naive)
    wrong = 0
    for name in windows_of(*functions):
        ours, theirs = (table.column(name).to_numpy()[alone] for table in (answers, naive))
        # Amounts are positive, so a sum is its own sum of magnitudes.
        slack = 1e-12 * np.abs(theirs) if name.startswith("sum") else 0.0
        wrong += int(np.count_nonzero(~(np.abs(ours - theirs) <= slack)))
    return wrong


def tied(table: pa.Table) -> np.ndarray:
    """Which rows share card and microsecond with another one."""
    card, ts = (table.column(name).to_numpy() for name in ("card", "ts"))
    order = np.lexsort((ts, card))
    same = (np.diff(card[order]) == 0) & (np.diff(ts[order]) == 0)
    found = np.zeros(len(card), bool)
    found[order[1:][same]] = found[order[:-1][same]] = True
    return found


# --- CPU time -------------------------------------------------------------------------------------


def cpu_s(job: Callable[[], pa.Table]) -> float:
    """CPU seconds of this process for one run, whichever threads spend them."""
    started = time.process_time()
    job()
    return time.process_time() - started


def speedups(store: Path, rounds: int) -> dict[str, Any]:
    """Every job once a round: CPU of the plain query over that of ours, round by round."""
    jobs = jobs_of(store)
    answers = {name: job() for name, job in jobs.items()}
    found: dict[str, Any] = {
        "wrong_kernel": differences(answers["kernel"], answers["naive"], SUMS),
        "wrong_sql": differences(answers["sql"], answers["naive"], SUMS),
        "wrong_minmax": differences(answers["kernel_minmax"], answers["naive_minmax"], EXTREMES),
        "ties": int(np.count_nonzero(tied(answers["naive"]))),
    }
    del answers
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(cpu_s(job))
    for figure, ours, naive in (
        ("speedup_invertible", "kernel", "naive"),
        ("speedup_minmax", "kernel_minmax", "naive_minmax"),
        ("speedup_sql", "sql", "naive"),
    ):
        pairs = zip(times[naive], times[ours], strict=True)
        found |= summary(figure, [a / b for a, b in pairs])
    middle = {name: round(statistics.median(cpu), 3) for name, cpu in times.items()}
    return found | {"cpu_s": middle}


# --- memory ---------------------------------------------------------------------------------------


def quarter(store: Path, rounds: int) -> dict[str, Any]:
    """The training job with all the memory it wants, and with a quarter of that growth."""
    free = [train_alone(store) for _ in range(rounds)]
    growth = statistics.median(run["growth_mib"] for run in free)
    memory_mib = quarter_setting(store, 0.9 * growth / 4)  # peaks vary by some MiB
    bound = [train_alone(store, memory_mib) for _ in range(rounds)]
    peak = max(run["growth_mib"] for run in bound)
    pairs = zip(bound, free, strict=True)
    return {
        **summary("quarter_memory_time_ratio", [b["cpu_s"] / f["cpu_s"] for b, f in pairs]),
        "quarter_memory_kept": peak <= growth / 4,
        "memory_growth_mib": {"free": growth, "quarter": round(growth / 4, 1), "bound": peak},
        "memory_base_mib": free[0]["base_mib"],
        "memory_duckdb_mib": memory_mib,
    }


def quarter_setting(store: Path, goal_mib: float) -> int:
    """The `replay.memory_mib` with which the job stays below, or the least that it runs with."""
    memory_mib, runs_with = int(goal_mib), int(goal_mib)
    while memory_mib >= MEMORY_MIB_MIN:
        try:
            over = train_alone(store, memory_mib)["growth_mib"] - goal_mib
        except MemoryError:
            break  # DuckDB cannot sort in so little
        runs_with = memory_mib
        if over <= 0:
            break
        memory_mib -= max(4, int(over / 2))
    return max(MEMORY_MIB_MIN, runs_with)


def train_alone(store: Path, memory_mib: int | None = None) -> dict[str, float]:
    """`train` in a fresh process: its peak is nobody else's."""
    command = [sys.executable, str(Path(__file__)), "--train", str(store)]
    # Arrow's own allocator keeps some 50 MiB of what was freed, each arena of the system's some 10.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    if memory_mib is not None:
        # Each thread of DuckDB sorts in memory of its own: who has little takes one.
        environment |= {"HOF_REPLAY__MEMORY_MIB": str(memory_mib), "HOF_REPLAY__THREADS": "1"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise MemoryError(said) if "Out of Memory" in said else RuntimeError(said)
    found: dict[str, float] = orjson.loads(done.stdout)
    return found


def train(store: Path) -> dict[str, float]:
    """Write the training table once: CPU seconds, and by how much the process grew meanwhile.

    Libraries load at first use (80 MiB), so a small table is made before.
    """
    settings = load_settings()
    write_table(store.with_name(WARM), settings)
    base, started = _memory_mib("VmRSS"), time.process_time()
    write_table(store, settings)
    return {
        "cpu_s": time.process_time() - started,
        "base_mib": base,
        "growth_mib": round(_memory_mib("VmHWM") - base, 1),
    }


def write_table(store: Path, settings: Settings) -> None:
    """The job itself: raw columns, counts and sums of a store, as Parquet, by the kernel."""
    with read_offline(store, [card_tx], settings) as (offline, _):
        ask = Ask(engine="kernel")
        offline.write_training_data(store / "training.parquet", TRAINING, None, ask)


def _memory_mib(what: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LookupError(what)


# --- the program ----------------------------------------------------------------------------------


def measured(rows: int, rounds: int) -> dict[str, Any]:
    """All figures, over a store of their own."""
    found: dict[str, Any] = {
        "bench": "replay", "time": time.strftime("%Y-%m-%d"), **machine(), "rows": rows,
    }  # fmt: skip
    found["versions"]["duckdb"] = version("duckdb")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        fill(store, rows)
        fill(store.with_name(WARM), 1_000)
        return found | speedups(store, rounds) | quarter(store, max(1, rounds // 2))


def main() -> int:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of indented")
    parser.add_argument("--rows", type=int, default=1_750_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = train(options.train) if options.train else measured(options.rows, options.rounds)
    print(orjson.dumps(found, option=0 if options.json else orjson.OPT_INDENT_2).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

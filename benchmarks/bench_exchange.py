"""One event in, its vector out: how much longer than a bare echo on the same server?

Measures:   client send -> answer read, warm `do_exchange` streams, loopback, closed loop; the echo
            (`hof.echo`: parse, decode, encode, nothing else) in interleaved blocks of one run.
            Every figure is the median of block ratios, with its spread. Window cost is measured
            in-process, per pushed event.
Not shown:  queueing (the loop waits for each answer), other machines, TLS.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import statistics
import sys
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from benchmarks.harness import (
    ECHO,
    WarmStream,
    machine,
    requests_per_s,
    resident_kib,
    serving,
    summary,
)
from benchmarks.workloads import INPUT, events, expressions, opaque
from hofflight.features.group import feature_group
from hofflight.features.window import max as window_max
from hofflight.features.window import sum as window_sum
from hofflight.transform.plan import GroupPlan
from hofflight.transform.state_codec import load_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

WORKLOADS = "benchmarks.workloads"
PREFILL_ROWS = 40_000
BULK_ROWS = 10_000


class Source:
    """The endless stream of events, cut as needed."""

    def __init__(self, first: int) -> None:
        self._next = first
        self.sent: list[pa.RecordBatch] = []

    def batch(self, rows: int) -> pa.RecordBatch:
        """The next rows as one batch."""
        self._next += rows
        self.sent.append(events(rows, first=self._next - rows))
        return self.sent[-1]

    def singles(self, count: int) -> list[pa.RecordBatch]:
        """The next rows, a batch each."""
        block = self.batch(count)
        return [block.slice(row, 1) for row in range(count)]


def filled(address: str, view: str) -> tuple[WarmStream, Source]:
    """A warm stream whose windows have their steady size."""
    stream = WarmStream(address, view, expressions.input)
    source = Source(0)
    for _ in range(PREFILL_ROWS // BULK_ROWS):
        stream.ask(source.batch(BULK_ROWS))
    stream.times_us(source.singles(300))
    return stream, source


def latency(tcp: str, unix: str, blocks: int, requests: int) -> dict[str, Any]:
    """One-row requests of expressions against the echo, over TCP and over a Unix socket."""
    ours, source = filled(tcp, expressions.name)
    lanes = {
        "echo": WarmStream(tcp, ECHO, expressions.input),
        "ours": ours,
        "unix_echo": WarmStream(unix, ECHO, expressions.input),
        "unix_ours": WarmStream(unix, expressions.name, expressions.input),
    }
    times = interleaved(lanes, source, blocks, requests)
    return (
        summary("ratio_p50", block_ratios(times["ours"], times["echo"], 50))
        | summary("ratio_p99", block_ratios(times["ours"], times["echo"], 99))
        | summary("unix_ratio_p50", block_ratios(times["unix_ours"], times["unix_echo"], 50))
        | percentiles(times)
    )


def latency_opaque(tcp: str, blocks: int, requests: int) -> dict[str, Any]:
    """The same features as one Arrow function of the user's, which runs in a thread of its own."""
    ours, source = filled(tcp, opaque.name)
    lanes = {"echo_beside_opaque": WarmStream(tcp, ECHO, opaque.input), "opaque": ours}
    times = interleaved(lanes, source, blocks, requests)
    ratios = block_ratios(times["opaque"], times["echo_beside_opaque"], 50)
    return summary("ratio_p50_opaque", ratios) | percentiles(times)


def interleaved(
    lanes: dict[str, WarmStream], source: Source, blocks: int, requests: int
) -> dict[str, list[list[float]]]:
    """Microseconds of every request by lane and block; the lanes take turns, block by block."""
    times: dict[str, list[list[float]]] = {name: [] for name in lanes}
    for _ in range(blocks):
        for name, stream in lanes.items():
            times[name].append(stream.times_us(source.singles(requests)))
    for stream in lanes.values():
        stream.close()
    return times


def percentiles(
    times: dict[str, list[list[float]]], percents: Sequence[float] = (50, 99)
) -> dict[str, dict[str, float]]:
    """p50 and p99, or others, of each lane over all blocks, in microseconds."""
    return {
        f"{name}_us": {
            f"p{p}": round(float(np.percentile(np.concatenate(found), p)), 1) for p in percents
        }
        for name, found in times.items()
    }


def block_ratios(upper: list[list[float]], lower: list[list[float]], percent: float) -> list[float]:
    """Percentile of each block over that of its neighbour block."""
    pairs = zip(upper, lower, strict=True)
    return [float(np.percentile(a, percent) / np.percentile(b, percent)) for a, b in pairs]


def bulk(tcp: str, blocks: int) -> dict[str, Any]:
    """10,000-row batches: rows a second over the echo's; every sum checked against `math.fsum`."""
    ours, source = filled(tcp, expressions.name)
    echo = WarmStream(tcp, ECHO, expressions.input)
    ratios, rates = [], []
    wrong = 0
    for _ in range(blocks):
        batch = source.batch(BULK_ROWS)
        echo_us = statistics.median(echo.times_us([batch] * 5))
        started = perf_counter()
        answer = ours.ask(batch)
        ours_us = (perf_counter() - started) * 1e6
        ratios.append(echo_us / ours_us)
        rates.append(BULK_ROWS / ours_us * 1e6)
        # 40,320 rows are seven days: six blocks hold them and the batch itself.
        wrong += wrong_sums(source.sent[-6:], answer)
    return {
        **summary("bulk_ratio", ratios),
        "bulk_rows_per_s": round(statistics.median(rates)),
        "bulk_wrong_sums": wrong,
    }


def wrong_sums(history: list[pa.RecordBatch], answer: pa.RecordBatch) -> int:
    """Of every 50th answer: how many seven-day sums differ from fsum over the rows themselves."""
    week_us = 7 * 86_400_000_000
    cards = np.concatenate([b["card"].to_numpy() for b in history])
    times = np.concatenate([b["ts"].cast("int64").to_numpy() for b in history])
    amounts = np.concatenate([b["amount"].to_numpy() for b in history])
    first = len(cards) - answer.num_rows
    sums = answer[f"{expressions.name}.sum_7d"].to_pylist()
    wrong = 0
    for row in range(0, answer.num_rows, 50):
        here = first + row
        seen = slice(0, here + 1)
        inside = (cards[seen] == cards[here]) & (times[seen] > times[here] - week_us)
        wrong += math.fsum(amounts[seen][inside]) != sums[row]
    return int(wrong)


def streams8(tcp: str, blocks: int, requests: int) -> dict[str, Any]:
    """Eight streams at once: requests a second over the echo's."""
    first, source = filled(tcp, expressions.name)
    ours = [first, *(WarmStream(tcp, expressions.name, expressions.input) for _ in range(7))]
    echo = [WarmStream(tcp, ECHO, expressions.input) for _ in range(8)]
    ratios, rates = [], []
    for _ in range(blocks):
        # One stream of events dealt out to all: eight clocks apart would make most rows late.
        dealt = source.singles(8 * requests)
        work = [dealt[stream::8] for stream in range(8)]
        floor = requests_per_s(echo, work)
        rates.append(requests_per_s(ours, work))
        ratios.append(rates[-1] / floor)
    per_s = round(statistics.median(rates))
    return summary("streams8_ratio", ratios) | {"streams8_per_s": per_s}


def window_cost(blocks: int) -> dict[str, Any]:
    """A pushed event with 1,000,000 events in the window over one with 100, in-process."""
    found: dict[str, Any] = {}
    for name, function in (("sum", window_sum), ("max", window_max)):
        small, large = pushes(function, 100), pushes(function, 1_000_000)
        next(large)  # makes the blocks of a million rows that were never asked for
        ratios = []
        for _ in range(blocks):
            # Means: one push in sixteen merges blocks, and its cost belongs to all of them.
            few = statistics.mean(next(small) for _ in range(320))
            many = statistics.mean(next(large) for _ in range(320))
            ratios.append(many / few)
        found |= summary(f"window_cost_ratio_{name}", ratios)
    return found


def pushes(function: Any, rows: int) -> Iterator[float]:
    """Microseconds of each further push into a full window of `rows` events."""
    group = feature_group(
        "cost", version=1, key="card", event_time="ts", late="1s",
        input={name: INPUT[name] for name in ("card", "ts", "amount")},
        windows={"value": function("amount").over(f"{rows}s")},
    )  # fmt: skip
    plan = GroupPlan(group)
    state, rng = plan.new_state(), random.Random(7)
    times = [row * 1_000_000 for row in range(rows)]
    values = [rng.random() * 100 for _ in times]
    state.keys[7] = load_key(plan.windows, [times[-1], 0, times, [values], [], []])
    ts = times[-1]
    while True:
        ts += 1_000_000
        value = (rng.random() * 100,)
        started = perf_counter()
        state.push(7, ts, value)
        state.commit()
        yield (perf_counter() - started) * 1e6


def memory(tcp: str, pid: int, minutes: float) -> dict[str, Any]:
    """Resident memory of the server under one-row load: KiB a minute over the second half."""
    stream, source = filled(tcp, expressions.name)
    samples = []
    started = perf_counter()
    while (elapsed := perf_counter() - started) < minutes * 60:
        stream.times_us(source.singles(500))
        samples.append((elapsed / 60, resident_kib(pid)))
    half = samples[len(samples) // 2 :]
    slope = float(np.polyfit([x for x, _ in half], [y for _, y in half], 1)[0])
    return {
        "rss_slope_kib_per_min": round(slope, 1),
        "rss_kib": samples[-1][1],
        "rss_requests": 500 * len(samples),
    }


def main() -> int:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line instead of indented")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rss-minutes", type=float, default=0.0)
    options = parser.parse_args()
    gc.freeze()
    gc.disable()
    found: dict[str, Any] = {"bench": "exchange", "time": time.strftime("%Y-%m-%d"), **machine()}
    # A server for each figure, with the group it is about and the echo to compare with. Ids are
    # remembered for their number's sake: a small bound lets memory settle within minutes.
    alone = f"{WORKLOADS}:{expressions.name}"
    with serving(alone, HOF_ENGINE__IDS_MAX="20000") as (tcp, unix, pid):
        found |= latency(tcp, unix, options.blocks, options.requests)
        if options.rss_minutes:
            found |= memory(tcp, pid, options.rss_minutes)
    with serving(f"{WORKLOADS}:{opaque.name}") as (tcp, _, _):
        found |= latency_opaque(tcp, options.blocks, options.requests)
    with serving(alone) as (tcp, _, _):
        found |= streams8(tcp, options.blocks, options.requests)
    with serving(alone) as (tcp, _, _):
        found |= bulk(tcp, options.blocks)
    found |= window_cost(options.blocks)
    print(orjson.dumps(found, option=0 if options.json else orjson.OPT_INDENT_2).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

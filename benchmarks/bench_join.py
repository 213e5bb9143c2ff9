"""Stored features in the answer: what the lookup and the join add to a one-row request.

Measures:   client send -> answer read, warm `do_exchange` streams, loopback, closed loop, views
            with and without stored features in interleaved blocks of one run.
            LMDB: the joined view over the plain one (`embedded_ratio_p50`); the same in-process,
            without any network (`in_process_added_us`).
            Valkey: what 1 and 25 stored groups add, over one bare pipelined MGET of as many
            rows from this process (`valkey_added_ratio_1`, `_25`). A plain request goes before
            each bare MGET, as it is between requests that a server asks: in a loop of nothing
            else it takes little more than half the time (`valkey_hot_mget1_us`), with or
            without us.
            Figures are medians of block ratios, with their spread.
Not shown:  queueing, other machines, TLS; a Valkey that is further away than loopback makes the
            ratios better and the requests slower.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import redis.asyncio

from benchmarks.bench_exchange import BULK_ROWS, PREFILL_ROWS, Source, block_ratios, percentiles
from benchmarks.harness import WarmStream, machine, serving, summary
from benchmarks.join_workload import GROUPS, card_tx, joined, load_stored
from hofflight.assemble import open_store
from hofflight.online.slots import COMMITS_KEY, row_key
from hofflight.settings import load_settings
from hofflight.testing.valkey import valkey_server
from hofflight.wire.keys import KeyCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hofflight.app import App

WORKLOAD: Final = "benchmarks.join_workload"
Times = dict[str, list[list[float]]]


def embedded(blocks: int, requests: int) -> dict[str, Any]:
    """LMDB behind the server: a joined view over the plain one."""
    settings = load_settings()
    with serving(WORKLOAD, lambda path: load_stored(path, settings)) as (tcp, _, _):
        times = alternating(tcp, ("plain", "join1"), blocks, requests)
    ratios = block_ratios(times["join1"], times["plain"], 50)
    named = {f"lmdb_{name}": found for name, found in times.items()}
    return summary("embedded_ratio_p50", ratios) | percentiles(named)


def in_process(blocks: int, requests: int) -> dict[str, Any]:
    """The same without a network: what `app.vector` takes with the join and without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        load_stored(path, load_settings())
        with open_store(path) as app:
            app.register(card_tx)
            app.ingest(card_tx.name, Source(0).batch(PREFILL_ROWS))
            app.view("plain", 1, joined(0))
            app.view("join1", 1, joined(1))
            source = Source(PREFILL_ROWS)
            times: Times = {"plain": [], "join1": []}
            for _ in range(blocks):
                for name, found in times.items():
                    found.append(calls_us(app, name, source.singles(requests)))
    added = [
        statistics.median(a) - statistics.median(b)
        for a, b in zip(times["join1"], times["plain"], strict=True)
    ]
    return {
        **summary("in_process_ratio_p50", block_ratios(times["join1"], times["plain"], 50)),
        **summary("in_process_added_us", added),
        "in_process_plain_us": round(statistics.median(map(statistics.median, times["plain"])), 1),
    }


def calls_us(app: App, view: str, batches: Sequence[pa.RecordBatch]) -> list[float]:
    """Microseconds of each call."""
    times = []
    for batch in batches:
        started = perf_counter()
        app.vector(view, batch)
        times.append((perf_counter() - started) * 1e6)
    return times


def valkey(blocks: int, requests: int) -> dict[str, Any]:
    """Valkey behind the server: what is added, over the bare round trip for as many rows."""
    with valkey_server() as store:
        settings = load_settings(online={"url": store.url})
        environment = {"HOF_ONLINE__URL": store.url}
        with (
            serving(WORKLOAD, lambda path: load_stored(path, settings), **environment) as found,
            asyncio.Runner() as runner,
        ):
            client = redis.asyncio.from_url(store.url)
            keys = {n: bare_keys(n, settings.online.prefix) for n in (1, GROUPS)}

            def mget(name: str, before: Sequence[Callable[[], object]]) -> list[float]:
                count = int(name.removeprefix("mget"))
                return runner.run(bare_us(client, keys[count], before))

            lanes = ("plain", "join1", "join25", "mget1", "mget25")
            times = alternating(found[0], lanes, blocks, requests, mget)
            hot = runner.run(bare_us(client, keys[1], [lambda: None] * 10 * requests))
            runner.run(client.aclose())
    ratios: dict[str, Any] = {}
    for n in (1, GROUPS):
        added = [
            (np.median(joined) - np.median(plain)) / np.median(floor)
            for joined, plain, floor in zip(
                times[f"join{n}"], times["plain"], times[f"mget{n}"], strict=True
            )
        ]
        ratios |= summary(f"valkey_added_ratio_{n}", added)
    times["hot_mget1"] = [hot]
    return ratios | percentiles({f"valkey_{name}": found for name, found in times.items()})


def bare_keys(count: int, prefix: str) -> list[bytes]:
    """The keys of a request with so many stored groups, as the store has them."""
    key = KeyCodec(pa.schema([card_tx.input.field("card")])).encode([7])
    assert key is not None
    rows = [row_key(f"s{n:02}.1", key) for n in range(count)]
    return [b"{%s}:" % prefix.encode() + name for name in (COMMITS_KEY, *rows)]


async def bare_us(
    client: Any, keys: list[bytes], before: Sequence[Callable[[], object]]
) -> list[float]:
    """Microseconds of pipelined MGETs, one after each call of `before`."""
    times = []
    for call in before:
        call()
        started = perf_counter()
        pipeline = client.pipeline(transaction=False)
        pipeline.mget(keys)
        ((first, *_),) = await pipeline.execute()
        times.append((perf_counter() - started) * 1e6)
        if first is None:
            msg = "the bare MGET found nothing"
            raise RuntimeError(msg)
    return times


def alternating(
    tcp: str, lanes: Sequence[str], blocks: int, requests: int, bare: Any = None
) -> Times:
    """Microseconds of every request by lane and block; the lanes take turns, block by block."""
    source = Source(0)
    views = [name for name in lanes if not name.startswith("mget")]
    streams = {name: WarmStream(tcp, name, card_tx.input) for name in views}
    for _ in range(PREFILL_ROWS // BULK_ROWS):
        streams["plain"].ask(source.batch(BULK_ROWS))
    for stream in streams.values():
        stream.times_us(source.singles(300))
    times: Times = {name: [] for name in lanes}
    for _ in range(blocks):
        for name, found in times.items():
            if name in streams:
                found.append(streams[name].times_us(source.singles(requests)))
            else:
                plain = streams["plain"]
                found.append(bare(name, [partial(plain.ask, b) for b in source.singles(requests)]))
    for stream in streams.values():
        stream.close()
    return times


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--requests", type=int, default=200, help="in a block")
    given = parser.parse_args()
    result = {
        **embedded(given.blocks, given.requests),
        **in_process(given.blocks, given.requests),
        **valkey(given.blocks, given.requests),
        **machine(),
    }
    option = 0 if given.json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(result, option=option).decode() + "\n")


if __name__ == "__main__":
    main()

"""`hof demo cards`: card transactions become feature vectors, and the proof that they are right."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hofflight.cli import cards_features, exchange
from hofflight.cli.cards_data import card_transactions, customers_table
from hofflight.cli.offline import verified
from hofflight.cli.output import note, progress
from hofflight.cli.server_process import server_process

if TYPE_CHECKING:
    import pyarrow as pa

    from hofflight.cli.exchange import Answers

_BATCH_ROWS: Final = 250
_SINGLE_ROWS_MAX: Final = 2_000
_BLOCKS: Final = 20
_SHOWN: Final = 3


def run_cards(*, customers: int, days: int, seed: int) -> dict[str, Any]:
    """Generate, load, serve, stream, measure, verify; what came of it as plain values.

    The history goes in batches, the end of it row by row: by then the windows are full. What the
    bank knows of its customers is loaded before, without some of them, and again half-way.
    """
    rows = card_transactions(customers=customers, days=days, seed=seed)
    rows = rows.select(cards_features.card_tx.input.names)
    single = min(_SINGLE_ROWS_MAX, rows.num_rows // 2)
    history, end = rows.slice(0, rows.num_rows - single), rows.slice(rows.num_rows - single)
    note(f"{rows.num_rows} transactions of {customers} customers over {days} days, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="hof-demo-") as folder:
        store = Path(folder) / "store"
        events = Path(folder) / "server.log"
        with server_process(store, cards_features.__name__, events) as address:
            note(f"hof serve answers at {address}")
            known = customers_table(customers=customers, seed=seed, days=0)
            loads = [_load(store, known.slice(0, customers - customers // 10))]
            client = exchange.connect(address)
            view = cards_features.card_fraud.name
            started_s = time.monotonic()
            half = history.num_rows // 2
            with progress("streaming", history.num_rows) as advance:
                many = exchange.send(
                    client, view, history.slice(0, half), batch_rows=_BATCH_ROWS, advance=advance
                )
                known = customers_table(customers=customers, seed=seed, days=days // 2)
                loads.append(_load(store, known))
                many.extend(
                    exchange.send(
                        client, view, history.slice(half), batch_rows=_BATCH_ROWS, advance=advance
                    )
                )
            streamed_s = time.monotonic() - started_s
            with progress("row by row", end.num_rows) as advance:
                block_rows = max(1, end.num_rows // _BLOCKS)
                few, ours, bare = exchange.measure(
                    client, view, end, block_rows=block_rows, advance=advance
                )
            client.close()
        groups = [cards_features.card_tx, cards_features.terminal_tx]
        parity = verified(store, groups, view)
    return {
        "events": rows.num_rows,
        "answers": many.rows + few.rows,
        "loads": loads,
        "errors": len(many.refused) + len(few.refused),
        "error_codes": sorted({meta.code for meta in (*many.refused, *few.refused)}),
        "late": sum(many.late) + sum(few.late),
        "seconds": round(time.monotonic() - started_s, 3),
        "rows_per_s": round(history.num_rows / streamed_s),
        "one_row_requests": end.num_rows,
        "latency_us": {"vector": ours.percentiles(), "echo": bare.percentiles()},
        **parity,
        "vectors": _last_vectors(end, few),
    }


def _load(store: Path, rows: pa.Table) -> dict[str, Any]:
    """Load what is known of customers, beside the running server."""
    from hofflight.assemble import read_loader

    with read_loader(store) as (offline, lookups):
        name = cards_features.customer.name
        return asdict(offline.materialize(name, None, rows, "full", lookups))


def _last_vectors(rows: pa.Table, answers: Answers) -> list[dict[str, Any]]:
    """The last few vectors, each under who and when."""
    shown = []
    asked = rows.slice(max(0, rows.num_rows - _SHOWN)).select(["customer", "ts"]).to_pylist()
    for who, batch in zip(asked, answers.batches[-_SHOWN:], strict=False):
        shown.append({**who, **batch.to_pylist()[0]})
    return shown

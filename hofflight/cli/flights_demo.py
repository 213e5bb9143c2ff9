"""`hof demo flights`: a year of flights, every answer replayed, many checked by brute force."""

from __future__ import annotations

import struct
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hofflight.cli import exchange, flights_features
from hofflight.cli.flights_data import flights
from hofflight.cli.offline import verified
from hofflight.cli.output import note, progress
from hofflight.cli.server_process import server_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from hofflight.cli.exchange import Answers

_BATCH_ROWS: Final = 500
# The oracle looks at the whole past for each row, so its work grows with the square of the rows:
# the whole histories of the 14 smaller keys (21,175 rows) take it about 20 s, the 46,087 rows of
# the largest key alone would take minutes. The first days of all keys together stand for those.
_ORACLE_ROWS: Final = 20_000
_PREFIX_ROWS: Final = 2_000


def run_flights(*, limit: int | None) -> dict[str, Any]:
    """Serve, stream, verify, check; what came of it as plain values."""
    group = flights_features.delays
    rows = flights(limit=limit).select(group.input.names)
    with tempfile.TemporaryDirectory(prefix="hof-demo-") as folder:
        store, events = Path(folder) / "store", Path(folder) / "server.log"
        with server_process(store, flights_features.__name__, events) as address:
            note(f"hof serve answers at {address}")
            client = exchange.connect(address)
            started_s = time.monotonic()
            with progress("streaming", rows.num_rows) as advance:
                answers = exchange.send(
                    client, group.name, rows, batch_rows=_BATCH_ROWS, advance=advance
                )
            streamed_s = time.monotonic() - started_s
            client.close()
        parity = verified(store, [group], group.name)
    result = {
        "events": rows.num_rows,
        "answered": answers.rows,
        "errors": len(answers.refused),
        "error_codes": sorted({meta.code for meta in answers.refused}),
        "late": sum(answers.late),
        "seconds": round(streamed_s, 3),
        "rows_per_s": round(rows.num_rows / streamed_s),
        **parity,
    }
    if not answers.refused and answers.rows == rows.num_rows:
        result |= _check(rows, answers)
    return result


def _check(rows: pa.Table, answers: Answers) -> dict[str, Any]:
    """The first rows, and whole histories of the smaller keys, against the oracle."""
    prefix = list(range(min(_PREFIX_ROWS, rows.num_rows)))
    histories = chosen_histories(rows, _ORACLE_ROWS)
    table = _plain_columns(rows, answers)
    wrong: set[int] = set()
    started_s = time.monotonic()
    with progress("oracle", len(prefix) + sum(map(len, histories))) as advance:
        for places in (prefix, *histories):
            wrong |= mismatched(table, answers.late, places)
            advance(len(places))
    return {
        "oracle_rows": len(set(prefix).union(*histories)),
        "oracle_keys": len(histories),
        "oracle_mismatches": len(wrong),
        "oracle_seconds": round(time.monotonic() - started_s, 3),
    }


def chosen_histories(rows: pa.Table, rows_min: int) -> list[list[int]]:
    """Places of all rows of a key, key by key, smaller keys first, until there are enough rows."""
    by_key: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    keys = zip(*(rows[name].to_pylist() for name in flights_features.delays.key), strict=True)
    for place, key in enumerate(keys):
        by_key[key].append(place)
    chosen: list[list[int]] = []
    for places in sorted(by_key.values(), key=len):
        if sum(map(len, chosen)) >= rows_min:
            break
        chosen.append(places)
    return chosen


def mismatched(
    table: dict[str, list[Any]], late: Sequence[bool], places: Sequence[int]
) -> set[int]:
    """Places that were answered otherwise than the oracle says.

    With each place, all earlier ones of its key must be there: its past is what is checked.
    """
    from hofflight.testing.oracle import replay

    group = flights_features.delays
    raw = [{name: table[name][place] for name in group.input.names} for place in places]
    wrong = set()
    for place, expected in zip(places, replay(group, raw), strict=True):
        right = expected.late == late[place] and all(
            is_same(table[name][place], value) for name, value in expected.windows.items()
        )
        if not right:
            wrong.add(place)
    return wrong


def is_same(got: object, expected: object) -> bool:
    """Bit for bit: 0.0 is not -0.0, 1 is not 1.0."""
    if isinstance(got, float) and isinstance(expected, float):
        return struct.pack("<d", got) == struct.pack("<d", expected)
    return type(got) is type(expected) and got == expected


def _plain_columns(rows: pa.Table, answers: Answers) -> dict[str, list[Any]]:
    """Raw and window columns as Python values."""
    import pyarrow as pa

    from hofflight.wire.columns import to_python

    group = flights_features.delays
    answered = pa.Table.from_batches(answers.batches)
    plain: Callable[[Any], list[Any]] = lambda column: to_python(column.combine_chunks())  # noqa: E731
    columns = {name: plain(rows[name]) for name in group.input.names}
    return columns | {name: plain(answered[f"{group.name}.{name}"]) for name in group.windows}

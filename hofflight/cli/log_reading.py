"""`hof log ls` and `hof log cat`: the event log, read beside whoever writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from hofflight import limits
from hofflight.cli.modules import collect
from hofflight.cli.options import Json, Modules, Store
from hofflight.cli.output import print_json, print_table, time_text
from hofflight.errors import DefinitionError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from hofflight.eventlog.protocol import Entry, EntryMeta
    from hofflight.features.registry import GroupRecord

app = typer.Typer(help="What was sent, in order, and what was answered.")
_OK = "OK"
_ABOUT = ("seq", "arrival", "id", "code", "late", "error")


class LogReader(Protocol):
    """A log as `read_store` gives it: whole entries, in order, beside its writer."""

    def segments(self) -> list[tuple[int, int, Path]]:
        """(ordinal, first number, path) of each segment."""
        ...

    def read(self, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """(position, entry), in order."""
        ...

    def read_meta(self, after: int = 0) -> Iterator[tuple[int, EntryMeta]]:
        """(position, metadata), in order."""
        ...


@app.command("ls")
def list_streams(store: Store, json: Json = False) -> None:
    """List the logs: one per group and input schema."""
    from hofflight.assemble import read_store

    registry, logs = read_store(store)
    registry.close()
    streams = [stream_entry(name, log) for name, log in logs.items()]
    if json:
        print_json({"streams": streams})
        return
    columns = ("stream", "segments", "bytes", "records", "rows", "voids")
    print_table("", columns, [[entry[name] for name in columns] for entry in streams])


@app.command("cat")
def show_stream(
    stream: Annotated[str, typer.Argument(help="A name that `hof log ls` shows.")],
    *,
    store: Store,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 20,
    output: Annotated[
        str, typer.Option("--as", metavar="table|jsonl", help="One JSON object a row, or a table.")
    ] = "table",
    answers: Annotated[
        bool, typer.Option("--answers", help="The answers' columns too; needs --modules.")
    ] = False,
    modules: Modules = "",
    json: Json = False,
) -> None:
    """Show raw rows in order, with seq, arrival, request id and outcome."""
    from hofflight.assemble import read_store

    if output not in ("table", "jsonl"):
        msg = f"--as takes table or jsonl, got {output!r}"
        raise SettingsError(msg)
    registry, logs = read_store(store)
    records = [record for record in registry.groups() if record.partition == stream]
    registry.close()
    if stream not in logs or not records:
        msg = f"there is no log {stream!r}; there are {sorted(logs)}"
        raise SettingsError(msg)
    schemas = answer_schemas(records, modules) if answers else {}
    rows = first_rows(logs[stream], input_schema(records[0]), schemas, limit)
    if json:
        print_json({"stream": stream, "rows": list(rows)})
    elif output == "jsonl":
        for row in rows:
            print_json(row)
    else:
        _print_rows(stream, list(rows))


def stream_entry(name: str, log: LogReader) -> dict[str, Any]:
    """What a log holds, counted. Rows are those that count; voids are refused records."""
    records = rows = voids = 0
    for _, meta in log.read_meta():
        records += 1
        rows += meta.rows if meta.code == _OK else 0
        voids += meta.code != _OK
    paths = [path for _, _, path in log.segments()]
    size = sum(path.stat().st_size for path in paths)
    return {
        "stream": name, "segments": len(paths), "bytes": size,
        "records": records, "rows": rows, "voids": voids,
    }  # fmt: skip


def input_schema(record: GroupRecord) -> pa.Schema:
    """The columns that a log's raw rows have."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(record.input_schema))


def answer_schemas(records: list[GroupRecord], modules: str) -> dict[str, pa.Schema]:
    """The full row of each version that reads the log, by code hash.

    The store keeps no types of computed columns, so they come from the code.

    Raises:
        SettingsError: HOF-601, no module was named.
        DefinitionError: HOF-100, the modules hold none of the log's groups as they were registered.
    """
    named = ",".join(sorted({record.module for record in records if record.module}))
    if not modules:
        msg = "--answers needs the code of the groups, for the types of their columns"
        raise SettingsError(msg, hint=f"add --modules {named or 'MODULE'}")
    known = {record.code_hash for record in records}
    schemas = {group.code_hash(): group.schema for _, group in collect(modules)}
    found = {code_hash: schema for code_hash, schema in schemas.items() if code_hash in known}
    if not found:
        msg = f"{modules} holds no group of this log as it was registered"
        raise DefinitionError(msg, hint=f"the registered ones came from {named or 'no module'}")
    return found


def first_rows(
    log: LogReader, raw: pa.Schema, answers: dict[str, pa.Schema], limit: int
) -> Iterator[dict[str, Any]]:
    """The first rows of a log as plain values; a void mark is one row, with its code."""
    left = limit
    for _, entry in log.read():
        for row in entry_rows(entry, raw, answers.get(entry.meta.code_hash)):
            yield row
            left -= 1
            if not left:
                return


def entry_rows(entry: Entry, raw: pa.Schema, answer: pa.Schema | None) -> Iterator[dict[str, Any]]:
    """The rows of one record, or the one line of a void mark."""
    meta = entry.meta
    seq = meta.number << limits.ROW_BITS
    arrival, id = time_text(meta.arrival_us), meta.id.hex()
    about = {"seq": seq, "arrival": arrival, "id": id, "code": meta.code, "late": False}
    if meta.code != _OK:
        yield {**about, "error": meta.error, "row": None}
        return
    rows = _decoded(raw, entry.head, entry.body)
    # An answer holds the raw columns too, so with it they need not be shown twice.
    if answer is not None and meta.answered:
        rows = _decoded(answer, entry.answer_head, entry.answer_body)
    late = set(meta.late)
    for place, row in enumerate(rows):
        yield {**about, "seq": seq + place, "late": place in late, "error": "", "row": row}


def _print_rows(stream: str, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row["row"] or ()))
    print_table(
        stream,
        [*_ABOUT, *columns],
        [[row[n] for n in _ABOUT] + [(row["row"] or {}).get(n) for n in columns] for row in rows],
    )


def _decoded(schema: pa.Schema, head: bytes, body: bytes) -> list[dict[str, Any]]:
    from hofflight.wire.ipc import BatchReader

    rows: list[dict[str, Any]] = BatchReader(schema).read_batch(head, body).to_pylist()
    return rows

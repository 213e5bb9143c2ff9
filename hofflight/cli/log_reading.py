"""`hof log ls`, `cat` and `seal`: the event log, beside whoever writes it."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hofflight.cli.options import End, Json, Kafka, Modules, RegistryUrl, Start, Store
from hofflight.cli.output import note, print_json, print_table, progress
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hofflight.features.records import GroupRecord
    from hofflight.replay.log_rows import Filter
    from hofflight.replay.read_log import History

app = typer.Typer(help="What was sent, in order, and what was answered.")
_ABOUT = ("seq", "arrival", "id", "code", "late", "error")
_FORMS = ("table", "jsonl", "parquet")


@app.command("ls")
def list_streams(store: Store, registry: RegistryUrl = None, json: Json = False) -> None:
    """List the logs: one per group and input schema."""
    from hofflight.assemble import read_offline
    from hofflight.settings import with_registry

    with read_offline(store, settings=with_registry(None, registry)) as (offline, names):
        streams = [stream_entry(name, offline.history_of(name)) for name in names]
    if json:
        print_json({"streams": streams})
        return
    columns = ("stream", "segments", "bytes", "records", "rows", "voids", "sealed_rows")
    print_table("", columns, [[entry[name] for name in columns] for entry in streams])


@app.command("cat")
def show_stream(
    stream: Annotated[str, typer.Argument(help="A name that `hof log ls` shows.")],
    *,
    store: Store,
    registry: RegistryUrl = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows; 20.")] = None,
    output: Annotated[
        str, typer.Option("--as", metavar="table|jsonl|parquet", help="How rows are shown.")
    ] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where Parquet goes: all rows.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only this key; again for each of its parts.")
    ] = None,
    start: Start = None,
    end: End = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="What was answered, not what was sent.")
    ] = False,
    json: Json = False,
) -> None:
    """Show rows in order, with seq, arrival, request id and outcome."""
    from hofflight.assemble import read_offline
    from hofflight.eventlog.joins import is_join_stream
    from hofflight.replay.log_rows import Filter, join_entries
    from hofflight.replay.span import Span
    from hofflight.settings import with_registry

    if output not in _FORMS:
        msg = f"--as takes one of {', '.join(_FORMS)}, got {output!r}"
        raise SettingsError(msg)
    with read_offline(store, settings=with_registry(None, registry)) as (offline, names):
        if stream in names and is_join_stream(stream):
            if output == "parquet" or key or start or end or answers:
                msg = f"{stream} is the log of a joined view: it has no key and no times"
                raise SettingsError(msg, hint="show it as a table or as jsonl")
            name, _, version = stream.partition("@")
            view = offline.view(name, int(version))
            rows = join_entries(offline.join_history(view), view)
            _show(stream, islice(rows, limit or 20), output, json=json)
            return
        records = offline.records(stream) if stream in names else []
        if not records:
            msg = f"there is no log {stream!r}; there are {names}"
            raise SettingsError(msg)
        wanted = Filter(records[-1], tuple(key or ()), Span.of(start, end))
        wanted.values()
        history = offline.history_of(stream)
        if output == "parquet":
            _write(history, wanted, records, out, answers=answers)
            return
        versions = [record.version for record in records] if answers else None
        _show(stream, _rows(history, wanted, versions, limit), output, json=json)


@app.command("seal")
def seal_streams(
    store: Store,
    streams: Annotated[
        list[str] | None, typer.Argument(metavar="[STREAM]...", help="Which logs; all without.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="kafka", help="Read the group's topics first.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --from kafka: whose topics.")
    ] = None,
    modules: Modules = "",
    kafka: Kafka = None,
    partitions: Annotated[
        str | None, typer.Option(metavar="0-3,7", help="With --from kafka: which; all without.")
    ] = None,
    registry: RegistryUrl = None,
    json: Json = False,
) -> None:
    """Turn what the logs hold into Parquet, beside a running server too.

    With --from kafka the store is one of your own: it counts what the topics hold, as a worker
    does, answers nobody, and goes on from there the next time.
    """
    from dataclasses import asdict

    from hofflight.assemble import read_offline
    from hofflight.settings import with_kafka, with_registry

    with suppress(OSError):
        os.nice(10)  # serving goes first
    settings = with_kafka(with_registry(None, registry), kafka)
    if source not in (None, "kafka"):
        msg = f"--from takes kafka, got {source!r}"
        raise SettingsError(msg)
    if source is None and (group or modules or partitions):
        msg = "--group, --modules and --partitions belong to --from kafka"
        raise SettingsError(msg)
    if source == "kafka":
        from hofflight.cli.kafka_log import read_topics

        read_topics(store, group, modules, partitions, settings, json=json)
    with read_offline(store, settings=settings) as (offline, names):
        if unknown := sorted(set(streams or ()) - set(names)):
            msg = f"there is no log {unknown}; there are {names}"
            raise SettingsError(msg)
        reports = []
        for name in streams or names:
            if json:
                reports.append(offline.seal(name))
            else:
                history = offline.history_of(name)
                with progress(f"sealing {name}", history.unsealed_rows()) as advance:
                    reports.append(offline.seal(name, advance))
    entries = [asdict(report) for report in reports]
    if json:
        print_json({"sealed": entries})
        return
    columns = ("stream", "records", "rows", "voids", "bytes", "sealed_to")
    print_table("", columns, [[entry[name] for name in columns] for entry in entries])


def stream_entry(name: str, history: History) -> dict[str, Any]:
    """What a log holds, counted. Rows are those that count; voids are refused records."""
    counts = history.counts()
    sizes = []
    for _, _, path in history.live.segments():
        with suppress(FileNotFoundError):  # trimmed just now
            sizes.append(path.stat().st_size)
    return {
        "stream": name, "segments": len(sizes), "bytes": sum(sizes), "records": counts.last,
        "rows": counts.sealed_rows + counts.live_rows, "voids": counts.voids,
        "sealed_rows": counts.sealed_rows, "sealed_bytes": counts.sealed_bytes,
    }  # fmt: skip


def _rows(
    history: History, wanted: Filter, versions: list[int] | None, limit: int | None
) -> Iterator[dict[str, Any]]:
    from hofflight.replay.log_rows import entries

    return islice(entries(history, wanted, versions), limit or 20)


def _show(stream: str, rows: Iterator[dict[str, Any]], output: str, *, json: bool) -> None:
    if json:
        print_json({"stream": stream, "rows": list(rows)})
    elif output == "jsonl":
        for row in rows:
            print_json(row)
    else:
        _print_rows(stream, list(rows))


def _write(
    history: History, wanted: Filter, records: list[GroupRecord], out: Path | None, *, answers: bool
) -> None:
    """All rows that pass as Parquet: one schema, so answers are of one version, the newest."""
    import pyarrow.parquet as pq

    from hofflight.eventlog.directory import whole_file
    from hofflight.replay.log_rows import batches
    from hofflight.replay.logged import logged_schema

    if out is None:
        msg = "--as parquet writes a file"
        raise SettingsError(msg, hint="add --out FILE")
    newest = records[-1]
    schema = logged_schema(newest.input, newest.full if answers else None)
    rows = 0
    with whole_file(out) as fresh, pq.ParquetWriter(fresh, schema, compression="zstd") as writer:
        for batch in batches(history, wanted, answers=newest.version if answers else None):
            writer.write_batch(batch)
            rows += batch.num_rows
    note(f"{rows} rows in {out.name}")


def _print_rows(stream: str, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row["row"] or ()))
    print_table(
        stream,
        [*_ABOUT, *columns],
        [[row[n] for n in _ABOUT] + [(row["row"] or {}).get(n) for n in columns] for row in rows],
    )

"""`hof demo`: the whole system on generated and on real events; nothing is left behind."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any, Literal

import typer

from hofflight.cli.options import Json
from hofflight.cli.output import note, print_json, print_table

app = typer.Typer(help="The whole system at work, on events that come with it.")


@app.command()
def cards(
    customers: Annotated[int, typer.Option(min=1, help="How many customers.")] = 500,
    days: Annotated[int, typer.Option(min=1, help="Over how many days.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other transactions.")] = 7,
    json: Json = False,
) -> None:
    """Card transactions, generated: a server, a client, vectors, latencies and parity."""
    from hofflight.cli.cards_demo import run_cards

    result = run_cards(customers=customers, days=days, seed=seed)
    if json:
        print_json(result)
    else:
        _show_cards(result)
    answered = result["errors"] == 0 and result["answers"] == result["events"]
    _require(answered and _is_proven(result, result["answers"]))


@app.command()
def flights(
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first flights.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """The 336,776 flights that left New York in 2013: replayed, and checked by the oracle."""
    from hofflight.cli.flights_demo import run_flights

    result = run_flights(limit=limit)
    if json:
        print_json(result)
    else:
        print_table("", ("what", "value"), [(k, v) for k, v in result.items() if v != []])
    answered = result["errors"] == 0 and result["answered"] == result["events"]
    proven = _is_proven(result, result["answered"])
    _require(answered and proven and result["oracle_mismatches"] == 0)


@app.command()
def spark(
    customers: Annotated[int, typer.Option(min=2, help="How many customers.")] = 100,
    days: Annotated[int, typer.Option(min=1, help="Over how many days.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other transactions.")] = 7,
    mode: Annotated[
        Literal["realtime", "microbatch"], typer.Option(help="As `hof spark` has it.")
    ] = "realtime",
    json: Json = False,
) -> None:
    """Kafka, two servers and Spark in Real-Time Mode: two groups, latencies and parity."""
    from hofflight.cli.spark_demo import run_spark_demo

    # As SIGINT does by itself: what was started ends in good order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    result = run_spark_demo(customers=customers, days=days, seed=seed, mode=mode)
    if json:
        print_json(result)
    else:
        _show_spark(result)
    answered = result["errors"] == 0 and result["answers"] == result["events"]
    _require(answered and _is_proven(result, result["answers"]))


def _show_spark(result: dict[str, Any]) -> None:
    vectors = result["vectors"]
    if vectors:
        columns = ("feature", *(f"customer {v['card_habits.customer']}" for v in vectors))
        rows = [
            (name.removeprefix("card_habits."), *(vector[name] for vector in vectors))
            for name in vectors[0]
        ]
        print_table("The last vectors of card_habits, computed by pandas", columns, rows)
    groups = result["groups"]
    latency = [
        (what, kind, *(f"{us / 1_000:.1f}" for us in group["latency_us"][key].values()))
        for name, group in groups.items()
        for what, kind, key in (
            (name, group["functions"], "vector"),
            ("bare echo, no Kafka", "", "echo"),
        )
    ]
    asked = next(iter(groups.values()))["one_row_requests"]
    print_table(
        f"Milliseconds from request to answer, {asked} rows a group, one by one",
        ("", "functions", "p50", "p90", "p99", "max"),
        latency,
    )
    rates = ", ".join(f"{name} {group['rows_per_s']}" for name, group in groups.items())
    print(
        f"{result['events']} events, {result['answers']} answers, {result['errors']} errors, "
        f"over {result['servers']} servers and {result['partitions']} partitions a group, "
        f"mode {result['mode']}"
    )
    print(f"rows/s in batches: {rates}")
    print(f"ready after {result['ready_seconds']:.1f} s, all of it {result['seconds']:.1f} s")
    for name, group in groups.items():
        print(
            f"parity: {group['parity_rows']} answers of {name} replayed by DuckDB from the logs of "
            f"its partitions, {group['parity_mismatches']} mismatches; "
            f"{group['parity_seconds']:.1f} s"
        )


def _show_cards(result: dict[str, Any]) -> None:
    vectors = result["vectors"]
    if vectors:
        columns = ("feature", *(f"customer {vector['customer']}" for vector in vectors))
        rows = [
            (name.removeprefix("card_tx."), *(v[name] for v in vectors))
            for name in vectors[0]
            if name != "customer"
        ]
        print_table("The last vectors", columns, rows)
    asked = result["one_row_requests"]
    latency = [
        (name, *(f"{us:.0f}" for us in result["latency_us"][key].values()))
        for name, key in (("feature vector", "vector"), ("bare echo", "echo"))
    ]
    print_table(
        f"Microseconds from request to answer, {asked} of one row each",
        ("", "p50", "p90", "p99"),
        latency,
    )
    print(
        f"{result['events']} events, {result['answers']} answers, {result['errors']} errors; "
        f"{result['rows_per_s']} rows/s in batches; {result['seconds']:.1f} s"
    )
    print(
        f"parity: {result['parity_rows']} answers replayed by DuckDB from the log, "
        f"{result['parity_mismatches']} mismatches; {result['parity_seconds']:.1f} s"
    )
    parts = ", ".join(f"{name} {rows}" for name, rows in result["parity_parts"].items())
    print(f"the parts of each answer that were compared: {parts}")


def _is_proven(result: dict[str, Any], answers: int) -> bool:
    return bool(result["parity_rows"] == answers and result["parity_mismatches"] == 0)


def _require(fine: bool) -> None:
    if not fine:
        note("not every event was answered, or replayed, as it should be")
        raise typer.Exit(1)

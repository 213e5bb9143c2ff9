"""`hof demo`: the whole system on generated and on real events; nothing is left behind."""

from __future__ import annotations

from typing import Annotated, Any

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

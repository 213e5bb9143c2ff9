"""`hof dlq ls`, `show` and `replay`: records that workers could not read, and why."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hofflight.cli.letter_text import (
    ascii_text,
    hex_lines,
    place_of,
    readable_header,
    shortened,
    visible,
)  # fmt: skip
from hofflight.cli.options import Json, Kafka, RegistryUrl
from hofflight.cli.output import note, print_json, print_table, progress, time_text
from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from hofflight.eventlog.dead_letters import Choice, Letter, Outcome
    from hofflight.settings import Settings

app = typer.Typer(help="Records that workers could not read, and why.")
_SHOWN_BYTES: Final = 256
_LIMIT_MAX: Final = 1_000_000


@app.command("ls")
def list_letters(
    *,
    kafka: Kafka = None,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only from topics of this group.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what was buried from then on.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_LIMIT_MAX, help="At most so many, the newest.")
    ] = 20,
    json: Json = False,
) -> None:
    """List dead letters, newest last."""
    since_ms = None if since is None else _since_ms(since)
    found, topic = asyncio.run(_newest(_settings(kafka), limit, group, since_ms, json=json))
    entries = [_listed(entry) for entry in found]
    if json:
        print_json({"topic": topic, "letters": entries})
        return
    if not entries:
        note(f"no letters in {topic}")
        return
    columns = ("number", "time", "from", "code", "error", "bytes")
    rows = [
        (e["number"], e["time"], place_of(e), e["code"], shortened(e["error"]), e["bytes"])
        for e in entries
    ]
    print_table(topic, columns, rows)


@app.command("show")
def show_letter(
    number: Annotated[int, typer.Argument(min=0, help="A number that `hof dlq ls` shows.")],
    *,
    kafka: Kafka = None,
    value: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the record's bytes to a new file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a dead letter: why, its headers, and how its bytes begin."""
    letter = asyncio.run(_letter(_settings(kafka), number))
    if value is not None:
        _write_value(value, letter)
    if json:
        print_json(_details(letter))
    else:
        _print_letter(letter)
    if value is not None and letter.value is not None:
        note(f"{len(letter.value)} bytes in {value.name}")


@app.command("replay")
def replay_letters(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[NUMBER]...", help="Which letters.")
    ] = None,
    *,
    code: Annotated[
        str | None, typer.Option(metavar="HOF-NNN", help="Those that were buried with this code.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
    json: Json = False,
) -> None:
    """Put records back to the topics of registered groups that they came from, as they came.

    The letters stay. A record that still is none comes back as a new one. Exit 1 if a letter could
    not be put back.
    """
    from hofflight.eventlog.dead_letters import Choice
    from hofflight.settings import with_registry

    if (bool(numbers) + (code is not None) + everything) != 1:
        msg = "replay takes NUMBER..., --code HOF-NNN, or --all"
        raise SettingsError(msg)
    settings = with_registry(_settings(kafka), registry)
    choice = Choice(tuple(numbers or ()), code)
    outcomes = asyncio.run(_put_back(settings, choice, dry_run=dry_run, json=json))
    _print_outcomes(outcomes, dry_run=dry_run, json=json)
    if any(outcome.refused for outcome in outcomes):
        raise typer.Exit(1)


# --- what is asked of the topic -------------------------------------------------------------------


async def _newest(
    settings: Settings, limit: int, group: str | None, since_ms: int | None, *, json: bool
) -> tuple[list[dict[str, Any]], str]:
    from hofflight.assemble_kafka import open_letters

    async with open_letters(settings) as letters:
        if json or (group is None and since_ms is None):
            found = await letters.newest(limit, group, since_ms, _silent)
        else:
            with progress("reading", letters.count()) as advance:
                found = await letters.newest(limit, group, since_ms, advance)
        return found, letters.topic


async def _letter(settings: Settings, number: int) -> Letter:
    from hofflight.assemble_kafka import open_letters

    async with open_letters(settings) as letters:
        return await letters.letter(number)


async def _put_back(
    settings: Settings, choice: Choice, *, dry_run: bool, json: bool
) -> list[Outcome]:
    from hofflight.assemble_kafka import open_letters, open_way_back

    async with open_way_back(settings, dry_run=dry_run) as way, open_letters(settings) as letters:
        if json:
            return await letters.put_back(choice, way, _silent)
        with progress("replaying", len(choice.numbers) or letters.count()) as advance:
            return await letters.put_back(choice, way, advance)


def _silent(_: int) -> None:
    pass


def _settings(kafka: str | None) -> Settings:
    from hofflight.settings import load_settings, with_kafka

    return with_kafka(load_settings(), kafka)


def _since_ms(text: str) -> int:
    from hofflight.replay.span import moment_us

    return moment_us(text, "--since") // 1_000


# --- what is printed ------------------------------------------------------------------------------


def _listed(entry: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in entry.items() if name not in ("number", "time_ms")}
    return {"number": entry["number"], "time": _time(entry["time_ms"]), **rest}


def _details(letter: Letter) -> dict[str, Any]:
    from hofflight.eventlog.dead_letters import summary

    begin = None if letter.value is None else letter.value[:_SHOWN_BYTES]
    return {
        **_listed(summary(letter)),
        "sent": _time(letter.burial.timestamp_ms) if letter.burial else None,
        "headers": [readable_header(name, value) for name, value in letter.headers],
        "value_begins": begin,
        "value_text": None if begin is None else ascii_text(begin),
    }


def _time(time_ms: int | None) -> str | None:
    """A record's own timestamp, which may be anything, of a stranger."""
    if time_ms is None or time_ms < 0:
        return None
    with suppress(ValueError, OverflowError):  # a year that there is not
        return time_text(time_ms * 1_000)
    return None


def _print_letter(letter: Letter) -> None:
    shown = _details(letter)
    about = ("time", "sent", "code", "error", "bytes")
    rows = [("from", place_of(shown)), *((name, shown[name]) for name in about)]
    title = f"letter {letter.number}"
    print_table(title, ("what", "value"), [(n, v and visible(str(v))) for n, v in rows])
    headers = [
        (visible(h["name"]), shortened(h.get("text", h.get("hex")))) for h in shown["headers"]
    ]
    print_table("its headers", ("name", "value"), headers)
    for line in hex_lines((letter.value or b"")[:_SHOWN_BYTES]):
        print(line)


def _write_value(path: Path, letter: Letter) -> None:
    """The record's bytes in a file that was not there.

    Raises: SettingsError (HOF-601).
    """
    if letter.value is None:
        msg = f"letter {letter.number} has no value"
        raise SettingsError(msg)
    try:
        with path.open("xb") as file:
            file.write(letter.value)
    except FileExistsError as error:
        msg = f"--value {path.name!r} is there already"
        raise SettingsError(msg, hint="name a new file") from error
    except OSError as error:
        msg = f"--value {path.name!r} cannot be written: {error.strerror}"
        raise SettingsError(msg) from error


def _print_outcomes(outcomes: list[Outcome], *, dry_run: bool, json: bool) -> None:
    if json:
        entries = [outcome._asdict() for outcome in outcomes]
        print_json({"dry_run": dry_run, "letters": entries})
        return
    done = "would be put back" if dry_run else "put back"
    rows = [
        (o.number, place_of(o._asdict()), visible(f"not put back: {o.refused}") if o.refused
         else done)
        for o in outcomes
    ]  # fmt: skip
    if rows:
        print_table("", ("number", "to", "what"), rows)
    count = sum(not outcome.refused for outcome in outcomes)
    note(f"{count} of {len(outcomes)} {done}")

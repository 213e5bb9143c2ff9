"""`hof`: the commands, and what an error looks like to whoever typed one."""

from __future__ import annotations

import os
import sys

import typer

from hofflight.cli import (
    dead_letters,
    demo,
    doctor,
    health,
    inspection,
    log_reading,
    offline,
    registration,
    serving,
    sparking,
    stored,
    working,
)
from hofflight.errors import DefinitionError, HofError, SettingsError
from hofflight.observe.events import configure_events

app = typer.Typer(
    name="hof",
    help="One raw event in, its whole feature vector out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    registration.plan, registration.register, serving.serve, working.worker, sparking.spark,
    stored.materialize, offline.train, stored.model, offline.label, offline.verify,
    offline.backfill,
    inspection.describe, inspection.history, doctor.doctor, health.health,
):  # fmt: skip
    app.command()(command)
app.add_typer(log_reading.app, name="log")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(demo.app, name="demo")


@app.callback()
def hof() -> None:
    """One raw event in, its whole feature vector out."""


def main() -> None:
    """Run a command.

    Exit: 0; 1 it failed; 2 the command line, a setting or a definition is wrong.
    """
    configure_events()
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python's own flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("HOF_DEBUG") == "1":
            raise
        sys.exit(report(error))


def report(error: Exception) -> int:
    """Print an error for whoever typed the command; gives the exit code."""
    if isinstance(error, HofError):
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SettingsError | DefinitionError) else 1
    print(f"{type(error).__name__}: {error} Hint: HOF_DEBUG=1 shows where", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()

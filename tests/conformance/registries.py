"""Every database that may hold a registry, and processes that use one at the same moment.

Run as a program, it is one of those processes: see `main`.
"""

import json
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pyarrow as pa

import hofflight as hof
from hofflight.assemble_registry import open_registry
from hofflight.errors import HofError
from hofflight.features.view import Feature, View

REPO = Path(__file__).parents[2]


class TurnedClock:
    """It goes on when it is told to."""

    now_us = 1_700_000_000_000_000

    def wall_us(self):
        return self.now_us


class SqlitePlace:
    """A file that is still to be made."""

    def __init__(self, directory):
        self.url = f"sqlite:///{directory}/registry.sqlite"
        self._clock = TurnedClock()
        self._stack = ExitStack()

    def open(self, *, read_only=False):
        settings = hof.load_settings(registry={"url": self.url})
        opened = open_registry(settings, read_only=read_only, clock=self._clock)
        return self._stack.enter_context(closing(opened))

    def pass_time(self, duration_us):
        self._clock.now_us += duration_us

    def close(self):
        self._stack.close()


class PostgresPlace(SqlitePlace):
    """An empty database of a server whose clock nobody turns: leases grow old instead."""

    def __init__(self, server):
        super().__init__(".")
        self._server = server
        self.url = server.new_database()

    def pass_time(self, duration_us):
        statement = f"UPDATE hofflight.leases SET expires_us = expires_us - {duration_us}"
        self._server.ask(statement, self.url.rpartition("/")[2])


def make_group(version=1, *, name="card_tx", minutes=10, extra=None):
    return hof.feature_group(
        name, version=version, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, **(extra or {})},
        windows={"n": hof.count().over(f"{minutes}m")},
    )  # fmt: skip


def save(registry, group):
    return registry.save_group(group, module="shop.features", created_us=7)


def make_view(*names, version=1):
    return View("fraud", version, tuple(Feature("card_tx", 1, name) for name in names))


def together(url, verb, number):
    """What so many processes say that open a registry and then do one thing at one moment."""
    program = [sys.executable, "-m", __name__, url, verb]
    started = [
        subprocess.Popen(
            [*program, str(n)], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(number)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    return said


def same(registry, number):
    return save(registry, make_group()).code_hash


def different(registry, number):
    return save(registry, make_group(minutes=number + 1)).code_hash


def next_version(registry, number):
    """Each its own version and input schema."""
    extra = {f"x{number}": pa.int64()}
    return save(registry, make_group(number + 1, extra=extra)).schema_number


def lease(registry, number):
    topics = ["reply-0", "reply-1", "reply-2"]
    return registry.leases().acquire(topics, f"server-{number}", number, 600_000_000)


def main(url, verb, number):
    """Open the registry, or wait to do so, say ready, and do one thing when told to."""
    settings = hof.load_settings(registry={"url": url})
    registry = None if verb.startswith("open_") else open_registry(settings)
    print("ready", flush=True)
    sys.stdin.readline()
    registry = registry or open_registry(settings)
    try:
        print(json.dumps(globals()[verb.removeprefix("open_")](registry, int(number))))
    except HofError as error:
        print(json.dumps(error.code))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A store in a directory of the test's own, opened and opened again as often as a test likes."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import hofflight as hof
from hofflight.app import App

S = 1_000_000
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.int64()}


def make_group(name="g", version=1, **changes):
    """Counts and sums of a card's last hour, unless told otherwise."""
    fields = {
        "key": "card", "event_time": "ts", "input": INPUT,
        "windows": {"n": hof.count().over("1h"), "total": hof.sum("x").over("1h")},
        "derive": {"more": hof.col("n") + 1},
        **changes,
    }  # fmt: skip
    return hof.feature_group(name, version=version, **fields)


def copy_sparse(source, target):
    """Copy a file; the room that a log keeps free at its end stays a hole."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data.rstrip(b"\0"))
    os.truncate(target, len(data))


class Stores:
    """Opens the test's store; `crashed` opens what a kill at this moment would have left."""

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "store"
        self.opened: list[App] = []
        self._copies = 0

    def open(self, *groups, path=None, clock=None, log=None, **engine):
        settings = hof.load_settings(engine=engine, log=log or {})
        app = hof.open(path or self.path, settings=settings, clock=clock)
        self.opened.append(app)
        for group in groups:
            app.register(group)
        return app

    def crashed(self, *groups, path=None, **settings):
        self._copies += 1
        copy = self.directory / f"crashed{self._copies}"
        shutil.copytree(path or self.path, copy, copy_function=copy_sparse)
        return self.open(*groups, path=copy, **settings)


@pytest.fixture
def stores(tmp_path):
    stores = Stores(tmp_path)
    yield stores
    for app in stores.opened:
        app.close()


@pytest.fixture
def group():
    return make_group


def row(card, second, x=1):
    return {"card": card, "ts": second * S, "x": x}


def logged(app, stream="g.1"):
    """Metadata of every entry in the log of a running store."""
    log = app.engine._works[stream].partition.log
    return [entry.meta for _, entry in log.read()]


@pytest.fixture
def event():
    return row


@pytest.fixture
def log_of():
    return logged

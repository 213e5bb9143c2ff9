"""Joined views: what was served is what is trained, as of arrival and as of the event.

Loads, requests, seals and the clock come in any order; event times and ttl fall on either side of
every moment, and on it.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import hofflight as hof
from hofflight.wire.columns import to_python

STORES = {"fast": 10, "ci": 20, "soak": 600}[os.environ.get("HYPOTHESIS_PROFILE", "ci")]
S = 1_000_000
START = 1_780_000_000
SETTINGS = {
    "log": {"seal_bytes": 0, "seal_age_s": 0},
    "replay": {"threads": 1},
    "online": {"map_bytes": 1 << 26},
}
CARDS, SHOPS, TERMINALS = [1, 2], ["", "a"], [5, 6]
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64(), "terminal": pa.int64()}
STREAMING = {
    "tx": hof.feature_group(
        "tx", version=1, key="card", event_time="ts", late="4s", input=INPUT,
        windows={"n": hof.count().over("5s"), "last": hof.last("amount").over("5s")},
    ),
    "term": hof.feature_group(
        "term", version=1, key="terminal", event_time="ts", late="1h",
        input={name: INPUT[name] for name in ("terminal", "ts")},
        windows={"n": hof.count().over("5s")},
    ),
}  # fmt: skip
# Its key is in the rows; the other one's comes beside them.
KEYS = {"a": "card", "b": "shop"}
KEY_TYPES = {"a": pa.int64(), "b": pa.string()}


def stored_group(name, ttl):
    schema = {KEYS[name]: KEY_TYPES[name], "at": hof.TIMESTAMP, "x": pa.float64()}
    return hof.stored_group(
        name, version=1, key=KEYS[name], event_time="at", schema=schema, ttl=ttl
    )


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.now_us = START * S

    def wall_us(self):
        return self.now_us

    def monotonic_s(self):
        return self.now_us / 1e6


# --- the oracle -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A row that was loaded, by which load, and when that was committed; times in us."""

    key: object
    at: int
    load: int
    committed: int
    x: float | None


@dataclass(frozen=True)
class Asked:
    """A row that came: what of it matters here. served: under the view, its vector."""

    ts: int
    arrival: int
    card: int
    shop: str | None
    loads: dict[str, int]
    served: dict | None


@dataclass
class Oracle:
    """Everything that happened, searched from end to end."""

    ttl_us: dict[str, int | None]
    known: dict[str, list[Known]] = field(default_factory=lambda: {"a": [], "b": []})
    loads: dict[str, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    rows: dict[tuple[bytes, int], Asked] = field(default_factory=dict)

    def load(self, group, rows, committed, *, incremental):
        newest = max((one.at for one in self.known[group]), default=None)
        single = {}
        for row in rows:
            if not incremental or newest is None or row["at"] > newest:
                single[row[KEYS[group]], row["at"]] = row["x"]
        if single:
            self.loads[group] += 1
        for (key, at), x in single.items():
            self.known[group].append(Known(key, at, self.loads[group], committed, x))

    def newest(self, group, key, moment, allowed):
        """`at` and `x` of the newest allowed row of a key, null where it is too old."""
        found = [one for one in self.known[group] if one.key == key and allowed(one)]
        best = max(found, key=lambda one: (one.at, one.load), default=None)
        ttl_us = self.ttl_us[group]
        if best is None or (ttl_us is not None and moment - best.at >= ttl_us):
            return None, None
        return best.at, best.x

    def as_of(self, how, group, row):
        """What a training row has of a stored group."""
        key = row.card if group == "a" else row.shop
        if key is None:  # nobody said which
            return None, None
        if how == "event":
            return self.newest(group, key, row.ts, lambda one: one.at <= row.ts)
        if row.served is not None:  # whatever the clock says: those that were there
            known = row.loads[group]
            return self.newest(group, key, row.arrival, lambda one: one.load <= known)
        return self.newest(group, key, row.arrival, lambda one: one.committed <= row.arrival)


# --- what happens ---------------------------------------------------------------------------------

SECONDS = st.integers(-6, 12)
ROWS = st.lists(
    st.tuples(SECONDS, st.sampled_from(CARDS), st.sampled_from(TERMINALS)), min_size=1, max_size=3
)
VALUES = st.sampled_from([0.0, 0.0, 0.0, None])
LOADED = st.lists(st.tuples(st.integers(0, 1), SECONDS, VALUES), min_size=1, max_size=4)
SHOP = st.sampled_from([*SHOPS, "nowhere"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.sampled_from("ab"), LOADED, st.booleans()),
        st.tuples(st.just("ask"), st.just("view"), ROWS, st.lists(SHOP, min_size=3, max_size=3)),
        st.tuples(
            st.just("ask"), st.sampled_from(["view", "other", "tx"]), ROWS,
            st.lists(SHOP, min_size=3, max_size=3),
        ),
        st.tuples(st.just("ingest"), ROWS),
        st.tuples(st.just("tick"), st.sampled_from([1, S - 1, S, S, 3 * S])),
        st.tuples(st.just("seal")),
    ),
    min_size=6, max_size=20,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Which groups the view has, how long their rows are good for, and what happens."""

    streaming: tuple[str, ...]
    stored: tuple[str, ...]
    ttl: dict[str, str | None]
    on_missing: str
    steps: list


TTL = st.sampled_from([None, "1s", "4s"])
CASES = st.builds(
    Case,
    st.sampled_from([("tx",), ("tx",), ("tx", "term"), ("term", "tx")]),
    st.sampled_from([("a",), ("a", "b"), ("b", "a")]),
    st.fixed_dictionaries({"a": TTL, "b": TTL}),
    st.sampled_from(["mark", "mark", "fail"]),
    STEPS,
)


class World:
    """A store in which the steps happen, beside the oracle that is told of each."""

    def __init__(self, app, clock, case):
        self.app, self.clock, self.case = app, clock, case
        self.oracle = Oracle({name: _ttl_us(ttl) for name, ttl in case.ttl.items()})
        self.number = 0
        self.answered = dict.fromkeys(case.streaming, 0)
        self.compared = self.away = self.unserved = 0
        for name in case.streaming:
            app.register(STREAMING[name])
        for name in ("a", "b"):
            app.register(stored_group(name, case.ttl[name]))
        columns = [f"{name}.n" for name in case.streaming]
        columns += ["tx.last", *(f"{name}.{c}" for name in case.stored for c in ("x", "at"))]
        app.view("view", 1, columns, on_missing=case.on_missing)
        app.view("other", 1, [f"{name}.n" for name in case.streaming] + ["b.x"])

    def step(self, what, *arguments):
        getattr(self, what)(*arguments)

    def tick(self, by_us):
        self.clock.now_us += by_us

    def seal(self):
        self.app.seal()

    def load(self, group, rows, incremental):
        keys = CARDS if group == "a" else SHOPS
        made = []
        for key, seconds, x in rows:
            self.number += 1  # no two values are equal: a wrong row is seen
            value = None if x is None else float(self.number)
            made.append({KEYS[group]: keys[key], "at": (START + seconds) * S, "x": value})
        self.app.materialize(group, made, "incremental" if incremental else "full")
        self.oracle.load(group, made, self.clock.now_us, incremental=incremental)

    def ask(self, view, rows, shops):
        made, id_ = self._rows(rows), self._id()
        shops = shops[: len(rows)]
        has_b = view == "other" or (view == "view" and "b" in self.case.stored)
        keys = {"shop": shops} if has_b else None
        served, states = [None] * len(rows), []
        is_view = view == "view"
        try:
            vector = self.app.vector(view, made, keys=keys, request_id=id_)
        except (hof.errors.StoredMissing, hof.errors.StoredUnavailable):
            assert is_view
            assert self.case.on_missing == "fail"
        else:
            if is_view:
                served = plain_rows(vector.batch.schema.names, vector.batch.columns)
                self.compared += len(rows)
                states = [vector.status[f"{name}.x"] for name in self.case.stored]
        for state in states:
            each = state if isinstance(state, list) else [state] * len(rows)
            self.away += each.count("UNAVAILABLE")
        for name in self.case.streaming if view in ("view", "other") else ["tx"]:
            self.answered[name] += len(rows)
        # Only a request to all of them is a row of a view of several.
        if len(self.case.streaming) == 1 or view != "tx":
            self._came(id_, made, served, shops if is_view else [None] * len(rows))

    def ingest(self, rows):
        made, id_ = self._rows(rows), self._id()
        self.app.ingest("tx", made, request_id=id_)
        self.unserved += len(rows)
        if len(self.case.streaming) == 1:
            self._came(id_, made, [None] * len(rows), [None] * len(rows))

    def _came(self, id_, made, served, shops):
        for place, row in enumerate(made):
            self.oracle.rows[id_, place] = Asked(
                row["ts"], self.clock.now_us, row["card"],
                shops[place] if served[place] is not None else None,
                dict(self.oracle.loads), served[place],
            )  # fmt: skip

    def _id(self):
        self.number += 1
        return self.number.to_bytes(16, "big")

    def _rows(self, rows):
        names = STREAMING["tx"].input.names
        made = []
        for seconds, card, terminal in rows:
            self.number += 1
            values = (card, (START + seconds) * S, float(self.number), terminal)
            made.append(dict(zip(names, values, strict=True)))
        return made


def _ttl_us(ttl):
    return None if ttl is None else int(ttl[:-1]) * S


def plain_rows(names, columns):
    """Rows as dicts of plain values."""
    values = zip(*map(to_python, columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def trained(app, as_of, engine):
    """Rows of the training table by (request id, row), as plain values."""
    table = app.training_data("view", as_of=as_of, engine=engine, ids=True).combine_chunks()
    columns = [column.combine_chunks() for column in table.columns]
    rows = plain_rows(table.column_names, columns)
    found = {(row.pop("request_id"), row.pop("row")): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.timeout(600)
@settings(max_examples=STORES)
@given(CASES)
def test_joined_rows_are_trained_as_they_were_served(case):
    """As of arrival what was served; as of the event no future; by either engine; and parity."""
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        hof.open(
            Path(folder) / "store", settings=hof.load_settings(**SETTINGS), clock=clock
        ) as app,
    ):
        world = World(app, clock, case)
        for step in case.steps:
            world.step(*step)
        oracle = world.oracle
        event(f"{len(case.streaming)} streaming, {world.compared > 0}, away {world.away > 0}")

        for as_of in ("arrival", "event"):
            for engine in ("duckdb", "kernel"):
                rows = trained(app, as_of, engine)
                assert rows.keys() == oracle.rows.keys()
                for place, row in rows.items():
                    check(oracle, case, as_of, place, row)

        parity = app.verify("view")
        assert parity.mismatches == 0, parity.worst
        parts = {**world.answered, **dict.fromkeys(case.stored, world.compared)}
        assert parity.parts == {name: count for name, count in parts.items() if count}
        assert parity.rows == next(iter(parity.parts.values()), 0)
        assert (parity.unavailable, parity.unserved) == (world.away, world.unserved)


def check(oracle, case, as_of, place, row):
    """One training row against what was served, and against the oracle."""
    asked = oracle.rows[place]
    for group in case.stored:
        expected = oracle.as_of(as_of, group, asked)
        found = row[f"{group}.at"], row[f"{group}.x"]
        assert found == expected, (as_of, group, place, asked)
        assert as_of == "arrival" or found[0] is None or found[0] <= asked.ts
        if asked.served is not None and as_of == "arrival":
            assert found == (asked.served[f"{group}.at"], asked.served[f"{group}.x"])
    if asked.served is not None and as_of == "arrival":
        for name in row.keys() - {"late"}:
            assert row[name] == asked.served[name], (name, place)


# --- loads and the clock --------------------------------------------------------------------------


def loads_at(folder, *seconds):
    """A view of an event at second 50 that never asked for it; each load came at its second."""
    clock = Clock()
    opened = hof.open(folder / "store", settings=hof.load_settings(**SETTINGS), clock=clock)
    with opened as app:
        app.register(STREAMING["tx"])
        app.register(stored_group("a", None))
        app.view("view", 1, ["tx.n", "a.x"])
        for load, second in enumerate(seconds, start=1):
            clock.now_us = (START + second) * S
            app.materialize("a", [{"card": 1, "at": START * S, "x": float(load)}])
        clock.now_us = (START + 50) * S
        app.ingest("tx", [{"card": 1, "ts": START * S, "amount": 0.0, "terminal": 1}])
        return app.training_data("view")["a.x"].to_pylist()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_loads_in_one_microsecond_the_last_was_known(tmp_path, count):
    """A clock that stands still, or is coarse: loads have an order of their own."""
    assert loads_at(tmp_path, *[10] * count) == [float(count)]


def test_of_loads_committed_while_the_clock_was_set_back_the_last_was_known(tmp_path):
    """All of them were there when the event came, whatever the clock said at each."""
    assert loads_at(tmp_path, 30, 20) == [2.0]
    assert loads_at(tmp_path / "more", 10, 40, 20, 30) == [4.0]


# --- keys of several columns ----------------------------------------------------------------------


@pytest.mark.parametrize("as_of", ["arrival", "event"])
def test_a_key_of_columns_of_two_streaming_groups_is_in_the_rows_too(tmp_path, as_of):
    """A row that was asked under another view of both groups has the whole key."""
    pair = hof.stored_group(
        "pair", version=1, key=("card", "terminal"), event_time="at",
        schema={"card": pa.int64(), "terminal": pa.int64(), "at": hof.TIMESTAMP, "x": pa.float64()},
    )  # fmt: skip
    card = hof.feature_group(
        "by_card", version=1, key="card", event_time="ts",
        input={name: INPUT[name] for name in ("card", "ts")}, windows={"n": hof.count().over("5s")},
    )  # fmt: skip
    clock = Clock()
    opened = hof.open(tmp_path / "store", settings=hof.load_settings(**SETTINGS), clock=clock)
    with opened as app:
        for group in (card, STREAMING["term"], pair):
            app.register(group)
        app.view("view", 1, ["by_card.n", "term.n", "pair.x"])
        app.view("other", 1, ["by_card.n", "term.n"])
        app.materialize("pair", [{"card": 1, "terminal": 5, "at": START * S, "x": 7.0}])
        clock.now_us += S
        row = {"card": 1, "terminal": 5, "ts": START * S}
        app.vector("view", row)
        app.vector("other", row)

        assert app.training_data("view", as_of=as_of)["pair.x"].to_pylist() == [7.0, 7.0]

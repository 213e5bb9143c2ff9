"""Parity of stored features: each thing that can be wrong is found, and nothing that is right."""

import shutil
from contextlib import ExitStack

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.assemble import read_offline
from hofflight.errors import BadRange
from hofflight.eventlog.joins import decode_joins, encode_joins
from hofflight.eventlog.local import LocalLog, LogReader, SyncThread
from hofflight.eventlog.protocol import Entry
from hofflight.online.packed import Packing
from hofflight.online.slots import key_prefix
from hofflight.wire.ipc import encode_batch, join_message
from hofflight.wire.keys import KeyCodec

S = 1_000_000
START = 1_780_000_000 * S
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "terminal": pa.int64()}
TX = hof.feature_group(
    "tx", version=1, key="card", event_time="ts", late="1h", input=INPUT,
    windows={"n": hof.count().over("1h")},
)  # fmt: skip
TERM = hof.feature_group(
    "term", version=1, key="terminal", event_time="ts", late="1h",
    input={name: INPUT[name] for name in ("terminal", "ts")},
    windows={"n": hof.count().over("1h")},
)  # fmt: skip
CUSTOMER = hof.stored_group(
    "customer", version=1, key="card", event_time="at",
    schema={"card": pa.int64(), "at": hof.TIMESTAMP, "x": pa.float64(), "name": pa.string()},
)  # fmt: skip
SHOP = hof.stored_group(
    "shop", version=1, key="shop", event_time="at", ttl="365d",
    schema={"shop": pa.string(), "at": hof.TIMESTAMP, "y": pa.int32()},
)  # fmt: skip
STORED = ["customer.x", "shop.y", "customer.name"]
# Where the join records are: in the only streaming group's log, or in one of the view's own.
VIEWS = {"beside": ["tx.n", *STORED], "alone": ["tx.n", "term.n", *STORED]}
STREAMS = {"beside": "tx.1", "alone": "v@1"}
SETTINGS = {
    "log": {"seal_bytes": 0, "seal_age_s": 0}, "online": {"map_bytes": 1 << 26},
    "replay": {"threads": 1},
}  # fmt: skip
# Each look at the clock is ten seconds later: a load is seen long before the next request.
LATER = START + 10**6 * S


def customer(card, seconds, x, name="n"):
    return {"card": card, "at": START + seconds * S, "x": x, "name": name}


def shop(name, seconds, y):
    return {"shop": name, "at": START + seconds * S, "y": y}


def id_of(number):
    return number.to_bytes(16, "big")


class Place:
    """A store, open while it is filled; then read, and spoiled."""

    def __init__(self, path, kind, clock, stack):
        self.path, self.kind, self.clock, self._stack = path, kind, clock, stack
        self._app = None

    @property
    def app(self):
        """The store, opened by the first who needs it."""
        if self._app is None:
            settings = hof.load_settings(**SETTINGS)
            self._app = hof.open(self.path, settings=settings, clock=self.clock)
            self._stack.callback(self._app.close)
            for group in [TX, TERM, CUSTOMER, SHOP]:
                if group is not TERM or self.kind == "alone":
                    self._app.register(group)
            self._app.view("v", 1, VIEWS[self.kind])
            self._app.view("w", 1, ["tx.n", "shop.y"])
        return self._app

    def close(self):
        """No writer is at work from here on."""
        if self._app is not None:
            self._app.close()
            self._app = None

    def ask(self, number, *cards, view="v"):
        """A row of each card, in one request; shops are `a` and `b` by turns."""
        rows = [
            {"card": card, "ts": START + (number * 10 + place) * S, "terminal": card % 2}
            for place, card in enumerate(cards)
        ]
        keys = {"shop": ["ab"[card % 2] for card in cards]}
        return self.app.vector(view, rows, keys=keys, request_id=id_of(number))

    def verified(self, *, view="v", **options):
        """Parity, read beside no server."""
        self.close()
        reading = read_offline(self.path, [TX, TERM], hof.load_settings(**SETTINGS))
        offline, _ = self._stack.enter_context(reading)
        return offline.verify(view, **options)

    # --- what goes wrong ---

    def rewrite(self, stream, change):
        """A log once more, each entry as `change` gives it."""
        self.close()
        directory = self.path / "log" / stream
        entries = [entry for _, entry in LogReader(directory).read()]
        shutil.rmtree(directory)
        settings = hof.load_settings().log
        sync = SyncThread(settings)
        log = LocalLog(directory, sync, settings)
        log.append([change(entry) for entry in entries])
        sync.stop()
        log.close()

    def change_record(self, number, change, row=0):
        """Another join record for a row of a request."""
        changed = []

        def one(record, place):
            if place != row:
                return record
            changed.append(change(record))
            return changed[-1]

        def entry(old):
            if old.meta.id != id_of(number):
                return old
            if self.kind == "beside":
                joined = [one(record, place) for place, record in enumerate(old.meta.joined)]
                return old._replace(meta=msgspec.structs.replace(old.meta, joined=joined))
            records = decode_joins(old.head, old.body)
            head, body = encode_joins([one(*pair[::-1]) for pair in enumerate(records)])
            return old._replace(head=head, body=body)

        self.rewrite(STREAMS[self.kind], entry)
        assert len(changed) == 1

    def history(self, name):
        offline, _ = self._stack.enter_context(read_offline(self.path, [TX, TERM]))
        return offline.stored_history(offline.stored_group(name))

    def change_manifest(self, name, change):
        """`change` is given the loads by their numbers."""
        history = self.history(name)
        manifest = history.manifest()
        loads = change({load.load: load for load in manifest.loads}, history)
        history.publish(msgspec.structs.replace(manifest, loads=tuple(loads)))


@pytest.fixture
def make(tmp_path, clock):
    """Makes a store of two stored groups and one or two streaming ones; nothing is loaded yet."""
    with ExitStack() as stack:
        yield lambda kind: Place(tmp_path / "store", kind, clock(LATER, step_us=10 * S), stack)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Five requests; before the last two a load that corrects card 1 and has a newer card 2."""
    paths = {}

    def filled(kind, clock):
        if kind not in paths:
            paths[kind] = tmp_path_factory.mktemp(kind) / "store"
            with ExitStack() as stack:
                fill(Place(paths[kind], kind, clock, stack))
        return paths[kind]

    return filled


def fill(place):
    first = [customer(card, 100, card + 0.5) for card in range(1, 5)]
    place.app.materialize("customer", [*first, customer(3, 150, 3.75, "old"), customer(9, 1, 0.0)])
    place.app.materialize("shop", [shop("a", 100, 1), shop("b", 100, None)])
    place.ask(1, 1)
    place.clock.now_us += 1_000 * S
    place.ask(2, 2, 1, 7)
    place.ask(3, 3)
    place.app.materialize("customer", [customer(1, 100, 10.5), customer(2, 200, 20.5, "neu")])
    place.ask(4, 1)
    place.ask(5, 2, 3)


@pytest.fixture(params=VIEWS)
def place(make, filled, clock, request):
    """A filled store, of the test's own."""
    place = make(request.param)
    shutil.copytree(filled(request.param, clock(LATER, step_us=10 * S)), place.path)
    place.clock.now_us += 10_000 * S
    return place


ROWS = 8


def load_and_x(record):
    """Which load brought the customer that was found, and its x."""
    row = Packing(CUSTOMER.packed_schema).unpack(record.rows[0])
    return row.load, row.values[1]


# --- nothing is wrong ---


def test_a_healthy_store_has_no_mismatch(place):
    """Corrections, missing rows, nulls; live, and sealed in part."""
    live = place.app.verify("v")
    place.app.seal()
    place.ask(6, 4, 4)
    both = place.verified()

    assert (live.rows, live.mismatches, live.unserved, live.unavailable) == (ROWS, 0, 0, 0)
    parts = {"tx": ROWS, "customer": ROWS, "shop": ROWS}
    parts |= {"term": ROWS} if place.kind == "alone" else {}
    assert live.parts == parts
    assert both.parts == {name: count + 2 for name, count in parts.items()}
    assert (both.mismatches, both.by_feature, both.worst) == (0, {}, [])


def test_rows_of_another_view_are_no_rows_of_this_one(make):
    """Though they are answers of its streaming group."""
    place = make("beside")
    place.app.materialize("shop", [shop("a", 1, 1)])
    place.app.materialize("customer", [customer(1, 1, 1.0)])
    place.ask(1, 1)
    place.ask(2, 1, 2, view="w")
    parity, other = place.verified(), place.verified(view="w")

    assert parity.parts == {"tx": 3, "customer": 1, "shop": 1}
    assert other.parts == {"tx": 3, "shop": 2}
    assert parity.mismatches == other.mismatches == 0


def test_a_record_that_is_added_as_it_should_be_is_no_mismatch(place):
    """So what the tests below find is what they changed."""
    seen = []

    def same(record):
        seen.append(load_and_x(record))
        return msgspec.structs.replace(record)

    place.change_record(4, same)
    assert seen == [(2, 10.5)]
    assert place.verified().mismatches == 0


def test_lookups_without_an_answer_are_counted_and_are_no_mismatch(make):
    """Before the first load nothing is known of; a group's own loads count."""
    place = make("beside")
    place.ask(1, 1, 2)
    place.app.materialize("customer", [customer(1, 1, 1.0)])
    place.ask(2, 1)
    place.app.materialize("shop", [shop("a", 1, 1), shop("b", 1, 1)])
    place.ask(3, 1, 2, 3)
    parity = place.verified()

    # 2 rows of both groups, 1 of the shop alone.
    assert (parity.unavailable, parity.mismatches) == (5, 0)
    assert parity.parts == {"tx": 6, "customer": 6, "shop": 6}


# --- a record is wrong ---


def older_row(place):
    """The row of card 1 as load 1 brought it: it is recorded for request 1."""
    found = []

    def look(record):
        found.append(record.rows[0])
        return record

    place.change_record(1, look)
    return found[0]


def assert_one_wrong(parity, number, row, *features):
    """Just that row is wrong, and it is named, with what was wrong in it."""
    assert parity.mismatches == 1
    assert parity.by_feature == dict.fromkeys(features, 1)
    assert {(d.request_id, d.row) for d in parity.worst} == {(id_of(number).hex(), row)}
    with pytest.raises(AssertionError, match=r"HOF-700.*1 of 8 rows of v differ"):
        parity.assert_equal()


def test_an_older_row_than_the_newest_known_is_found(place):
    """The store gave what a later load had replaced."""
    older = older_row(place)
    place.change_record(4, lambda r: msgspec.structs.replace(r, rows=[older, r.rows[1]]))
    parity = place.verified()

    assert_one_wrong(parity, 4, 0, "customer.*", "customer.x")
    shown = {d.feature: (d.served, d.replayed) for d in parity.worst}
    assert shown == {"customer.x": (1.5, 10.5), "customer.*": (1, 2)}


def test_loads_that_a_lookup_should_have_seen_are_missed(place):
    """The record agrees with itself, but the second load was there for all to see."""
    older = older_row(place)
    stale = {"rows": [older], "as_of": [1]}

    def change(record):
        rows, as_of = stale["rows"] + record.rows[1:], stale["as_of"] + record.as_of[1:]
        return msgspec.structs.replace(record, rows=rows, as_of=as_of)

    place.change_record(4, change)

    assert_one_wrong(place.verified(), 4, 0, "customer.*")


@pytest.mark.parametrize("as_of", [0, 3, 99, 2**62])
def test_a_load_that_there_is_not_cannot_have_been_known(place, as_of):
    """Also where the row itself is right."""
    place.change_record(5, lambda r: msgspec.structs.replace(r, as_of=[as_of, r.as_of[1]]), row=1)
    parity = place.verified()

    assert parity.mismatches == 1
    assert "customer.*" in parity.by_feature
    assert (parity.worst[0].request_id, parity.worst[0].row) == (id_of(5).hex(), 1)


def test_a_row_that_was_not_found_though_it_was_there_is_found(place):
    """And one that was found though it is of nobody."""
    place.change_record(2, lambda r: msgspec.structs.replace(r, rows=[None, r.rows[1]]), row=1)
    older = older_row(place)
    place.change_record(2, lambda r: msgspec.structs.replace(r, rows=[older, r.rows[1]]), row=2)
    parity = place.verified()

    assert parity.mismatches == 2
    assert parity.by_feature == {"customer.*": 2, "customer.x": 2, "customer.name": 2,
                                 "customer.card": 2, "customer.at": 2}  # fmt: skip
    assert {(d.request_id, d.row) for d in parity.worst} == {
        (id_of(2).hex(), 1),
        (id_of(2).hex(), 2),
    }


def test_the_row_of_another_key_is_found(place):
    """The store mixed keys up, or the record did."""
    key = key_prefix("customer.1") + KeyCodec(CUSTOMER.key_schema).encode([4])
    place.change_record(3, lambda r: msgspec.structs.replace(r, keys=[key, r.keys[1]]))
    parity = place.verified()

    assert parity.mismatches == 1
    assert parity.by_feature["customer.card"] == 1


def test_a_record_that_leads_to_the_row_of_another_request_is_found(make, filled, clock):
    """Training would put what was looked up for one row beside the windows of another."""
    place = make("alone")
    shutil.copytree(filled("alone", clock(LATER, step_us=10 * S)), place.path)
    place.change_record(4, lambda r: msgspec.structs.replace(r, numbers=[1, 1]))

    assert place.verified().mismatches > 0


def test_a_row_that_was_found_for_a_null_key_is_found(place):
    """No key has no row."""
    place.change_record(3, lambda r: msgspec.structs.replace(r, keys=[None, r.keys[1]]))

    assert place.verified().mismatches == 1


def test_a_lookup_whose_loads_are_known_to_one_group_only_is_judged_by_group(place):
    """The store of one group did not answer; the other group's row is compared all the same."""

    def change(record):
        return msgspec.structs.replace(record, as_of=[record.as_of[0], -1], rows=[None, None])

    place.change_record(1, change)
    parity = place.verified()

    assert (parity.unavailable, parity.mismatches) == (1, 1)
    assert not any(name.startswith("shop.") for name in parity.by_feature)


# --- the history is wrong ---


def rewritten_load(history, load, change):
    """A load's file with other rows, and the manifest's word for it."""
    path = history.file(load.load)
    table = change(pq.ParquetFile(path).read())
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return msgspec.structs.replace(load, bytes=path.stat().st_size, rows=table.num_rows)


def with_value(column, row, value):
    def change(table):
        values = table[column].to_pylist()
        values[row] = value
        place = table.schema.get_field_index(column)
        field = table.schema.field(column)
        return table.set_column(place, field, pa.array(values, field.type))

    return change


@pytest.mark.parametrize(
    ("column", "value"), [("x", 3.7500000000000004), ("x", None), ("name", "olD"), ("name", "")]
)
def test_another_value_in_the_history_is_found_in_every_row_that_was_served_it(
    place, column, value
):
    """By a bit; both requests that met the newest row of card 3."""

    def change(loads, history):
        # By key and time: 1 at 100, 2 at 100, 3 at 100 and at 150, ...
        return [rewritten_load(history, loads[1], with_value(column, 3, value)), loads[2]]

    place.change_manifest("customer", change)
    parity = place.verified()

    assert parity.mismatches == 2
    assert parity.by_feature == {f"customer.{column}": 2}
    assert {(d.request_id, d.row) for d in parity.worst} == {
        (id_of(3).hex(), 0), (id_of(5).hex(), 1)
    }  # fmt: skip


def test_another_value_of_a_row_that_nobody_was_served_is_no_mismatch(place):
    """Parity is of what was served: an older row of card 3, a card that nobody asked for."""

    def change(loads, history):
        def other(table):
            return with_value("x", 5, 77.0)(with_value("x", 2, 77.0)(table))

        return [rewritten_load(history, loads[1], other), loads[2]]

    place.change_manifest("customer", change)

    assert place.verified().mismatches == 0


def test_another_event_time_in_the_history_is_found(place):
    """It decides which row is the newest."""

    def change(loads, history):
        later = with_value("at", 0, START + 99 * S)
        return [loads[1], rewritten_load(history, loads[2], later)]

    place.change_manifest("customer", change)
    parity = place.verified()

    # Now load 2 has nothing newer for card 1 than load 1: the row of that would have been served.
    assert parity.mismatches == 1
    assert parity.by_feature == {"customer.*": 1, "customer.x": 1}


def test_a_row_too_many_in_the_history_is_found(place):
    """A newer one of card 7, which was not found."""

    def change(loads, history):
        def more(table):
            rows = [*table.to_pylist(), customer(7, 1, 7.0)]
            return pa.Table.from_pylist(rows, table.schema)

        return [rewritten_load(history, loads[1], more), loads[2]]

    place.change_manifest("customer", change)
    parity = place.verified()

    assert parity.mismatches == 1
    assert parity.by_feature["customer.*"] == 1


@pytest.mark.parametrize(("left_out", "wrong"), [(1, 6), (2, 3)])
def test_a_load_that_the_manifest_does_not_list_is_missed(place, left_out, wrong):
    """Every row that knew it, and every one that was served its rows."""

    def change(loads, _):
        return [load for number, load in loads.items() if number != left_out]

    place.change_manifest("customer", change)
    parity = place.verified()

    assert parity.mismatches == wrong
    assert parity.by_feature["customer.*"] == wrong
    assert not any(name.startswith("shop.") for name in parity.by_feature)


def test_loads_in_another_order_are_found(place):
    """Each is whole, and all their rows are there; but of equal times the later load wins."""

    def change(loads, history):
        one, two = history.file(1), history.file(2)
        aside = one.with_suffix(".aside")
        one.rename(aside)
        two.rename(one)
        aside.rename(two)
        # What each number has is now what the other one had; when it was seen stays.
        names = ("rows", "bytes", "oldest_us", "newest_us")
        return [
            msgspec.structs.replace(loads[number], **{n: getattr(loads[other], n) for n in names})
            for number, other in ((1, 2), (2, 1))
        ]

    place.change_manifest("customer", change)
    parity = place.verified()

    # All but card 7 of request 2, which was never loaded: of card 1 the other value counts now, of
    # card 2 the first load has the newer row, card 3 is not in it.
    assert parity.mismatches == ROWS - 1
    assert not any(name.startswith("shop.") for name in parity.by_feature)


# --- which part is compared ---


def test_since_compares_only_what_came_from_then_on(place):
    """The stored part too; a fault before it is not seen."""
    older = older_row(place)
    place.change_record(1, lambda r: msgspec.structs.replace(r, rows=[None, None]))
    (at,) = [
        entry.meta.arrival_us for _, entry in LogReader(place.path / "log" / "tx.1").read()
        if entry.meta.id == id_of(2)
    ]  # fmt: skip
    every, later = place.verified(), place.verified(since=at - 500 * S)
    never = place.verified(since="2100-01-01")

    assert older is not None
    assert (every.mismatches, later.mismatches) == (2, 0)  # a row of each stored group
    streaming = ["tx", "term"] if place.kind == "alone" else ["tx"]
    assert later.parts == dict.fromkeys([*streaming, "customer", "shop"], ROWS - 1)
    assert (never.rows, never.parts) == (0, {})


def test_a_sample_takes_whole_keys_and_always_the_same(make):
    """Of each group its own keys."""
    place = make("beside")
    cards = list(range(60))
    place.app.materialize("customer", [customer(card, 1, 1.0) for card in cards])
    place.app.materialize("shop", [shop("a", 1, 1), shop("b", 1, 1)])
    place.ask(1, *cards)
    place.ask(2, *cards)
    half, again = place.verified(sample=0.5), place.verified(sample=0.5)
    few, every = place.verified(sample=1e-9), place.verified(sample=1.0)

    assert half.parts == again.parts
    assert 0 < half.parts["customer"] < 120
    assert half.parts["customer"] % 2 == half.parts["tx"] % 2 == 0
    assert half.parts.get("shop", 0) in (0, 60, 120)
    assert every.parts == {"tx": 120, "customer": 120, "shop": 120}
    assert sum(few.parts.values()) <= 2
    for share in (0, -0.1, 1.5):
        with pytest.raises(BadRange, match="HOF-215"):
            place.verified(sample=share)


def test_a_fault_in_a_sampled_key_is_found_and_in_another_one_is_not(make):
    """A share of the keys is a share of the faults."""
    place = make("beside")
    cards = list(range(60))
    place.app.materialize("customer", [customer(card, 1, 1.0) for card in cards])
    place.app.materialize("shop", [shop("a", 1, 1), shop("b", 1, 1)])
    place.ask(1, *cards)

    def change(loads, history):
        def other(table):
            values = pa.array([2.0] * 60)
            return table.set_column(2, table.schema.field("x"), values)

        return [rewritten_load(history, loads[1], other)]

    place.change_manifest("customer", change)
    half = place.verified(sample=0.5)

    assert half.mismatches == half.parts["customer"] < 60


# --- explain ---


def test_explain_shows_both_sides_of_every_stored_feature(place):
    """Of each row of a request, those that the view has not taken too."""
    found = [one.features for one in place.verified().explain(id_of(5)) if not one.windows]

    assert len(found) == 2
    names = {"customer.card", "customer.at", "customer.x", "customer.name", "customer.*",
             "shop.shop", "shop.at", "shop.y", "shop.*"}  # fmt: skip
    assert set(found[0]) == set(found[1]) == names
    assert found[0]["customer.x"] == {"served": 20.5, "replayed": 20.5, "equal": True}
    assert found[0]["customer.*"] == {"served": 2, "replayed": 2, "equal": True}
    assert found[1]["customer.name"] == {"served": "old", "replayed": "old", "equal": True}
    assert found[1]["shop.y"] == {"served": None, "replayed": None, "equal": True}


def test_explain_shows_what_is_wrong_beside_what_should_be(place):
    """In the row that is wrong; the other row of the request is as it was."""
    older = older_row(place)
    place.change_record(2, lambda r: msgspec.structs.replace(r, rows=[older, r.rows[1]]))
    parity = place.verified()
    first, second, third = [
        one.features for one in parity.explain(parity.worst[0].request_id) if not one.windows
    ]

    assert first["customer.x"] == {"served": 1.5, "replayed": 2.5, "equal": False}
    assert first["customer.card"] == {"served": 1, "replayed": 2, "equal": False}
    assert first["shop.y"]["equal"]
    assert all(feature["equal"] for one in (second, third) for feature in one.values())
    assert third["customer.x"] == {"served": None, "replayed": None, "equal": True}


def test_explain_shows_the_streaming_part_too(place):
    """A row of each streaming group, with the events of its windows."""
    found = [one for one in place.verified().explain(id_of(4)) if one.windows]

    assert len(found) == (2 if place.kind == "alone" else 1)
    assert all(one.features["n"]["equal"] for one in found)
    assert len(found[0].windows["n"]["events"]) == found[0].features["n"]["served"] == 3


# --- several streaming groups ---


@pytest.mark.parametrize(("stream", "group"), [("tx.1", TX), ("term.1", TERM)])
def test_a_fault_in_the_log_of_any_streaming_group_is_found(make, stream, group):
    """The second one's as the first one's; the other parts are right."""
    place = make("alone")
    place.app.materialize("customer", [customer(1, 1, 1.0)])
    place.app.materialize("shop", [shop("a", 1, 1), shop("b", 1, 1)])
    for number in range(5):
        place.ask(number, 1, 2)

    def change(entry):
        if entry.meta.id != id_of(3):
            return entry
        message = pa.py_buffer(join_message(entry.answer_head, entry.answer_body))
        answer = pa.ipc.read_record_batch(message, group.schema)
        wrong = with_value("n", 1, 77)(pa.Table.from_batches([answer])).to_batches()[0]
        return Entry(entry.meta, entry.head, entry.body, *encode_batch(wrong))

    place.rewrite(stream, change)
    parity = place.verified()

    assert (parity.mismatches, parity.by_feature) == (1, {f"{group.name}.n": 1})
    (worst,) = parity.worst
    assert (worst.request_id, worst.row, worst.served) == (id_of(3).hex(), 1, 77)
    assert set(parity.parts.values()) == {10}


# --- a view without any streaming group ---


def test_a_view_of_stored_groups_alone_is_verified(make):
    """Its rows are keys."""
    place = make("beside")
    place.app.view("s", 1, STORED)
    place.app.materialize("customer", [customer(1, 1, 1.0)])
    place.app.materialize("shop", [shop("a", 1, 1)])
    place.app.vector("s", keys={"card": [1, 2], "shop": "a"}, request_id=id_of(1))
    healthy = place.verified(view="s")

    def change(loads, history):
        return [rewritten_load(history, loads[1], with_value("x", 0, 2.0))]

    place.change_manifest("customer", change)
    spoiled = place.verified(view="s")

    assert (healthy.rows, healthy.mismatches) == (2, 0)
    assert healthy.parts == {"customer": 2, "shop": 2}
    assert (spoiled.mismatches, spoiled.by_feature) == (1, {"customer.x": 1})
    (explained, _) = spoiled.explain(id_of(1))
    assert explained.features["customer.x"] == {"served": 1.0, "replayed": 2.0, "equal": False}

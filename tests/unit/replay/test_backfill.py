"""A new version is warm from its first request: as if it had been there from the start."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.assemble import backfill_group, open_store
from hofflight.errors import StoreFormat, TransformFailed, UnknownView

S = 1_000_000
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "s": pa.string()}
ALL = {
    "n": hof.count().over("10m"), "sum": hof.sum("x").over("1h"), "life": hof.sum("x").lifetime(),
    "tiled": hof.std("x").over("1h", tile="5m"), "session": hof.count().session("3m"),
    "last": hof.last("s").last(3), "first": hof.first("s").lifetime(),
    "day": hof.mean("x", where=hof.col("x") > 0).tumbling("1h"),
    "kinds": hof.count_distinct("s").over("20m"), "top": hof.top_k("s", 2).over("20m"),
    "median": hof.quantile("x", 0.5).over("20m"),
}  # fmt: skip


def make_group(version=1, **changes):
    fields = {
        "key": "card", "event_time": "ts", "late": "2m", "input": INPUT,
        "windows": {"n": hof.count().over("1m")}, **changes,
    }  # fmt: skip
    return hof.feature_group("g", version=version, **fields)


def event(number):
    back = 300 if number % 23 == 5 else 90 if number % 7 == 3 else 0
    return {
        "card": number % 3, "ts": (10_000 + number * 15 - back) * S,
        "x": (number * 0.1 - 5) * (1e15 if number % 11 == 0 else 1),
        "s": None if number % 13 == 0 else "abcd"[number % 4],
    }  # fmt: skip


def answers(app, numbers, version):
    return [repr(app.vector("g", event(n), version=version).to_dict()) for n in numbers]


@pytest.fixture
def always(tmp_path):
    """What version 2 answers when it was there from the start."""
    with hof.open(tmp_path / "always") as app:
        app.register(make_group())
        app.register(make_group(2, windows=ALL))
        for number in range(400):
            app.vector("g", event(number), version=1)
        return answers(app, range(400, 460), 2)


def filled(path, *, sealed):
    with hof.open(path) as app:
        app.register(make_group())
        for number in range(400):
            app.vector("g", event(number), version=1)
            if sealed and number == 250:
                app.seal()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_backfilled_version_answers_as_if_it_had_always_been_there(tmp_path, always, sealed):
    """Every kind of window, out of order and late rows among the history, bit for bit."""
    path = tmp_path / "store"
    filled(path, sealed=sealed)
    newer = make_group(2, windows=ALL)
    done = backfill_group(path, newer)
    with hof.open(path) as app:
        app.register(newer)
        found = answers(app, range(400, 460), 2)

    assert done == {"number": 400, "keys": 3, "mapped": 0}
    assert found == always


def test_a_backfill_beside_a_running_store_is_taken_up_later(tmp_path, always):
    """What comes meanwhile is folded from the log after the snapshot."""
    path = tmp_path / "store"
    newer = make_group(2, windows=ALL)
    with hof.open(path) as app:
        app.register(make_group())
        for number in range(300):
            app.vector("g", event(number), version=1)
        assert backfill_group(path, newer)["number"] == 300
        for number in range(300, 400):
            app.vector("g", event(number), version=1)
    with hof.open(path) as app:
        app.register(newer)
        assert answers(app, range(400, 460), 2) == always


def test_void_marks_and_rows_this_version_refuses_are_left_out(tmp_path):
    """A request is atomic, in a backfill too."""
    path = tmp_path / "store"
    newer = make_group(2, key="s", windows={"n": hof.count().lifetime()})
    rows = [event(n) for n in range(60)]
    with hof.open(path) as app:
        app.register(make_group())
        for start in range(0, 60, 6):
            app.vector("g", rows[start : start + 6], version=1)
        with pytest.raises(hof.HofError):
            app.vector("g", [{**event(1), "card": None}], version=1)
    backfill_group(path, newer)
    with hof.open(path) as app:
        app.register(newer)
        counts = {
            s: app.vector("g", {**event(70), "s": s}, version=2, store=False).to_dict()["g.n"]
            for s in "abcd"
        }

    kept = [r for a in range(0, 60, 6) for r in rows[a : a + 6]
            if all(row["s"] is not None for row in rows[a : a + 6])]  # fmt: skip
    late = hof.testing.run(newer, kept, batch_rows=6)
    expected = {
        s: 1 + sum(r["s"] == s and not is_late for r, is_late in zip(kept, late.late, strict=True))
        for s in "abcd"
    }
    assert counts == expected


def test_a_long_log_is_rebuilt_in_bulk_at_once(tmp_path, always):
    """`register` alone does it where folding record by record would take long."""
    for name, records in (("bulk", 100), ("fold", 10**9)):
        filled(tmp_path / name, sealed=False)
        settings = hof.load_settings(engine={"rebuild_records": records})
        with hof.open(tmp_path / name, settings=settings) as app:
            app.register(make_group(2, windows=ALL))
            assert answers(app, range(400, 460), 2) == always, name


WIDER = {**INPUT, "cents": pa.int64()}


def with_cents(batch):
    cents = pc.cast(pc.round(pc.fill_null(batch["x"], 0.0)), pa.int64())
    return {name: batch[name] for name in batch.schema.names} | {"cents": cents}


def test_another_input_schema_begins_with_mapped_history(tmp_path):
    """A new log, whose first entries are the old ones through a user's function."""
    path = tmp_path / "store"
    filled(path, sealed=True)
    newer = make_group(2, input=WIDER, windows={"spent": hof.sum("cents").over("30m")})
    with pytest.raises(UnknownView, match="--map"):
        backfill_group(path, newer)
    done = backfill_group(path, newer, mapping=with_cents)
    rows = [{**event(n), "cents": round(event(n)["x"])} for n in range(430)]
    with hof.open(path) as app:
        app.register(newer)
        found = [app.vector("g", row, version=2).to_dict()["g.spent"] for row in rows[400:]]
        parity = app.verify("g", version=2)

    assert done["mapped"] == done["number"] == 400
    assert found == hof.testing.run(newer, rows, batch_rows=1)["spent"][400:]
    assert (parity.rows, parity.unserved, parity.mismatches) == (30, 400, 0)
    with pytest.raises(StoreFormat, match="430 records already"):
        backfill_group(path, newer, mapping=with_cents)


@pytest.mark.parametrize(
    ("mapping", "what"),
    [
        (lambda batch: {"card": batch["card"]}, "is missing"),
        (lambda batch: with_cents(batch.slice(1)), "gave 399 rows for 400"),
        (lambda batch: 1 / 0, "ZeroDivisionError"),
        (lambda batch: {**with_cents(batch), "cents": batch["x"]}, "must be int64"),
    ],
)
def test_a_mapping_that_does_not_fit_changes_nothing(tmp_path, mapping, what):
    """The log stays empty, so a better one may be tried."""
    path = tmp_path / "store"
    filled(path, sealed=False)
    newer = make_group(2, input=WIDER, windows={"spent": hof.sum("cents").over("30m")})
    with pytest.raises(TransformFailed, match=rf"HOF-209.*{what}"):
        backfill_group(path, newer, mapping=mapping)

    assert backfill_group(path, newer, mapping=with_cents)["mapped"] == 400
    with open_store(path) as app:
        app.register(newer)
        assert len(answers_of(app, newer)) == 400


def answers_of(app, group):
    return app.training_data(group.name, version=group.version)

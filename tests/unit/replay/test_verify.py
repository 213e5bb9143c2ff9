"""Parity: what was served against what replay gives, and what is said where they differ."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import hofflight as hof
from hofflight.errors import BadMetadata, BadRange, CodeChanged, NotEqual, UnknownView
from hofflight.testing.parity import prove_parity

S = 1_000_000
INPUT = {"card": pa.int64(), "ts": hof.TIMESTAMP, "x": pa.float64(), "i": pa.int64()}
# What a function may read of its module, and a test may change: as an edit of the file would.
FACTOR = {"value": 2.0}


def make_group(**changes):
    fields = {
        "version": 1, "key": "card", "event_time": "ts", "late": "1m", "input": INPUT,
        "output": {"twice": hof.col("x") * 2},
        "windows": {
            "n": hof.count().over("1h"), "mean": hof.mean("x").over("10m"),
            "sum": hof.sum("i").over("1h"), "top": hof.top_k("i", 2).last(5),
        },
        "derive": {"versus": hof.col("x") / hof.col("mean")},
        **changes,
    }  # fmt: skip
    return hof.feature_group("g", **fields)


def event(number, **changes):
    ts = (10_000 + number * 20) * S
    return {"card": number % 2, "ts": ts, "x": number * 0.1, "i": number % 3, **changes}


@pytest.fixture
def app(tmp_path):
    with hof.open(tmp_path / "store") as app:
        app.register(make_group())
        yield app


def send(app, numbers, **changes):
    return [
        app.vector("g", event(number, **changes), request_id=number.to_bytes(16, "big"))
        for number in numbers
    ]


def change_a_sealed_answer(app, column, value, row):
    """What a bug, a bad disk or a forger would do: the answer in the record is another one."""
    directory = app.path / "sealed" / "g.1"
    path = next(directory.glob("version=1/*/*.parquet"))
    table = pq.ParquetFile(path).read()
    answers = table["_answer"].combine_chunks()
    names = [field.name for field in answers.type]
    columns = dict(zip(names, answers.flatten(), strict=True))
    changed = columns[column].to_pylist()
    changed[row] = value
    columns[column] = pa.array(changed, columns[column].type)
    struct = pa.StructArray.from_arrays([columns[n] for n in names], fields=list(answers.type))
    place = table.schema.get_field_index("_answer")
    pq.write_table(table.set_column(place, table.schema.field(place), struct), path)
    manifest = json.loads((directory / "manifest.json").read_bytes())
    manifest["files"][0]["bytes"] = path.stat().st_size
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return table["_request_id"][row].as_py()


def test_everything_that_was_served_is_equal(app):
    """Late rows, overflows, nulls and NaN among it; live, sealed, and both."""
    send(app, range(20))
    send(app, [20], ts=10_000 * S)
    send(app, [21, 22], i=2**63 - 1)
    send(app, [23, 24], x=None)
    send(app, [25, 26], x=float("nan"))
    before = app.verify("g")
    app.seal()
    send(app, range(30, 40))
    after = app.verify("g")

    assert (before.rows, before.mismatches, before.late) == (27, 0, 1)
    assert (after.rows, after.mismatches, after.late) == (37, 0, 1)
    after.assert_equal()


def test_rows_without_an_answer_are_unserved(app):
    """Events taken in, and peeks: the former count in windows, the latter left no trace."""
    app.ingest("g", [event(1), event(2)])
    app.vector("g", event(3), store=False)
    send(app, [4])
    parity = app.verify("g")

    assert (parity.rows, parity.unserved, parity.mismatches) == (1, 2, 0)


@pytest.mark.parametrize(
    ("column", "value"),
    [("n", 99), ("mean", 1.5), ("mean", None), ("sum", None), ("top", [7]), ("twice", -1.0),
     ("versus", 0.5), ("x", 0.25)],
)  # fmt: skip
def test_any_difference_is_found_and_named(app, column, value):
    """A raw, output, window or derived column, a list, a null in place of a value."""
    send(app, range(20))
    app.seal()
    request_id = change_a_sealed_answer(app, column, value, 7)
    parity = app.verify("g")

    # What is derived is judged by the windows that were served, so it differs with them.
    assert parity.mismatches == 1
    assert parity.by_feature[f"g.{column}"] == 1
    worst = {difference.feature: difference for difference in parity.worst}[f"g.{column}"]
    assert (worst.request_id, worst.row) == (request_id.hex(), 0)
    assert worst.served == value
    with pytest.raises(NotEqual, match=rf"HOF-700: 1 of 20 rows of g differ[^\n]*\n.*g\.{column}"):
        parity.assert_equal()


def test_a_difference_within_the_declared_tolerance_is_none(app):
    """DuckDB's sums may end in other last bits; more than that is told."""
    send(app, range(20))
    app.seal()
    mean = app.training_data("g").column("g.mean")[0].as_py()
    change_a_sealed_answer(app, "mean", mean * (1 + 1e-14), 0)

    assert app.verify("g").by_feature.get("g.mean", 0) == 0


def test_a_view_is_judged_by_its_own_features(app):
    """A difference in a column that the view does not have is no concern of it."""
    app.view("small", 1, ["g.n", "g.x"])
    send(app, range(5))
    app.seal()
    change_a_sealed_answer(app, "twice", -1.0, 2)

    assert app.verify("small").mismatches == 0
    assert app.verify("g").by_feature == {"g.twice": 1}


def test_an_explanation_shows_both_sides_and_the_events(app):
    """The rows of each window, in order, the own one last; nothing of another key."""
    send(app, range(10))
    parity = app.verify("g")
    (found,) = parity.explain((9).to_bytes(16, "big"))

    assert found.features["mean"]["equal"]
    assert found.features["mean"]["served"] == pytest.approx(0.5)
    events = found.windows["mean"]["events"]
    assert [e["x"] for e in events] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert [e["ts"] for e in events] == [event(n)["ts"] for n in (1, 3, 5, 7, 9)]
    assert found.windows["mean"]["window"] == "mean(x).over(10m)"
    assert parity.explain((9).to_bytes(16, "big").hex()) == [found]


def test_events_of_every_kind_of_frame_are_the_frame(tmp_path):
    """As many events as a count over the same frame says."""
    frames = {
        "sliding": hof.count().over("1m"), "tiled": hof.count().over("1m", tile="10s"),
        "alone": hof.count().over("1m", own_row=False), "last": hof.count().last(3),
        "tumbling": hof.count().tumbling("1m"), "session": hof.count().session("30s"),
        "ever": hof.count().lifetime(),
    }  # fmt: skip
    with hof.open(tmp_path / "store") as app:
        app.register(make_group(output={}, windows=frames, derive={}))
        for number, second in enumerate([0, 10, 10, 50, 45, 100, 95, 200, 215]):
            row = {**event(number), "card": 7, "ts": (10_000 + second) * S}
            app.vector("g", row, request_id=number.to_bytes(16, "big"))
        parity = app.verify("g")
        for number in range(9):
            (found,) = parity.explain(number.to_bytes(16, "big"))
            for name in frames:
                counted = found.features[name]["served"]
                assert len(found.windows[name]["events"]) == counted, (number, name)


def test_an_unknown_request_and_a_wrong_id_are_refused(app):
    """Neither is a traceback."""
    send(app, range(2))
    parity = app.verify("g")

    with pytest.raises(UnknownView, match="HOF-201"):
        parity.explain(b"x" * 16)
    for wrong in ("no hex", b"short", "abcd"):
        with pytest.raises(BadMetadata, match="HOF-204"):
            parity.explain(wrong)


def test_since_looks_at_what_arrived_from_then_on(tmp_path):
    """Windows still reach back; only the comparison begins later."""

    class Clock:
        now_us = 1_000 * S

        def wall_us(self):
            return self.now_us

        def monotonic_s(self):
            return self.now_us / 1e6

    clock = Clock()
    with hof.open(tmp_path / "store", clock=clock) as app:
        app.register(make_group())
        send(app, range(5))
        clock.now_us = 2_000 * S
        send(app, range(5, 8))
        assert app.verify("g", since=2_000 * S).rows == 3
        assert app.verify("g", since=3_000 * S).rows == 0
        with pytest.raises(BadRange, match="HOF-215"):
            app.verify("g", since="yesterday")


def test_a_sample_is_whole_keys_and_the_same_ones_each_time(app):
    """So their windows are whole too, and nothing differs."""
    for number in range(300):
        app.vector("g", {**event(number), "card": number % 60})
    one, again = app.verify("g", sample=0.3), app.verify("g", sample=0.3)

    assert one.rows == again.rows
    assert one.rows % 5 == 0
    assert 0 < one.rows < 300
    assert one.mismatches == 0
    for wrong in (0, 1.5, -1, float("nan")):
        with pytest.raises(BadRange, match="HOF-215"):
            app.verify("g", sample=wrong)


def scaled(batch):
    return {"scaled": pc.multiply(batch["x"], FACTOR["value"])}


def with_function():
    return make_group(output={"scaled": pa.float64()}, windows={"s": hof.sum("scaled").over("1h")},
                      derive={})(scaled)  # fmt: skip


def test_a_function_that_answers_otherwise_now_is_found(tmp_path):
    """Its text is the same, so its hash is; what it reads is not."""
    with hof.open(tmp_path / "store") as app:
        app.register(with_function())
        send(app, range(1, 5))
        assert app.verify("g").mismatches == 0
        FACTOR["value"] = 3.0
        try:
            parity = app.verify("g")
        finally:
            FACTOR["value"] = 2.0

    assert parity.by_feature == {"g.scaled": 4, "g.s": 4}


def test_changed_code_is_refused_unless_asked_for(tmp_path):
    """A version never changes where it serves; a reader may hold another text of it."""
    from hofflight.assemble import read_offline

    with hof.open(tmp_path / "store") as app:
        app.register(make_group())
        send(app, range(6))
    changed = make_group(output={"twice": hof.col("x") * 3})
    with read_offline(tmp_path / "store", [changed]) as (offline, _):
        with pytest.raises(CodeChanged, match=r"HOF-507.*g@1 served with code"):
            offline.verify("g")
        parity = offline.verify("g", changed_code=True)

    assert parity.by_feature == {"g.twice": 5}  # x is 0 in the first row
    assert make_group().code_hash() in parity.notes[0]


def test_the_sibling_of_a_version_is_judged_by_its_own_answers(app):
    """Both fold all rows, each answered some of them."""
    app.register(make_group(version=2, windows={"n": hof.count().over("1m")}, derive={}))
    for number in range(12):
        app.vector("g", event(number), version=1 + number % 2)

    one, two = app.verify("g", version=1), app.verify("g", version=2)
    assert (one.rows, one.mismatches) == (6, 0)
    assert (two.rows, two.mismatches) == (6, 0)


def test_the_fixture_for_users_proves_and_finds(tmp_path):
    """Served and replayed in one call; a function that looks at its neighbours is found out."""
    rows = [event(number) for number in range(30)]
    prove_parity(tmp_path / "good", make_group(), rows, batch_rows=7).assert_equal()

    def neighbours(batch):
        return {"scaled": pc.cumulative_sum(batch["x"])}

    bad = make_group(output={"scaled": pa.float64()}, windows={}, derive={})(neighbours)
    with pytest.raises(NotEqual):
        prove_parity(tmp_path / "bad", bad, rows, batch_rows=7).assert_equal()


def test_users_may_name_columns_as_our_sql_does(tmp_path):
    """Input columns and windows called like the relations and columns of the generated text."""
    names = ("late", "tie", "odd", "moved", "o", "r", "back", "newest", "before", "timed")
    group = make_group(
        input={**INPUT, **{name: pa.float64() for name in names[:5]}}, output={},
        windows={name: hof.sum("late").over("1h") for name in names[5:]}, derive={},
    )  # fmt: skip
    rows = [{**event(n % 7), **dict.fromkeys(names[:5], n / 8)} for n in range(40)]
    parity = prove_parity(tmp_path, group, rows, batch_rows=3)

    assert (parity.rows, parity.mismatches) == (40, 0)
    odd = make_group(windows={"odd": hof.count().over("1h"), "answers": hof.count().last(2)},
                     derive={})  # fmt: skip
    assert prove_parity(tmp_path / "odd", odd, [event(n) for n in range(9)]).mismatches == 0

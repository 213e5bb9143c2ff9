"""Hypothesis strategies: any feature group, and histories that are hostile to it.

```python
@given(cases(), requests())
def test_my_engine(case, sizes): ...
```

A history is built from one short byte string a row: hypothesis can drop any row, and fewer bits
mean a simpler row, so failures shrink, at a twentieth of the price of drawing value by value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar

import pyarrow as pa
from hypothesis import strategies as st

from hofflight import limits
from hofflight.features import window as aggregates
from hofflight.features.expression import Expression, col, columns_of
from hofflight.features.group import FeatureGroup, feature_group
from hofflight.features.window import HOLISTIC, Window, takes
from hofflight.wire.schema import TIMESTAMP

Value = Any
Row = dict[str, Value]
T = TypeVar("T")


class Choices:
    """Reads choices off the digits of one whole number; 0 always chooses the first option."""

    def __init__(self, number: int) -> None:
        self._left = number

    def below(self, limit: int) -> int:
        """A number from 0 to limit - 1."""
        self._left, digit = divmod(self._left, limit)
        return digit

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]


# --- values ---------------------------------------------------------------------------------------

Pool = Callable[[Choices], Value]


def _pool(*options: Value) -> Pool:
    return lambda choices: choices.pick(options)


def _any_double(choices: Choices) -> float:
    mantissa = choices.below(2**54) - 2**53
    return math.ldexp(mantissa, choices.below(2_000) - 1_040)  # from subnormal to about 1e305


_inf, _nan, _max = math.inf, math.nan, 1.7976931348623157e308
# A column keeps one pool for a whole history: a single 1e308 would drown every other trouble.
pools: Final[dict[pa.DataType, tuple[Pool, ...]]] = {
    pa.float64(): (
        _pool(1.0, None, 0.1, -0.0, _nan, 0.0, 0.2, 2.5, -7.25, 1e-9),
        _pool(1.0, 1e16, -1e16, 1e30, -1e30, 3e-9, 0.1, -0.3, None),
        lambda choices: (choices.below(20_001) - 5_000) / 100,
        # 2^970 is half a step at the largest double: whether it still rounds down is decided there.
        _pool(1.0, _max, -_max, 1e308, -1e308, 2.0**970, -(2.0**970), 3.5, None),
        _pool(1.0, _inf, 0.5, -_inf, None, _nan, -2.0, _max),
        _pool(1.0, 5e-324, -5e-324, 2.2e-308, -1e-310, 0.0, None),
        # Sums that fall half-way between two doubles, and what tips them over.
        _pool(1.0, 2.0**53, 2.0**-53, 2.0**-106, -(2.0**-106), 3.0, -1.0, -(2.0**53)),
        _any_double,
    ),
    pa.float32(): (
        _pool(1.0, None, 0.5, -0.0, _nan, 0.0, -2.25),
        _pool(1.0, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45, -16777216.0),
        _pool(1.0, _inf, -_inf, None, 0.25),
    ),
    pa.int64(): (
        _pool(1, None, 0, -1, 2, 5, 100),
        _pool(1, 2**63 - 1, -(2**63), 2**62, -(2**62), 0, -1, None),
        _pool(1, 2**53, 2**53 + 1, -(2**53) - 1, 3, None),
        lambda choices: choices.below(2**64) - 2**63,
    ),
    pa.int32(): (_pool(1, None, 0, -3, 7, 2**31 - 1, -(2**31)),),
    pa.uint8(): (_pool(1, None, 0, 255, 7),),
    # U+FFFF before U+1F600: by code point, not by UTF-16 unit.
    pa.string(): (_pool("a", None, "b"), _pool("a", "", "A", "ab", "é", "\uffff", "\U0001f600")),
    pa.binary(): (_pool(b"a", None, b"", b"\x00", b"\xff", b"ab"),),
    pa.bool_(): (_pool(True, None, False), _pool(True, False)),
    TIMESTAMP: (_pool(0, None, -1, 86_399_999_999, 1_700_000_000_123_456, 3_600_000_000),),
    pa.date32(): (_pool(0, None, -1, 19_675),),
}
columns: Final[dict[str, pa.DataType]] = {
    "x": pa.float64(), "n": pa.int64(), "word": pa.string(), "flag": pa.bool_(),
    "y": pa.float64(), "narrow": pa.float32(), "at": TIMESTAMP, "small": pa.int32(),
    "byte": pa.uint8(), "day": pa.date32(), "raw": pa.binary(),
}  # fmt: skip
outputs: Final[dict[str, Expression]] = {
    "twice": col("x") * 2.0,
    "is_a": col("word") == "a",
    "logged": col("x").log1p(),
    "ratio": col("x") / col("y"),
    "next_small": col("small") + 1,
}
TWO_53: Final = 2.0**53  # from here on, not every integer has a double of its own
wheres: Final[tuple[Expression | str, ...]] = (
    "flag",
    col("x") > 0,
    col("x").is_null(),
    ~col("flag"),
    col("flag") | (col("x") < 1.0),
    (col("small") * 2 >= 1) & col("flag"),
    col("word").is_in(["a", "é", ""]),
    col("x").is_in([0.0, 1.0]),
    col("x").fill_null(0.0) >= 0.0,
    col("x") / col("y") > 1.0,
    col("n") > TWO_53,
    col("n") == 2**63 - 1,
    col("narrow") != 1.0,
    col("at").hour() < 1,
    col("at") <= col("ts"),
    col("flag").to_int() - 1 == 0,
    col("is_a"),
    col("logged") >= 0,
    -col("x") < col("y").abs().sqrt(),
)
keys: Final[tuple[dict[str, tuple[pa.DataType, tuple[Value, ...]]], ...]] = (
    {"k": (pa.int64(), (7, -1, 2**63 - 1))},
    {"k": (pa.string(), ("a", "", "é"))},
    # Parts that are equal once glued together.
    {"k": (pa.string(), ("a", "ab")), "k2": (pa.string(), ("bc", "c"))},
    {"k": (pa.int64(), (1, 2)), "k2": (pa.bool_(), (True, False))},
    {"k": (TIMESTAMP, (0, -1)), "k2": (pa.date32(), (0, 1)), "k3": (pa.binary(), (b"", b"\xff"))},
    {"k": (pa.float64(), (0.5, -1.0)), "k2": (pa.int32(), (3,))},
)

# --- groups ---------------------------------------------------------------------------------------

KINDS: Final = ("sliding", "tiled", "last", "tumbling", "session", "lifetime")
# Few and multiples of each other, so that coarse clocks meet their edges.
SIZES: Final = ("10s", "3s", "1s", "1m", "1us", "7us", "1h", "7d", "30d")
TILES: Final = (("10s", "1s"), ("10s", "3s"), ("7us", "2us"), ("1h", "1m"), ("30d", "1h"),
                ("1m", "1m"), ("7d", "1d"))  # fmt: skip
# 0.55 * 20, 0.28 * 25 and 0.56 * 25 exceed a whole number when they are computed in doubles.
QUANTILES: Final = (0.5, 0.1, 0.9, 1.0, 0.25, 0.55, 0.28, 0.56, 0.99, 1e-9, 0.3)


@st.composite
def windows(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Window:
    """One window over `columns`, `outputs`, the key or the event time, of one of these kinds."""
    kind = draw(st.sampled_from(kinds))
    names = [name for name in takes if kind != "lifetime" or name not in HOLISTIC]
    function = draw(st.sampled_from(names))
    where = draw(st.none() | st.sampled_from(wheres))
    own_row = draw(st.sampled_from((True, False)))
    if function == "count" and draw(st.booleans()):
        return _framed(draw, aggregates.count(where=where), kind, own_row)
    readable = {**columns, **_output_types(), "ts": TIMESTAMP}
    column = draw(st.sampled_from([c for c, t in readable.items() if t in takes[function]]))
    make: Callable[..., aggregates.Aggregate] = getattr(aggregates, function)
    if function == "quantile":
        aggregate = make(column, draw(st.sampled_from(QUANTILES)), where=where)
    elif function == "top_k":
        aggregate = make(column, draw(st.sampled_from((1, 2, 3, 20))), where=where)
    else:
        aggregate = make(column, where=where)
    return _framed(draw, aggregate, kind, own_row)


def _framed(draw: st.DrawFn, aggregate: aggregates.Aggregate, kind: str, own_row: bool) -> Window:
    if kind == "tiled":
        size, tile = draw(st.sampled_from(TILES))
        return aggregate.over(size, tile=tile, own_row=own_row)
    if kind == "last":
        return aggregate.last(draw(st.sampled_from((1, 2, 3, 5, 20, 100))), own_row=own_row)
    if kind == "lifetime":
        return aggregate.lifetime(own_row=own_row)
    size = draw(st.sampled_from(SIZES))
    make = {
        "sliding": aggregate.over, "tumbling": aggregate.tumbling, "session": aggregate.session,
    }[kind]  # fmt: skip
    return make(size, own_row=own_row)


def _output_types() -> dict[str, pa.DataType]:
    return {"twice": pa.float64(), "is_a": pa.bool_(), "logged": pa.float64(),
            "ratio": pa.float64(), "next_small": pa.int64()}  # fmt: skip


@st.composite
def feature_groups(
    draw: st.DrawFn, kinds: Sequence[str] = KINDS, windows_max: int = 12
) -> FeatureGroup:
    """A group of 1 to `windows_max` windows, with the columns and outputs that they read."""
    windows_min = draw(st.sampled_from([n for n in (1, 3, 8) if n <= windows_max]))
    drawn = draw(st.lists(windows(kinds), min_size=windows_min, max_size=windows_max))
    return group_of(drawn, key=draw(st.sampled_from(keys)), late=draw(st.sampled_from(LATE)))


LATE: Final = ("10s", "3s", "1us", "1m", "10m", "30d")


def group_of(
    declared: Sequence[Window],
    *,
    key: Mapping[str, tuple[pa.DataType, Sequence[Value]]] = keys[0],
    late: str = "10m",
) -> FeatureGroup:
    """A group of these windows (`w0`, `w1`, ...) with just the columns and outputs they read."""
    read = {name for window in declared for name in window.columns_read()}
    computed = {name: made for name, made in outputs.items() if name in read}
    read.update(name for made in computed.values() for name in columns_of(made))
    return feature_group(
        "history",
        version=1,
        key=tuple(key),
        event_time="ts",
        input={
            **{name: column_type for name, (column_type, _) in key.items()},
            "ts": TIMESTAMP,
            **{name: column_type for name, column_type in columns.items() if name in read},
        },
        output=computed,
        windows={f"w{place}": window for place, window in enumerate(declared)},
        late=late,
    )


# --- histories ------------------------------------------------------------------------------------

STARTS: Final = (
    1_700_000_000_000_000, 0, -5_000_000, -1, limits.event_time_us_min,
    limits.event_time_us_max - 20_000_000,
)  # fmt: skip
UNITS_US: Final = (1_000_000, 1, 500_000, 60_000_000, 3_600_000_000)
ROW_BYTES: Final = 40
# Now and then long enough for blocks of rows and for dropping old ones, without drawing so many.
REPEATS: Final = (1, 1, 1, 1, 1, 1, 3, 8)


@st.composite
def histories(
    draw: st.DrawFn, group: FeatureGroup, rows_max: int = 60, repeats: Sequence[int] = REPEATS
) -> list[Row]:
    """Rows of a group made of `columns`: ties, steps of exactly a window, late and out of order.

    `rows_max` rows are drawn at most, and each makes as many as one of `repeats` says.
    """
    key_values = next(k for k in keys if _is_key_of(k, group))
    clock = _Clock(group, draw(st.sampled_from(STARTS)), draw(st.sampled_from(UNITS_US)))
    column_pools: dict[str, Pool] = {
        field.name: draw(st.sampled_from(pools[field.type]))
        for field in group.input
        if field.name not in key_values and field.name != group.event_time
    }
    entities = draw(st.sampled_from((1, 2, 4)))
    # Lists are short by default; the least length shrinks to 1 before any row does.
    rows_min = draw(st.sampled_from([n for n in (1, 8, 20, 40) if n <= rows_max]))
    numbers = st.binary(min_size=ROW_BYTES, max_size=ROW_BYTES)
    drawn = draw(st.lists(numbers, min_size=rows_min, max_size=rows_max))
    rows = []
    for choices in _each(drawn, draw(st.sampled_from(repeats))):
        entity = choices.below(entities)
        key: Row = {}
        for name, (_, values) in key_values.items():
            entity, digit = divmod(entity, len(values))
            key[name] = values[digit]
        row = {**key, group.event_time: clock.next_us(tuple(key.values()), choices)}
        rows.append({**row, **{name: pool(choices) for name, pool in column_pools.items()}})
    return rows


def _each(drawn: Sequence[bytes], repeats: int) -> Iterator[Choices]:
    """Choices for each drawn row and for `repeats - 1` more that follow from it."""
    for seed in drawn:
        yield Choices(int.from_bytes(seed, "big"))
        random = Random(seed)
        for _ in range(repeats - 1):
            yield Choices(random.getrandbits(8 * ROW_BYTES))


def _is_key_of(key: Mapping[str, tuple[pa.DataType, Any]], group: FeatureGroup) -> bool:
    types = {name: column_type for name, (column_type, _) in key.items()}
    return types == {name: group.input.field(name).type for name in group.key}


class _Clock:
    """Event times of each key, on and around the edges of the group's windows."""

    def __init__(self, group: FeatureGroup, start_us: int, unit_us: int) -> None:
        self._start_us, self._unit_us, self._late_us = start_us, unit_us, group.late_us
        frames = [window.frame for window in group.windows.values()]
        sizes = {frame.size_us for frame in frames} | {frame.tile_us for frame in frames}
        self._sizes = sorted(sizes - {0}) or [unit_us]
        self._seen: dict[tuple[Value, ...], list[int]] = {}

    def next_us(self, key: tuple[Value, ...], choices: Choices) -> int:
        seen = self._seen.setdefault(key, [])
        newest = max(seen, default=self._start_us)
        step = choices.pick(
            ("unit", "tie", "edge", "tie", "unit", "units", "edge", "back", "late", "far", "align")
        )
        nudge = choices.pick((0, -1, 1))
        size = choices.pick(self._sizes)
        if step == "unit":
            time = newest + self._unit_us
        elif step == "units":
            time = newest + choices.below(5) * self._unit_us + nudge
        elif step == "edge":  # a row to which this one is exactly a window away
            time = (choices.pick(seen[-8:]) if seen else newest) + size + nudge
        elif step == "back":
            time = newest - choices.below(5) * self._unit_us
        elif step == "late":  # within, at and beyond the bound
            time = newest - self._late_us + nudge
        elif step == "far":
            time = newest + choices.pick((-1, 1)) * size * 3
        elif step == "align":  # where tumbling windows and tiles begin
            time = newest // size * size + size + nudge
        else:
            time = newest
        time = max(limits.event_time_us_min, min(time, limits.event_time_us_max))
        seen.append(time)
        return time


# --- cases ----------------------------------------------------------------------------------------


class Case:
    """A feature group and a history for it; no dataclass, so that hypothesis prints its repr."""

    def __init__(self, group: FeatureGroup, rows: list[Row]) -> None:
        self.group = group
        self.rows = rows

    @property
    def table(self) -> pa.Table:
        """The rows as Arrow, of the group's input schema."""
        return table_of(self.group, self.rows)

    def __repr__(self) -> str:
        group = self.group
        shown = [f"Case(key={group.key}, late_us={group.late_us}, output={[*group.output]}"]
        shown += [f"  {name} = {window}" for name, window in group.windows.items()]
        shown += [f"  {number}: {row}" for number, row in enumerate(self.rows)]
        return "\n".join((*shown, ")"))


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: Sequence[str] = KINDS,
    *,
    rows_max: int = 60,
    windows_max: int = 12,
    repeats: Sequence[int] = REPEATS,
) -> Case:
    """A group with windows of these kinds, and a history for it: see `histories`."""
    group = draw(feature_groups(kinds, windows_max))
    return Case(group, draw(histories(group, rows_max, repeats)))


def requests() -> st.SearchStrategy[int | list[int] | None]:
    """How a history is cut into requests, as `testing.run` takes it: `batch_rows=`."""
    return st.none() | st.integers(1, 9) | st.lists(st.integers(1, 20), min_size=1, max_size=8)


def table_of(group: FeatureGroup, rows: Sequence[Mapping[str, Value]]) -> pa.Table:
    """Plain rows as a table of the group's input schema."""
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in group.input]
    return pa.table(arrays, schema=group.input)


def plain_values(column: pa.ChunkedArray) -> list[Value]:
    """A column as the oracle reads it: timestamps as microseconds, dates as days, since 1970."""
    column_type = column.type
    if pa.types.is_list(column_type):
        plain = {TIMESTAMP: pa.int64(), pa.date32(): pa.int32()}.get(column_type.value_type)
        return (column.cast(pa.list_(plain)) if plain else column).to_pylist()
    plain = {TIMESTAMP: pa.int64(), pa.date32(): pa.int32()}.get(column_type)
    return (column.cast(plain) if plain else column).to_pylist()


def plain_rows(table: pa.Table) -> list[Row]:
    """A table as rows for the oracle."""
    values = [plain_values(table[name]) for name in table.column_names]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*values, strict=True)]

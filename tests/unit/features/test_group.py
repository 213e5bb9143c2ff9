"""Every mistake in a declaration is an error with a code that names the field and the fix."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import hofflight as hof
from hofflight.errors import (
    DefinitionError,
    InvalidDuration,
    InvalidName,
    InvalidWindow,
    MissingFunction,
    UnknownColumn,
    WrongType,
)
from hofflight.features.window import duration_text, duration_us

INPUT = {
    "card": pa.int64(),
    "ts": hof.TIMESTAMP,
    "amount": pa.float64(),
    "cents": pa.int32(),
    "shop": pa.string(),
    "ok": pa.bool_(),
}


def declare(**changes):
    """A correct group, but for the changes."""
    fields = {"version": 1, "key": "card", "event_time": "ts", "input": INPUT, **changes}
    return hof.feature_group(fields.pop("name", "card_tx"), **fields)


def test_the_full_row_is_input_output_windows_derive_in_declaration_order():
    """The order of the columns is the contract, and so are their types."""
    group = declare(
        output={"log_amount": hof.col("amount").log1p()},
        windows={"n": hof.count().over("10m"), "top": hof.top_k("shop", 2).over("1h")},
        derive={"ratio": hof.col("amount") / hof.col("n")},
    )

    assert group.schema.names == [*INPUT, "log_amount", "n", "top", "ratio"]
    assert group.schema.types[len(INPUT) :] == [
        pa.float64(), pa.int64(), pa.list_(pa.string()), pa.float64(),
    ]  # fmt: skip


RESULT_TYPES = [
    (hof.count("amount"), pa.int64()),
    (hof.count_distinct("shop"), pa.int64()),
    (hof.sum("cents"), pa.int64()),
    (hof.sum("amount"), pa.float64()),
    (hof.mean("cents"), pa.float64()),
    (hof.var("cents"), pa.float64()),
    (hof.std("amount"), pa.float64()),
    (hof.min("cents"), pa.int32()),
    (hof.max("ts"), hof.TIMESTAMP),
    (hof.first("ok"), pa.bool_()),
    (hof.last("shop"), pa.string()),
    (hof.quantile("cents", 0.5), pa.int32()),
    (hof.top_k("cents", 3), pa.list_(pa.int32())),
]


@pytest.mark.parametrize(("aggregate", "expected"), RESULT_TYPES)
def test_each_aggregate_has_the_type_that_the_design_gives_it(aggregate, expected):
    """Counts and integer sums are int64, means float64, the rest keep the column's type."""
    group = declare(windows={"w": aggregate.over("1h")})

    assert group.schema.field("w").type == expected


WRONG = [
    # what is wrong, the change, the error, words that its text must have
    ("name with a capital", {"name": "Card"}, InvalidName, ["group name", "'Card'"]),
    ("name of 64 letters", {"name": "a" * 64}, InvalidName, ["{0,62}"]),
    ("name with a line end", {"name": "card\n"}, InvalidName, ["group name"]),
    ("name that is no text", {"name": None}, InvalidName, ["group name"]),
    ("version 0", {"version": 0}, WrongType, ["card_tx", "version", "got 0"]),
    ("version true", {"version": True}, WrongType, ["version"]),
    ("version as text", {"version": "1"}, WrongType, ["version", "'1'"]),
    ("mode", {"mode": "spark"}, WrongType, ["mode", "polars", "'spark'"]),
    ("key missing", {"key": "cardd"}, UnknownColumn, ["key=", "'cardd'", "did you mean 'card'"]),
    ("no key", {"key": ()}, WrongType, ["key="]),
    ("key is nothing", {"key": None}, DefinitionError, ["key="]),
    ("key twice", {"key": ("card", "card")}, WrongType, ["different columns"]),
    ("time missing", {"event_time": "time"}, UnknownColumn, ["event_time=", "'time'"]),
    ("time is nothing", {"event_time": None}, DefinitionError, ["event_time="]),
    ("time is a number", {"event_time": "amount"}, WrongType, ["'amount'", "hof.TIMESTAMP"]),
    ("time in the key", {"key": ("card", "ts")}, WrongType, ["'ts'", "part of the key"]),
    ("late", {"late": "10 minutes"}, InvalidDuration, ["late=", "'10 minutes'", "'10m'"]),
    ("late 0", {"late": "0s"}, InvalidDuration, ["late="]),
    ("early", {"early": "-1d"}, InvalidDuration, ["early="]),
    ("late as number", {"late": 600}, InvalidDuration, ["late=", "600"]),
    ("late past a century", {"late": "36526d"}, InvalidDuration, ["100 years"]),
    ("no input", {"input": {}}, WrongType, ["input="]),
    ("input as list", {"input": [("card", pa.int64())]}, WrongType, ["input="]),
    ("input name", {"input": {**INPUT, "a b": pa.int64()}}, InvalidName, ["input column", "'a b'"]),
    ("input name no text", {"input": {**INPUT, 7: pa.int64()}}, DefinitionError, ["input"]),
    ("type as text", {"input": {**INPUT, "x": "int64"}}, WrongType, ["'x'", "int64"]),
    ("null type", {"input": {**INPUT, "x": pa.null()}}, WrongType, ["'x'", "null"]),
    ("list type", {"input": {**INPUT, "x": pa.list_(pa.int64())}}, WrongType, ["'x'"]),
    ("uint64", {"input": {**INPUT, "x": pa.uint64()}}, WrongType, ["'x'", "uint64", "int64"]),
    ("time without zone", {"input": {**INPUT, "x": pa.timestamp("us")}}, WrongType,
     ["'x'", "hof.TIMESTAMP"]),
    ("output type", {"output": {"y": "float"}}, WrongType, ["output 'y'"]),
    ("output class", {"output": {"y": float}}, WrongType, ["output 'y'"]),
    ("output column", {"output": {"y": hof.col("amout") + 1}}, UnknownColumn,
     ["output 'y'", "'amout'", "did you mean 'amount'"]),
    ("output of itself", {"output": {"y": hof.col("y") + 1}}, UnknownColumn, ["output 'y'"]),
    ("output name taken", {"output": {"amount": hof.col("amount") + 1}}, InvalidName,
     ["'amount'", "input", "output"]),
    ("window name taken", {"windows": {"shop": hof.count().over("1h")}}, InvalidName,
     ["'shop'", "input", "windows"]),
    ("derive name taken", {"windows": {"n": hof.count().over("1h")}, "derive": {"n": hof.col("n")}},
     InvalidName, ["'n'", "windows", "derive"]),
    ("window column", {"windows": {"w": hof.sum("amont").over("1h")}}, UnknownColumn,
     ["window 'w'", "'amont'", "did you mean 'amount'"]),
    ("window type", {"windows": {"w": hof.sum("shop").over("1h")}}, WrongType,
     ["window 'w'", "sum", "'shop'", "string"]),
    ("window of bool", {"windows": {"w": hof.max("ok").over("1h")}}, WrongType, ["'ok'", "bool"]),
    ("window of time", {"windows": {"w": hof.quantile("ts", 0.5).over("1h")}}, WrongType, ["'ts'"]),
    ("window without frame", {"windows": {"w": hof.count()}}, InvalidWindow,
     ["window 'w'", ".over('10m')"]),
    ("window that is none", {"windows": {"w": hof.col("amount")}}, InvalidWindow, ["window 'w'"]),
    ("lifetime distinct", {"windows": {"w": hof.count_distinct("shop").lifetime()}}, InvalidWindow,
     ["window 'w'", "count_distinct", "over('365d')"]),
    ("lifetime quantile", {"windows": {"w": hof.quantile("amount", 0.5).lifetime()}},
     InvalidWindow, ["quantile"]),
    ("lifetime top_k", {"windows": {"w": hof.top_k("shop", 1).lifetime()}}, InvalidWindow,
     ["top_k"]),
    ("where no bool", {"windows": {"w": hof.count(where=hof.col("amount") + 1).over("1h")}},
     WrongType, ["window 'w'", "where="]),
    ("where column no bool", {"windows": {"w": hof.count(where="shop").over("1h")}}, WrongType,
     ["window 'w'", "where="]),
    ("where unknown", {"windows": {"w": hof.count(where="okk").over("1h")}}, UnknownColumn,
     ["window 'w'", "'okk'", "did you mean 'ok'"]),
    ("where over a window", {"windows": {"n": hof.count().over("1h"),
                                         "w": hof.count(where=hof.col("n") > 1).over("1h")}},
     UnknownColumn, ["window 'w'", "'n'"]),
    ("derive unknown", {"derive": {"d": hof.col("nothing")}}, UnknownColumn,
     ["derive 'd'", "'nothing'"]),
    ("derive of a list", {"windows": {"t": hof.top_k("shop", 2).over("1h")},
                          "derive": {"d": hof.col("t").is_null()}}, WrongType,
     ["derive 'd'", "'t'"]),
    ("derive that is none", {"derive": {"d": pa.float64()}}, WrongType,
     ["derive 'd'", "(type, function)"]),
    ("derive without function", {"derive": {"d": (pa.float64(), 3)}}, WrongType, ["derive 'd'"]),
    ("text plus number", {"output": {"y": hof.col("shop") + 1}}, WrongType,
     ["output 'y'", "string, int"]),
    ("text against number", {"output": {"y": hof.col("shop") == 1}}, WrongType, ["output 'y'"]),
    ("bool less than bool", {"output": {"y": hof.col("ok") < hof.col("ok")}}, WrongType, ["bool"]),
    ("hour of a number", {"output": {"y": hof.col("cents").hour()}}, WrongType, ["hour", "int"]),
    ("log of text", {"output": {"y": hof.col("shop").log()}}, WrongType, ["log", "string"]),
    ("not of a number", {"output": {"y": ~hof.col("cents")}}, WrongType, ["~", "int"]),
    ("in nothing", {"output": {"y": hof.col("shop").is_in([])}}, WrongType, ["is_in"]),
    ("in a mixture", {"output": {"y": hof.col("cents").is_in([1, 2.0])}}, WrongType, ["is_in"]),
    ("fill with text", {"output": {"y": hof.col("amount").fill_null("0")}}, WrongType,
     ["fill_null"]),
    ("too many columns", {"output": {f"c{i}": hof.col("amount") for i in range(600)}}, WrongType,
     ["card_tx", "512"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_a_wrong_declaration_is_refused_with_a_code_and_names_the_field(change, error, words):
    """Nobody should have to read our source to learn which word of theirs is wrong."""
    with pytest.raises(DefinitionError) as caught:
        declare(**change)

    assert isinstance(caught.value, error)
    assert str(caught.value).startswith(f"{caught.value.code}: ")
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "build",
    [
        lambda: hof.count().over("1x"),
        lambda: hof.count().over("10m", tile="x"),
        lambda: hof.count().tumbling(""),
        lambda: hof.count().session("1.5h"),
        lambda: hof.count().over("\u0661m"),  # an Arabic digit is a digit to `\\d`, not to us
        lambda: hof.count().over("1m\n"),
    ],
)
def test_a_duration_is_one_number_and_one_unit(build):
    """A duration that could be read in two ways is not read at all."""
    with pytest.raises(InvalidDuration, match="HOF-104"):
        build()


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: hof.count().over("1h", tile="2h"), "tile='2h'"),
        (lambda: hof.count().last(0), "got 0"),
        (lambda: hof.count().last(10**7), "1000000"),
        (lambda: hof.count().last(True), "True"),
        (lambda: hof.count().last("100"), "'100'"),
        (lambda: hof.quantile("amount", 0), "got 0"),
        (lambda: hof.quantile("amount", 1.1), "got 1.1"),
        (lambda: hof.quantile("amount", float("nan")), "nan"),
        (lambda: hof.top_k("amount", 0), "got 0"),
        (lambda: hof.top_k("amount", 1001), "1000"),
    ],
)
def test_a_window_parameter_out_of_range_is_refused_at_once(build, word):
    """The line that is wrong is the line that fails."""
    with pytest.raises(InvalidWindow, match="HOF-105") as caught:
        build()

    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: hof.sum(hof.col("amount")), "sum() takes the name of a column"),
        (lambda: hof.count(where=True), "where="),
        (lambda: hof.col("x") + None, "NoneType"),
        (lambda: hof.col("x") > [1], "list"),
        (lambda: hof.col("x") + 2**63, "does not fit int64"),
        (lambda: hof.col("x") - (-(2**63) - 1), "does not fit int64"),
        (lambda: hof.col("x").is_in([2**70]), "does not fit int64"),
        (lambda: bool(hof.col("x") == 1), "no truth value"),
        (lambda: hof.col("x") == 1 and hof.col("y") == 2, "& | ~"),
        (lambda: 1 < hof.col("x") < 2, "no truth value"),
        (lambda: hof.col("x") in [hof.col("y"), 1], ".is_in()"),
    ],
)  # fmt: skip
def test_an_expression_that_cannot_mean_anything_is_refused_when_it_is_written(build, word):
    """Python's `and`, `in` and chained comparisons would silently mean something else."""
    with pytest.raises(WrongType, match="HOF-103") as caught:
        build()

    assert word in str(caught.value)


def test_literals_at_the_edges_of_int64_are_taken():
    """The refusal begins exactly past int64."""
    expression = (hof.col("cents") > -(2**63)) & (hof.col("cents") < 2**63 - 1)

    assert declare(output={"y": expression}).output_types == {"y": pa.bool_()}


def test_output_by_type_needs_a_function_and_an_expression_takes_none():
    """A function too few or too many is named before anything is registered."""
    opaque = declare(output={"y": pa.float64()})
    plain = declare(output={"y": hof.col("amount") * 2})

    with pytest.raises(MissingFunction, match=r"HOF-106.*card_tx.*\['y'\]"):
        opaque.require_complete()
    with pytest.raises(MissingFunction, match=r"HOF-106.*card_tx"):
        plain(lambda batch: {})
    with pytest.raises(MissingFunction, match="HOF-106"):
        opaque(3)
    whole = opaque(lambda batch: {"y": batch["amount"]})
    whole.require_complete()
    with pytest.raises(MissingFunction, match="HOF-106"):
        whole(lambda batch: {})


@pytest.mark.parametrize("text", ["1us", "10m", "1h", "90m", "7d", "2w", "1000ms", "36525d"])
def test_a_duration_is_shown_in_a_form_that_reads_back_the_same(text):
    """What the registry shows can be pasted into a definition."""
    assert duration_us(duration_text(duration_us(text))) == duration_us(text)


@pytest.mark.parametrize(
    "change",
    [
        {"windows": {"w": hof.quantile("amount", 0.12345678).over("1h")}},
        {"windows": {"w": hof.quantile("amount", 0.12345671).over("2h")}},
        {"windows": {"w": hof.quantile("amount", 0.12345671).over("1h", own_row=False)}},
        {"windows": {"w": hof.quantile("amount", 0.12345671).over("1h", tile="1m")}},
        {"windows": {"w": hof.quantile("amount", 0.12345671, where="ok").over("1h")}},
        {"windows": {"w": hof.quantile("cents", 0.12345671).over("1h")}},
        {"late": "11m"},
        {"early": "1d"},
        {"mode": "polars"},
        {"key": "shop"},
        {"output": {"y": hof.col("amount") + 1}},
        {"derive": {"y": hof.col("amount") + 1}},
        {"input": {k: INPUT[k] for k in reversed(INPUT)}},
        {"version": 2},
    ],
)
def test_every_change_of_a_definition_changes_its_code_hash(change):
    """What decides a value decides the hash: a change that it missed would be served unseen."""
    windows = {"w": hof.quantile("amount", 0.12345671).over("1h")}
    before = declare(windows=windows)
    after = declare(**{"windows": windows, **change})

    assert before.code_hash() == declare(windows=windows).code_hash()
    assert after.code_hash() != before.code_hash()


def test_a_changed_function_changes_the_code_hash():
    """The source text of transformation and derived functions is part of the definition."""

    def one(batch):
        return {"y": batch["amount"]}

    def other(batch):
        return {"y": batch["cents"].cast("float64")}

    group = declare(output={"y": pa.float64()})
    derived = [declare(derive={"y": (pa.float64(), f)}) for f in (one, other)]

    assert group(one).code_hash() == group(one).code_hash() != group(other).code_hash()
    assert derived[0].code_hash() != derived[1].code_hash()


LIMIT = 75.0


def above(column):
    return pc.greater(column, LIMIT)


def hashed(function):
    return hof.feature_group(
        "hashed", version=1, key="card", event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
        output={"is_large": pa.bool_()},
    )(function).code_hash()  # fmt: skip


def test_the_hash_sees_constants_and_helpers_of_the_module(monkeypatch):
    """A version never changes: neither may what its function reads and calls."""

    def is_large(batch):
        return {"is_large": above(batch["amount"])}

    before = hashed(is_large)
    assert hashed(is_large) == before

    monkeypatch.setitem(globals(), "LIMIT", 76.0)
    assert hashed(is_large) != before


@pytest.mark.parametrize("make", [lambda n: lambda batch: n, Limit := type("Limit", (), {
    "__init__": lambda self, n: setattr(self, "n", n),
    "__call__": lambda self, batch: self.n,
})])  # fmt: skip
def test_the_hash_sees_what_a_function_closes_over(make):
    """Closures and callable objects alike."""
    assert hashed(make(2)) == hashed(make(2))
    assert hashed(make(2)) != hashed(make(3))

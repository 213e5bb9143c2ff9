"""Feature groups: what a user declares, checked completely when it is declared."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, get_args

import pyarrow as pa

from hofflight import limits
from hofflight.errors import InvalidName, InvalidWindow, MissingFunction, WrongType
from hofflight.features.expression import Expression, columns_of, type_of, unknown_column
from hofflight.features.source import source_of
from hofflight.features.window import Window, duration_us
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

Mode = Literal["arrow", "pandas", "polars"]
Function: TypeAlias = Callable[..., Any]
Output: TypeAlias = pa.DataType | Expression
Derived: TypeAlias = Expression | tuple[pa.DataType, Function]
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
KEY_TYPES: Final = COLUMN_TYPES - {pa.float32()}


@dataclass(frozen=True, slots=True)
class Context:
    """What a transformation may know besides its rows; never `now()`, which replay cannot repeat.

    `arrival_time_us`: when the engine took the request, microseconds since 1970, UTC.
    """

    arrival_time_us: int
    group: str
    version: int


@dataclass(frozen=True, eq=False)
class FeatureGroup:
    """A checked declaration: schema, transformation, windows and derived columns of one version.

    Build one with `hof.feature_group`. The order of the columns is the contract: input, output,
    windows, derive, each in declaration order. module: whose code declared it.
    """

    name: str
    version: int
    key: tuple[str, ...]
    event_time: str
    input: pa.Schema
    output: Mapping[str, Output]
    windows: Mapping[str, Window]
    derive: Mapping[str, Derived]
    late_us: int
    early_us: int | None
    mode: Mode
    function: Function | None = None
    output_types: Mapping[str, pa.DataType] = field(default_factory=dict)
    window_types: Mapping[str, pa.DataType] = field(default_factory=dict)
    derive_types: Mapping[str, pa.DataType] = field(default_factory=dict)
    module: str = field(default="", compare=False)

    def __call__(self, function: Function) -> FeatureGroup:
        """Take the transformation: what happens when a group decorates a function.

        Raises:
            MissingFunction: HOF-106, no output column is left for a function, or it has one.
        """
        if self.function is not None or not self.opaque_output:
            msg = f"group {self.name!r} declares no output column by type, so it takes no function"
            raise MissingFunction(msg, hint="declare output={'column': pa.float64()} for it")
        if not callable(function):
            msg = f"group {self.name!r} takes a function, got {function!r}"
            raise MissingFunction(msg)
        return replace(self, function=function)

    @property
    def opaque_output(self) -> tuple[str, ...]:
        """Output columns that the function computes; the others are expressions."""
        return tuple(n for n, o in self.output.items() if not isinstance(o, Expression))

    @property
    def is_opaque(self) -> bool:
        """Whether any user function runs: such groups work in a thread of their own."""
        return bool(self.opaque_output) or any(isinstance(d, tuple) for d in self.derive.values())

    @property
    def schema(self) -> pa.Schema:
        """The full row: input, output, windows, derive."""
        columns = {**self.transformed, **self.window_types, **self.derive_types}
        return pa.schema(list(columns.items()))

    @property
    def transformed(self) -> dict[str, pa.DataType]:
        """Raw and transformed columns: what windows and `where=` may read."""
        return {**{f.name: f.type for f in self.input}, **self.output_types}

    def require_complete(self) -> None:
        """Refuse a group whose function is still missing.

        Raises:
            MissingFunction: HOF-106.
        """
        if self.opaque_output and self.function is None:
            msg = f"group {self.name!r}: output {list(self.opaque_output)} needs a function"
            raise MissingFunction(msg, hint="put @hof.feature_group(...) above the function")

    def definition(self) -> dict[str, Any]:
        """The declaration as plain JSON values, for the registry and for readable diffs."""
        return {
            "name": self.name,
            "version": self.version,
            "key": list(self.key),
            "event_time": self.event_time,
            "input": {f.name: str(f.type) for f in self.input},
            "output": {
                n: f"{o if isinstance(o, Expression) else 'function'} -> {self.output_types[n]}"
                for n, o in self.output.items()
            },
            "windows": {n: f"{w} -> {self.window_types[n]}" for n, w in self.windows.items()},
            "derive": {
                n: f"{d if isinstance(d, Expression) else 'function'} -> {self.derive_types[n]}"
                for n, d in self.derive.items()
            },
            "late_us": self.late_us,
            "early_us": self.early_us,
            "mode": self.mode,
        }

    def source(self) -> str:
        """Source text of the group's functions and what they use of their module, in order."""
        functions = [] if self.function is None else [self.function]
        functions += [d[1] for d in self.derive.values() if isinstance(d, tuple)]
        return "\n\n".join(source_of(f) for f in functions)

    def code_hash(self) -> str:
        """SHA-256 of the definition and the source text, 16 hex digits."""
        text = json.dumps(self.definition(), sort_keys=False) + "\n" + self.source()
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def feature_group(
    name: str,
    *,
    version: int,
    key: str | Sequence[str],
    event_time: str,
    input: Mapping[str, pa.DataType],
    output: Mapping[str, Output] | None = None,
    windows: Mapping[str, Window] | None = None,
    derive: Mapping[str, Derived] | None = None,
    late: str = "10m",
    early: str | None = None,
    mode: Mode = "arrow",
) -> FeatureGroup:
    """Declare a feature group; with output columns given by type, put it above a function.

    ```python
    card_tx = hof.feature_group(
        "card_tx",
        version=1,
        key="card",
        event_time="ts",
        input={"card": pa.int64(), "ts": hof.TIMESTAMP, "amount": pa.float64()},
        output={"log_amount": hof.col("amount").log1p()},
        windows={"mean_30d": hof.mean("amount").over("30d")},
        derive={"versus_mean": hof.col("amount") / hof.col("mean_30d")},
    )
    ```

    Args:
        name: `[a-z][a-z0-9_]{0,62}`.
        version: 1 or more; a changed definition needs a new one.
        key: the entity: a column, or several.
        event_time: a column of type `hof.TIMESTAMP`.
        input: the raw columns, in the order in which they are sent.
        output: columns computed from the raw row: an expression, or a type that the decorated
            function `f(batch, ctx) -> dict[str, pa.Array]` returns.
        windows: aggregates over raw or transformed columns.
        derive: columns computed from everything before: an expression, or (type, function).
        late: rows older than the newest of their key by more than this enter no window.
        early: rows further in the future than this are refused; None accepts any.
        mode: what a function gets and returns: Arrow, pandas (Arrow-backed) or polars.

    Raises:
        DefinitionError: HOF-1xx, naming the field and the fix.
    """
    require_name(name, "group name")
    require_version(name, version)
    if mode not in get_args(Mode):
        msg = f"group {name!r}: mode must be one of {get_args(Mode)}, got {mode!r}"
        raise WrongType(msg)
    schema = checked_schema(name, input, "input")
    keys = tuple(key) if isinstance(key, list | tuple) else (key,)
    require_key(name, keys, schema)
    require_event_time(name, keys, event_time, schema)
    group = FeatureGroup(
        name, version, keys, event_time, schema, dict(output or {}), dict(windows or {}),
        dict(derive or {}), duration_us(late, "late="),
        None if early is None else duration_us(early, "early="), mode,
        module=sys._getframe(1).f_globals.get("__name__", ""),  # noqa: SLF001 as `namedtuple` does
    )  # fmt: skip
    return _typed(group)


def _typed(group: FeatureGroup) -> FeatureGroup:
    """Check every computed column against what stands before it, and note its type."""
    columns = {f.name: f.type for f in group.input}
    _require_names(group)
    output_types = {n: _output_type(n, o, columns) for n, o in group.output.items()}
    columns |= output_types
    for name, window in group.windows.items():
        if not isinstance(window, Window):
            msg = f"window {name!r} has no frame: {window!r}"
            raise InvalidWindow(msg, hint="end it with .over('10m'), .last(100), .lifetime(), ...")
    window_types = {n: w.result_type(columns, n) for n, w in group.windows.items()}
    columns |= window_types
    derive_types = {n: _derive_type(n, d, columns) for n, d in group.derive.items()}
    if len(columns) + len(derive_types) > limits.columns_max:
        msg = f"group {group.name!r} has more than {limits.columns_max} columns"
        raise WrongType(msg)
    return replace(
        group, output_types=output_types, window_types=window_types, derive_types=derive_types
    )


def require_name(name: object, what: str) -> None:
    """Refuse what cannot be a name.

    Raises: InvalidName (HOF-101).
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        msg = f"{what} must match [a-z][a-z0-9_]{{0,62}}, got {name!r}"
        raise InvalidName(msg)


def require_version(name: str, version: object) -> None:
    """Refuse what cannot be a version.

    Raises: WrongType (HOF-103).
    """
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 1 << 31:
        msg = f"{name!r}: version must be a whole number from 1, got {version!r}"
        raise WrongType(msg)


def _require_names(group: FeatureGroup) -> None:
    seen: dict[str, str] = {}
    sections = {"input": group.input.names, "output": group.output, "windows": group.windows,
                "derive": group.derive}  # fmt: skip
    for section, names in sections.items():
        for name in names:
            require_name(name, f"{section} column")
            if name in seen:
                msg = f"group {group.name!r}: column {name!r} is in {seen[name]} and in {section}"
                raise InvalidName(msg, hint="every column of a group has a name of its own")
            seen[name] = section


def checked_schema(name: str, columns: Mapping[str, pa.DataType], argument: str) -> pa.Schema:
    """Columns of group `name` as a schema; `argument` is what the user gave them as.

    Raises: WrongType (HOF-103), InvalidName (HOF-101).
    """
    if not isinstance(columns, Mapping) or not columns:
        msg = f"group {name!r}: {argument}= must map column names to Arrow types"
        raise WrongType(msg)
    for column, column_type in columns.items():
        require_name(column, f"{argument} column")
        if not _is_column_type(column_type):
            is_time = isinstance(column_type, pa.TimestampType)
            hint = "timestamps are hof.TIMESTAMP" if is_time else ""
            msg = f"{argument} column {column!r}: the type {column_type} is not supported"
            raise WrongType(msg, hint=hint or f"one of {', '.join(sorted(map(str, COLUMN_TYPES)))}")
    return pa.schema(list(columns.items()))


def _is_column_type(value: object) -> bool:
    """Text is none: pyarrow's types equal their own names, so "float" would pass a lookup."""
    return isinstance(value, pa.DataType) and value in COLUMN_TYPES


def require_key(name: str, keys: tuple[str, ...], schema: pa.Schema) -> None:
    """Refuse a key that is none of the columns, or of a type that finds nothing.

    Raises: WrongType (HOF-103), UnknownColumn (HOF-102).
    """
    columns = {f.name: f.type for f in schema}
    if not all(isinstance(key, str) for key in keys):
        msg = f"group {name!r}: key= takes names of columns, got {keys!r}"
        raise WrongType(msg)
    if not keys or len(set(keys)) != len(keys):
        msg = f"group {name!r}: key= needs one or more different columns, got {keys!r}"
        raise WrongType(msg)
    for key in keys:
        if key not in columns:
            raise unknown_column(key, columns, f"group {name!r}, key=")
        if columns[key] not in KEY_TYPES:
            msg = f"group {name!r}: key column {key!r} cannot be {columns[key]}"
            raise WrongType(msg)


def require_event_time(
    name: str, keys: tuple[str, ...], event_time: str, schema: pa.Schema
) -> None:
    """Refuse an event time that is no timestamp, or part of the key.

    Raises: WrongType (HOF-103), UnknownColumn (HOF-102).
    """
    columns = {f.name: f.type for f in schema}
    if not isinstance(event_time, str):
        msg = f"group {name!r}: event_time= takes the name of a column, got {event_time!r}"
        raise WrongType(msg)
    if event_time not in columns:
        raise unknown_column(event_time, columns, f"group {name!r}, event_time=")
    if columns[event_time] != TIMESTAMP:
        msg = f"group {name!r}: event_time {event_time!r} is {columns[event_time]}"
        raise WrongType(msg, hint="its type must be hof.TIMESTAMP, timestamp[us, UTC]")
    if event_time in keys:
        msg = f"group {name!r}: event_time {event_time!r} cannot be part of the key"
        raise WrongType(msg)


def _output_type(name: str, output: object, columns: Mapping[str, pa.DataType]) -> pa.DataType:
    if isinstance(output, Expression):
        return type_of(output, columns, f"output {name!r}")
    if not _is_column_type(output):
        msg = f"output {name!r} must be an expression or a supported Arrow type, got {output!r}"
        raise WrongType(msg)
    return output


def _derive_type(name: str, derived: object, columns: Mapping[str, pa.DataType]) -> pa.DataType:
    if isinstance(derived, Expression):
        for column in columns_of(derived):
            if column not in columns:
                raise unknown_column(column, columns, f"derive {name!r}")
        return type_of(derived, columns, f"derive {name!r}")
    if isinstance(derived, tuple) and len(derived) == 2 and callable(derived[1]):  # noqa: PLR2004 a pair
        return _output_type(name, derived[0], columns)
    msg = f"derive {name!r} must be an expression or (type, function), got {derived!r}"
    raise WrongType(msg)

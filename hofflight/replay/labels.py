"""Labels: what became of an event, known days later; loaded in any order, the newest load wins.

A label finds its row by (`request_id`, `row`), or by the group's key and event time. Loads of a
view are Parquet files, numbered in order; a column that a load does not have is left as it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hofflight.errors import BadLabels, BadRequest, HofError, SealDamaged
from hofflight.eventlog.lock import one_at_a_time
from hofflight.replay.files import read_file
from hofflight.replay.parquet import write_whole
from hofflight.wire.envelope import ID_BYTES
from hofflight.wire.rows import to_batch, to_table
from hofflight.wire.schema import COLUMN_TYPES, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hofflight.features.view import View

REQUEST: Final = ("request_id", "row")
_FILE: Final = re.compile(r"[0-9]{8}\.parquet")
_HINT: Final = "a column request_id (and row), or the key columns and the event time"


class Keyed(Protocol):
    """What of a group labels must know: a FeatureGroup, or its record in the registry."""

    @property
    def key(self) -> tuple[str, ...]:
        """The key columns."""
        ...

    @property
    def event_time(self) -> str:
        """The column of event times."""
        ...

    @property
    def input(self) -> pa.Schema:
        """The raw columns."""
        ...


class LabelStore:
    """The loads of one view's labels. One process writes at a time, any may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, labels: pa.Table) -> int:
        """Keep a checked load; gives its number. Readers see all of it or nothing.

        Raises: BadLabels (HOF-214), a column had another type in an earlier load.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with one_at_a_time(self.directory / "lock", wait=True):
            before = self.loads()
            _require_types(labels, before)
            number = 1 + (int(self._files()[-1].stem) if before else 0)
            write_whole(labels, self.directory / f"{number:08d}.parquet")
        return number

    def loads(self) -> list[pa.Table]:
        """Every load, oldest first.

        Raises: SealDamaged (HOF-506).
        """
        found = []
        for path in self._files():
            try:
                found.append(pq.ParquetFile(path, page_checksum_verification=True).read())
            except (OSError, pa.ArrowException) as error:
                msg = f"labels {path.name} of {self.directory.name}: {error}"
                raise SealDamaged(
                    msg, hint="restore the file, or remove it and load again"
                ) from error
        return found

    def _files(self) -> list[Path]:
        if not self.directory.exists():
            return []
        return sorted(p for p in self.directory.iterdir() if _FILE.fullmatch(p.name))


def read_labels(source: Any, raw: pa.Schema | None = None) -> pa.Table:
    """Labels as a table: of a Parquet, CSV, JSON lines or Arrow file, a frame, or rows.

    `raw`: the group's input, for files that do not tell text from numbers.
    Raises: BadLabels (HOF-214), what it names cannot be read.
    """
    try:
        if isinstance(source, str | Path):
            # Digits may be text: a card's number, or a request id that happens to have no letter.
            types = pa.schema([(REQUEST[0], pa.string()), *(raw or ())])
            return read_file(Path(source), types)
        return to_table(source)
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        name = Path(source).name if isinstance(source, str | Path) else type(source).__name__
        msg = f"labels {name!r} cannot be read: {str(error).splitlines()[0][:200]}"
        raise BadLabels(
            msg, hint="Parquet, CSV with a header, JSON lines, Arrow, or rows"
        ) from error


def checked_labels(table: pa.Table, view: View, group: Keyed) -> pa.Table:
    """Labels with the columns that find their row, of exact types, and at least one label.

    Raises: BadLabels (HOF-214), unknown or missing columns, null or double keys, a wrong type.
    """
    what = f"labels of {view.name}"
    if not view.labels:
        raise BadLabels(f"view {view.name!r} declares no labels", hint='labels=["is_fraud"]')
    finding = _finding_schema(table, group, what)
    known = {*finding.names, *view.labels, *REQUEST}
    if unknown := [name for name in table.column_names if name not in known]:
        raise BadLabels(f"{what}: the columns {unknown} are none of it", hint=_HINT)
    names = [name for name in view.labels if name in table.column_names]
    if not names:
        raise BadLabels(f"{what}: there is none of the columns {list(view.labels)}")
    labels = [_label_column(table[name], name, what) for name in names]
    keys = _finding_columns(table, finding, what)
    _require_once(keys, what)
    arrays = [*keys.columns, *labels]
    return pa.Table.from_arrays(arrays, names=[*finding.names, *names])


def is_by_request(labels: pa.Table) -> bool:
    """Whether these labels find their rows by request id."""
    return REQUEST[0] in labels.column_names


def _finding_schema(table: pa.Table, group: Keyed, what: str) -> pa.Schema:
    """The columns by which these labels find their rows, with the types they must have."""
    if len(set(table.column_names)) != table.num_columns:
        raise BadLabels(f"{what}: a column is there twice: {table.column_names}")
    if REQUEST[0] in table.column_names:
        return pa.schema([(REQUEST[0], pa.binary(ID_BYTES)), (REQUEST[1], pa.int32())])
    wanted = [*group.key, group.event_time]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise BadLabels(f"{what}: the columns {missing} are missing", hint=_HINT)
    return pa.schema([group.input.field(name) for name in wanted])


def _finding_columns(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    columns = []
    for field in schema:
        if field.name == REQUEST[1] and field.name not in table.column_names:
            columns.append(pa.repeat(pa.scalar(0, pa.int32()), table.num_rows))
            continue
        column = table[field.name].combine_chunks()
        _require_present(column, field.name, what)
        columns.append(_converted(column, field, what))
    return pa.Table.from_arrays(columns, schema=schema)


def _converted(column: pa.Array, field: pa.Field, what: str) -> pa.Array:
    try:
        column = _plain(column)
        if field.name == REQUEST[0]:
            return _request_ids(column, what)
        if field.type == TIMESTAMP and column.type == pa.string():
            return column.cast(TIMESTAMP)  # refuses text without a zone
        if pa.types.is_timestamp(column.type):
            if column.type.tz is None:
                msg = f"{what}: the times of {field.name!r} have no time zone"
                raise BadLabels(msg, hint="write them as UTC, such as 2026-01-31T12:00:00Z")
            return column.cast(TIMESTAMP)
        if field.name == REQUEST[1]:
            return column.cast(pa.int32())
        schema = pa.schema([field])
        table = pa.table({field.name: column})
        return to_batch(table, schema).column(0)
    except BadLabels:
        raise
    except (BadRequest, pa.ArrowException) as error:
        text = error.message if isinstance(error, HofError) else str(error)
        raise BadLabels(f"{what}: column {field.name!r}: {text}") from error


def _request_ids(column: pa.Array, what: str) -> pa.Array:
    """16 bytes, or their text: 32 hex digits, or a UUID."""
    if pa.types.is_string(column.type):
        digits = pc.replace_substring(column, "-", "")
        good = pc.match_substring_regex(digits, "^[0-9a-fA-F]{32}$")
        bad = pc.index(good, False).as_py()
        if bad >= 0:
            msg = f"{what}, row {bad}: {column[bad].as_py()!r} is no request id"
            raise BadLabels(msg, hint="32 hex digits, a UUID, or 16 bytes")
        return pa.array([UUID(hex=text).bytes for text in digits.to_pylist()], pa.binary(ID_BYTES))
    return column.cast(pa.binary(ID_BYTES))


def _label_column(column: pa.ChunkedArray, name: str, what: str) -> pa.Array:
    plain = _plain(column.combine_chunks())
    if plain.type not in COLUMN_TYPES and not pa.types.is_null(plain.type):
        raise BadLabels(f"{what}: a label cannot be {plain.type} ({name!r})")
    return plain


def _plain(array: pa.Array) -> pa.Array:
    """Without dictionaries and large offsets, which frames bring."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    plain = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(array.type)
    return array.cast(plain) if plain is not None else array


def _require_present(column: pa.Array, name: str, what: str) -> None:
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise BadLabels(f"{what}, row {row}: {name!r} is null")


def _require_once(keys: pa.Table, what: str) -> None:
    names = keys.column_names
    counted = keys.group_by(names).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows:
        first = {name: twice[name][0].as_py() for name in names}
        msg = f"{what}: {twice.num_rows} rows are labelled more than once, such as {first}"
        raise BadLabels(msg, hint="one row of labels for each event and load")


def _require_types(labels: pa.Table, loads: Sequence[pa.Table]) -> None:
    for before in loads:
        for field in before.schema:
            if field.name in labels.column_names:
                now = labels.schema.field(field.name).type
                known = pa.types.is_null(field.type) or pa.types.is_null(now) or now == field.type
                if not known:
                    msg = f"label {field.name!r} is {now}, earlier loads have {field.type}"
                    raise BadLabels(msg, hint="cast it, or declare a new view version")


def label_types(loads: Sequence[pa.Table], names: Sequence[str]) -> Mapping[str, pa.DataType]:
    """The type of each label, of the first load that has values of it; null where none has."""
    found = dict.fromkeys(names, pa.null())
    for load in loads:
        for name in names:
            if name in load.column_names and pa.types.is_null(found[name]):
                found[name] = load.schema.field(name).type
    return found
